// The queue and the four stations of a step, with the requests as dots that move through them.

const STATIONS = [
  ["Queue", "requests that wait for a slot and pages"],
  ["Cleanup", "requests that ended give back their slot and pages"],
  ["Refill", "free slots are given to requests from the queue, if there are pages for them"],
  ["Prefill", "prompts are computed, many tokens at once"],
  ["Decode", "each request here gets one more token"],
];
const [QUEUE, CLEANUP, REFILL, PREFILL, DECODE] = [0, 1, 2, 3, 4];
/** Dots of a station that are drawn; of more the number is written. */
const DOTS_MAX = 24;

class Stations {
  #replica;
  #palette;
  #onChoose;
  #dots = new Map();
  #boxes;
  #chosen = null;

  constructor(replica, palette, onChoose) {
    this.#replica = replica;
    this.#palette = palette;
    this.#onChoose = onChoose;
    this.#boxes = STATIONS.map(([name, what], station) =>
      make("div", { class: station === QUEUE ? "station queue" : "station" },
        make("h3", {}, name, make("span", { class: "number" })), make("p", {}, what), make("div", { class: "floor" })));
    this.#layer = make("div", { class: "dots", "aria-hidden": "true" });
    byId("stations").replaceChildren(...this.#boxes, this.#layer);
    new ResizeObserver(() => this.update()).observe(byId("stations"));
  }

  #layer;

  clear() {
    this.#dots.clear();
    this.#layer.replaceChildren();
  }

  choose(id) {
    this.#chosen = id;
    this.update();
  }

  /** Where a request is now. */
  #stationOf(request, rows) {
    if (request.place === ENDED) return CLEANUP;
    if (request.place === WAITS) return QUEUE;
    const row = rows.get(request.id);
    if (row) return row.prefill ? PREFILL : DECODE;
    return isPrefill(request) ? PREFILL : DECODE;
  }

  /** `changes`: what came with this picture, if anything did. */
  update(changes = null) {
    const rows = new Map(this.#replica.rows.map((row) => [row.id, row]));
    const at = STATIONS.map(() => []);
    for (const request of this.#replica.requests.values()) at[this.#stationOf(request, rows)].push(request);
    const rowsOf = (all, station) => {
      const width = this.#boxes[station].querySelector(".floor").clientWidth;
      return Math.ceil(Math.min(all.length, DOTS_MAX) / Math.max(1, Math.floor(width / 28)));
    };
    const rowsOfDots = Math.max(1, ...at.map(rowsOf));
    byId("stations").style.setProperty("--dot-rows", String(rowsOfDots));
    const origin = byId("stations").getBoundingClientRect();
    const shown = new Set();
    at.forEach((requests, station) => {
      const box = this.#boxes[station];
      if (station > REFILL || station === QUEUE) this.#write(station, requests.length ? String(requests.length) : "");
      const floor = box.querySelector(".floor").getBoundingClientRect();
      const columns = Math.max(1, Math.floor(floor.width / 28));
      requests.sort((a, b) => a.id - b.id).slice(0, DOTS_MAX).forEach((request, place) => {
        const x = floor.left - origin.left + 14 + (place % columns) * 28;
        const y = floor.top - origin.top + 14 + Math.floor(place / columns) * 28;
        this.#place(request, x, y, rows.has(request.id));
        shown.add(request.id);
      });
    });
    if (changes) this.#writePassed(changes.events);
    for (const [id, dot] of this.#dots) {
      if (shown.has(id)) continue;
      this.#dots.delete(id);
      dot.classList.add("leaving");
      setTimeout(() => dot.remove(), calm.matches ? 0 : 500);
    }
  }

  #write(station, words) {
    const box = this.#boxes[station];
    box.querySelector(".number").textContent = words;
    box.classList.toggle("busy", words !== "");
  }

  /** Who was let in with these steps, and who left: they are in the next station, or gone, when it is seen. */
  #writePassed(events) {
    const letters = (wanted) => events.filter(([kind]) => kind === wanted).map(([, id]) => this.#palette.letter(id));
    const [ended, begun] = [letters("e"), letters("a")];
    this.#write(CLEANUP, ended.length > 4 ? `${ended.length} out` : ended.length ? `${list(ended)} out` : "");
    this.#write(REFILL, begun.length > 4 ? `${begun.length} in` : begun.length ? `${list(begun)} in` : "");
  }

  #place(request, x, y, inStep) {
    let dot = this.#dots.get(request.id);
    if (!dot) {
      dot = make("span", { class: "dot", onclick: () => this.#onChoose(request.id) }, this.#palette.letter(request.id));
      dot.style.setProperty("--fill", this.#palette.colour(request.id));
      this.#layer.append(dot);
      this.#dots.set(request.id, dot);
    }
    dot.style.setProperty("transform", `translate(${x - 12}px, ${y - 12}px)`);
    dot.classList.toggle("still", !inStep);
    dot.classList.toggle("muted", this.#chosen !== null && this.#chosen !== request.id);
  }
}
