// A race on the lengths of the requests that have really ended here: the same requests, in the same order, on the same number of
// slots, once in batches that wait for their longest, once each in the slot that becomes free first.

/** Requests of the race, the last ones that have ended; fewest for a result; slots. */
const RACERS_MAX = 24, RACERS_MIN = 4, SLOTS = 4;

/** When each request begins and ends, in steps: batches of `SLOTS`, each as long as its longest. */
function staticBatches(lengths) {
  const bars = [];
  let begin = 0;
  for (let at = 0; at < lengths.length; at += SLOTS) {
    const batch = lengths.slice(at, at + SLOTS);
    const longest = Math.max(...batch);
    batch.forEach((length, slot) => bars.push({ slot, begin, end: begin + length, held: begin + longest }));
    begin += longest;
  }
  return { bars, steps: begin };
}

/** The same where the next request takes the slot that is free first. */
function continuousBatches(lengths) {
  const free = Array.from({ length: SLOTS }, () => 0);
  const bars = lengths.map((length) => {
    const slot = free.indexOf(Math.min(...free));
    const begin = free[slot];
    free[slot] = begin + length;
    return { slot, begin, end: free[slot], held: free[slot] };
  });
  return { bars, steps: Math.max(...free) };
}

class Race {
  #replica;
  #palette;
  #shown = -1;

  constructor(replica, palette) {
    this.#replica = replica;
    this.#palette = palette;
  }

  clear() {
    this.#shown = -1;
  }

  update() {
    const { ended } = this.#replica;
    if (ended.length === this.#shown) return;
    this.#shown = ended.length;
    const racers = ended.slice(-RACERS_MAX);
    const who = racers.length < RACERS_MIN ? "Requests that ended here" : `The last ${count(racers.length, "request")} that ended here`;
    byId("race-caption").textContent =
      `${who}, in the order of their ends and as long as they really were, once more on ${SLOTS} slots of a token each step: a static batch is over when its longest request is, and keeps its other slots waiting; in continuous batching the next request takes a slot as soon as it is free.`;
    if (racers.length < RACERS_MIN) {
      byId("race").replaceChildren(make("p", { class: "empty" }, `Begins when ${RACERS_MIN} requests have ended; ${racers.length} have.`));
      return;
    }
    const lengths = racers.map((racer) => racer.generated);
    const slow = staticBatches(lengths), fast = continuousBatches(lengths);
    const ratio = slow.steps / fast.steps;
    byId("race").replaceChildren(
      make("div", { class: "ratio" }, make("strong", {}, `${ratio.toFixed(2)}×`), make("span", {}, `${count(slow.steps, "step")} against ${fast.steps}`)),
      this.#lanes("Static", slow, slow.steps, racers),
      this.#lanes("Continuous", fast, slow.steps, racers));
  }

  #lanes(name, { bars, steps }, most, racers) {
    const place = (bar, begin, end) => ({ left: `${(100 * begin) / most}%`, width: `${(100 * (end - begin)) / most}%`, top: `${(100 * bar.slot) / SLOTS}%`, height: `${100 / SLOTS}%` });
    const marks = bars.flatMap((bar, at) => {
      const { id, generated } = racers[at], letter = this.#palette.letter(id);
      const run = make("i", { title: `${letter}: ${count(generated, "token")}`, style: { ...place(bar, bar.begin, bar.end), "--fill": this.#palette.colour(id) } }, letter);
      return bar.held > bar.end ? [make("i", { class: "idle", title: "waits for the longest", style: place(bar, bar.end, bar.held) }), run] : [run];
    });
    const track = make("div", { class: "track", role: "img", "aria-label": `${name}: ${count(steps, "step")}` }, ...marks);
    return make("div", { class: "lane" }, make("h3", {}, name, make("span", {}, count(steps, "step"))), track);
  }
}
