// A replay of the lengths of the requests that have really ended here: the same requests, in the same order, on the same number of
// slots, once in batches that wait for their longest, once each in the slot that becomes free first.

/** Requests of the replay, the last ones that have ended, in whole batches; fewest for a result; slots. */
const RACERS_MAX = 24, RACERS_MIN = 8, SLOTS = 4;

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
    // Whole batches only: one that is not full yet would count for what it is not.
    const whole = ended.length - (ended.length % SLOTS);
    const racers = ended.slice(Math.max(0, whole - RACERS_MAX), whole);
    const who = racers.length < RACERS_MIN ? "requests that ended here" : `the last ${racers.length} requests that ended here`;
    byId("race-caption").textContent =
      `A replay of ${who}, with the lengths of their answers, on ${SLOTS} imaginary slots (places in a batch) that compute one token a step. A static batch lasts as long as its longest request; in continuous batching the next request takes a slot as soon as it is free.`;
    if (racers.length < RACERS_MIN) {
      byId("race").replaceChildren(make("p", { class: "empty" }, `Begins when ${RACERS_MIN} requests have ended; ${ended.length} have.`));
      return;
    }
    const lengths = racers.map((racer) => racer.generated);
    const slow = staticBatches(lengths), fast = continuousBatches(lengths);
    const ratio = slow.steps / fast.steps;
    byId("race").replaceChildren(
      make("div", { class: "ratio" }, make("strong", {}, `${ratio.toFixed(2)}×`), make("span", {}, `as fast with continuous batching: ${count(fast.steps, "step")} instead of ${slow.steps.toLocaleString("en")}`)),
      this.#lanes("Static", slow, slow.steps, racers),
      this.#lanes("Continuous", fast, slow.steps, racers),
      make("ul", { class: "legend" }, make("li", {}, make("i", { class: "cell idle" }), "idle slot: it waits for the longest of its batch")));
  }

  #lanes(name, { bars, steps }, most, racers) {
    const place = (bar, begin, end) => ({ left: `${(100 * begin) / most}%`, width: `${(100 * (end - begin)) / most}%`, top: `${(100 * bar.slot) / SLOTS}%`, height: `${100 / SLOTS}%` });
    const marks = bars.flatMap((bar, at) => {
      const { id, generated } = racers[at], letter = this.#palette.letter(id);
      const run = make("i", { title: `${letter}: ${count(generated, "token")}`, style: { ...place(bar, bar.begin, bar.end), "--fill": this.#palette.colour(id) } }, letter);
      return bar.held > bar.end ? [make("i", { class: "idle", title: "idle: waits for the longest", style: place(bar, bar.end, bar.held) }), run] : [run];
    });
    const track = make("div", { class: "track", role: "img", "aria-label": `${name}: ${count(steps, "step")}` }, ...marks);
    return make("div", { class: "lane" }, make("h3", {}, name, make("span", {}, count(steps, "step"))), track);
  }
}
