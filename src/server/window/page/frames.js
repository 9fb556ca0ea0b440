// The page frames of a layer group: a cell each, or a canvas of many, the bitmask of free ones, and the pages of the chosen request
// with arrows to their frames.

/** Frames that change in one picture and flash; more are too fast to be seen. */
const FLASHES_MAX = 40;
/** Pages of a request that are drawn in a row. */
const LOGICAL_MAX = 128;
/** More frames than these are drawn on a canvas, several to a cell. */
const CELLS_MAX = 2000;
/** Cells of the canvas, at most. */
const CANVAS_CELLS_MAX = 12000;

class Frames {
  #replica;
  #palette;
  #group = 0;
  #cells = [];
  #canvas = null;
  #chosen = null;
  #focused = 0;
  /** The frame that was pointed at last. */
  #described = -1;

  constructor(replica, palette) {
    this.#replica = replica;
    this.#palette = palette;
    byId("frames").addEventListener("keydown", (event) => this.#onKey(event));
    byId("frames").addEventListener("focusin", (event) => this.#describe(this.#cells.indexOf(event.target)));
    byId("frames").addEventListener("pointerover", (event) => this.#describe(this.#cells.indexOf(event.target.closest?.(".cell"))));
    new ResizeObserver(() => this.#fit()).observe(byId("map"));
  }

  get #frames() {
    return this.#replica.groups[this.#group] ?? [];
  }

  get #columns() {
    return Math.max(1, Math.min(4, Math.floor(byId("map").clientWidth / (8 * 40)))) * 8;
  }

  /** As many columns as there is room for, in words of eight like the bitmask. */
  #fit() {
    byId("frames").style.setProperty("--columns", String(this.#columns));
    this.#writeBits();
    this.#drawArrows();
  }

  /** Everything anew. */
  begin() {
    this.#group = Math.min(this.#group, Math.max(0, this.#replica.groups.length - 1));
    this.#makeTabs();
    this.#makeCells();
    this.#frames.forEach((_, frame) => this.#show(frame));
    this.#finish();
  }

  /** Shows what changed, with flashes. */
  update(changes) {
    const mine = changes.frames.filter(([group]) => group === this.#group);
    for (const [, frame] of mine) this.#show(frame);
    if (!calm.matches && mine.length && mine.length < FLASHES_MAX) {
      // One look at the layout ends all animations of before, so that they can begin anew.
      void byId("frames").offsetWidth;
      for (const [, frame, before] of mine) this.#flash(frame, before);
    }
    this.#finish();
  }

  choose(id) {
    this.#chosen = id;
    this.#frames.forEach((_, frame) => this.#show(frame));
    this.#finish();
  }

  #finish() {
    if (this.#canvas) this.#paint();
    else this.#describe(this.#described);
    this.#writeBits();
    this.#showLegend();
    this.#drawLogical();
    this.#drawArrows();
  }

  #makeTabs() {
    const tabs = byId("groups");
    tabs.hidden = this.#replica.groups.length < 2;
    tabs.replaceChildren(
      ...this.#replica.groups.map((_, group) =>
        make("button", {
          type: "button",
          "aria-pressed": String(group === this.#group),
          onclick: () => {
            this.#group = group;
            this.begin();
          },
        }, `Group ${group}`)));
  }

  #makeCells() {
    const frames = this.#frames.length;
    const many = frames > CELLS_MAX;
    byId("frames-range").textContent = frames ? `[0..${frames - 1}]` : "";
    byId("frames-caption").textContent = many
      ? "The memory for keys and values (what attention keeps of each token), in frames of one page; each cell stands for several, and is as full as they are."
      : `The memory for keys and values (what attention keeps of each token), in frames of one page of ${this.#replica.about.page_tokens} tokens. Any free frame takes the next page of any request, so the pages of a request are scattered.`;
    const box = byId("frames");
    box.className = many ? "canvas" : "cells";
    byId("frame-info").hidden = many;
    if (many) {
      this.#cells = [];
      this.#canvas = make("canvas", { role: "img", "aria-label": `${frames} page frames` });
      box.replaceChildren(this.#canvas);
      box.removeAttribute("role");
      return;
    }
    this.#canvas = null;
    box.setAttribute("role", "group");
    box.setAttribute("aria-label", "Page frames; the arrow keys go from one to the next");
    this.#cells = this.#frames.map((_, frame) => make("div", { class: "cell free", tabIndex: frame ? -1 : 0, role: "img" }));
    box.replaceChildren(...this.#cells);
  }

  /** Requests that own a frame. */
  #requestsOf(owners) {
    return owners.filter(([kind]) => kind === OF_REQUEST).map(([, id]) => id);
  }

  /** The request that had a frame before: its colour shows when another comes. */
  #lastOf(frame) {
    return this.#replica.last[this.#group].get(frame);
  }

  #show(frame) {
    const cell = this.#cells[frame];
    if (!cell) return;
    const owners = this.#frames[frame];
    const ids = this.#requestsOf(owners);
    const pinned = owners.some(([kind]) => kind === OF_PIN);
    const state = ids.length > 1 ? "both" : ids.length ? "mine" : pinned ? "pinned" : owners.length ? "cached" : "free";
    const muted = this.#chosen !== null && !ids.includes(this.#chosen);
    const chosen = this.#chosen !== null && !muted;
    cell.className = `cell ${state}${muted ? " muted" : chosen ? " chosen" : ""}`;
    cell.style.setProperty("--fill", this.#fill(ids));
    cell.replaceChildren(...this.#label(frame, owners, ids));
    cell.setAttribute("aria-label", this.#words(frame));
  }

  /** One colour, or a stripe for each owner; none of what is cached. */
  #fill(ids) {
    if (!ids.length) return "transparent";
    if (ids.length === 1) return this.#palette.colour(ids[0]);
    const stops = ids.map((id, at) =>
      `${this.#palette.colour(id)} ${(100 * at) / ids.length}% ${(100 * (at + 1)) / ids.length}%`);
    return `linear-gradient(90deg, ${stops.join(", ")})`;
  }

  #label(frame, owners, ids) {
    const number = make("i", {}, String(frame));
    if (!owners.length) return [number];
    const index = owners[0][2];
    const who = ids.length > 3 ? `×${ids.length}` : ids.map((id) => this.#palette.letter(id)).join("");
    return [number, make("b", {}, who || "\u200b"), make("span", {}, String(index))];
  }

  /** A frame in a sentence. */
  #words(frame) {
    const owners = this.#frames[frame] ?? [];
    if (!owners.length) return `Frame ${frame} is free.`;
    const ids = this.#requestsOf(owners);
    const inTree = owners.some(([kind]) => kind === OF_TREE);
    const page = `page ${owners[0][2]}`;
    const letters = list(ids.map((id) => this.#palette.letter(id)));
    if (ids.length > 1) return `Frame ${frame} holds ${page} of ${letters}: they begin with the same tokens and share it.`;
    if (ids.length) return `Frame ${frame} holds ${page} of ${letters}${inTree ? ", full, and in the prefix tree" : ", not full yet"}.`;
    if (owners.some(([kind]) => kind === OF_PIN)) return `Frame ${frame} holds ${page} of a pinned prefix.`;
    return `Frame ${frame} holds ${page} of a text that no request uses now. It is cached: a request that begins with this text reuses it; it is given up when a frame is needed and none is free.`;
  }

  #flash(frame, before) {
    const cell = this.#cells[frame];
    if (!cell) return;
    const now = this.#frames[frame];
    const mine = this.#requestsOf(now);
    const old = this.#requestsOf(before);
    if (mine.some((id) => !old.includes(id))) {
      // A frame that comes from another request shows whose it was, and fills with the new colour.
      const last = this.#lastOf(frame);
      const from = old.length || last === undefined ? "var(--flash)" : this.#palette.colour(last);
      cell.style.setProperty("--from", from);
      cell.classList.add(old.length ? "shared-now" : "allocated");
    } else if (!now.length) {
      cell.classList.add("freed");
    }
  }

  #describe(frame) {
    if (frame === undefined || frame < 0) return;
    this.#described = frame;
    const words = this.#words(frame);
    if (byId("frame-info").textContent !== words) byId("frame-info").textContent = words;
  }

  #onKey(event) {
    const columns = getComputedStyle(byId("frames")).gridTemplateColumns.split(" ").length;
    const by = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[event.key];
    const at = event.key === "Home" ? 0 : event.key === "End" ? this.#cells.length - 1 : this.#focused + (by ?? NaN);
    const cell = this.#cells[at];
    if (!cell) return;
    event.preventDefault();
    this.#cells[this.#focused].tabIndex = -1;
    this.#focused = at;
    cell.tabIndex = 0;
    cell.focus();
  }

  /** The legend has what can be seen now. */
  #showLegend() {
    byId("legend-ring").hidden = byId("legend-sample").hidden = this.#canvas !== null;
    byId("legend-pinned").hidden = !this.#frames.some((owners) => owners.some(([kind]) => kind === OF_PIN));
  }

  /** 1 where a frame is free, as the allocator has it: a line for each row of cells, in words of 8. */
  #writeBits() {
    const frames = this.#frames;
    const free = frames.reduce((sum, owners) => sum + (owners.length === 0), 0);
    if (this.#canvas) {
      byId("bitmask").textContent = `${count(free, "frame")} of ${frames.length.toLocaleString("en")} free`;
      byId("bitmask-caption").hidden = true;
      return;
    }
    byId("bitmask-caption").hidden = false;
    const lines = [], bits = frames.map((owners) => (owners.length ? "0" : "1"));
    for (let at = 0; at < bits.length; at += this.#columns) {
      const line = bits.slice(at, at + this.#columns).join("");
      lines.push(make("span", {}, line.replace(/.{8}(?=.)/g, "$& ")));
    }
    byId("bitmask").replaceChildren(...lines);
  }

  /** The pages of the chosen request, in their order. */
  #drawLogical() {
    const box = byId("logical");
    const request = this.#replica.requests.get(this.#chosen);
    if (!request) {
      box.replaceChildren(make("span", { class: "empty" }, "Choose a request to see its pages in order, each with an arrow to its frame."));
      return;
    }
    const table = this.#replica.table(request.id, this.#group);
    const { letter } = this.#palette.of(request.id);
    const words = table.length
      ? `Pages of ${letter}, in order: ${count(table.length, "page")} for ${count(request.tokens, "token")}`
      : `${letter} waits, and has no pages`;
    const pages = table.slice(0, LOGICAL_MAX).map((frame, index) =>
      make("i", { title: `Page ${index} of ${letter} lies in frame ${frame}` }, String(index)));
    box.style.setProperty("--fill", this.#palette.colour(request.id));
    if (table.length > LOGICAL_MAX) pages.push(`and ${table.length - LOGICAL_MAX} more`);
    box.replaceChildren(make("span", {}, words), make("div", {}, ...pages));
  }

  #drawArrows() {
    const svg = byId("arrows");
    const table = this.#chosen === null || this.#canvas ? [] : this.#replica.table(this.#chosen, this.#group);
    const pages = byId("logical").querySelectorAll("i");
    if (!table.length || pages.length === 0) return svg.replaceChildren();
    const origin = byId("map").getBoundingClientRect();
    svg.setAttribute("viewBox", `0 0 ${origin.width} ${origin.height}`);
    svg.style.setProperty("--fill", this.#palette.colour(this.#chosen));
    svg.replaceChildren(...[...pages].flatMap((page, index) => {
      const cell = this.#cells[table[index]];
      if (!cell) return [];
      const from = page.getBoundingClientRect(), to = cell.getBoundingClientRect();
      const x0 = from.left + from.width / 2 - origin.left, y0 = from.bottom - origin.top;
      const x1 = to.left + to.width / 2 - origin.left, y1 = to.top - origin.top + 1;
      const bend = Math.max(14, (y1 - y0) / 2);
      const line = `M${x0} ${y0} C${x0} ${y0 + bend} ${x1} ${y1 - bend} ${x1} ${y1 - 4}`;
      return [
        draw("path", { class: "halo", d: line }),
        draw("path", { d: line }),
        draw("path", { class: "tip", d: `M${x1 - 3.5} ${y1 - 6} L${x1 + 3.5} ${y1 - 6} L${x1} ${y1} Z` }),
      ];
    }));
  }

  /** Many frames: each cell of the canvas has the colour of who owns most of its frames, and is as strong as it is full. */
  #paint() {
    const frames = this.#frames;
    const each = Math.ceil(frames.length / CANVAS_CELLS_MAX);
    const cells = Math.ceil(frames.length / each);
    const width = Math.max(200, byId("frames").clientWidth), size = Math.max(4, Math.min(12, Math.floor(Math.sqrt((width * 420) / cells))));
    const columns = Math.floor(width / size), rows = Math.ceil(cells / columns);
    const scale = devicePixelRatio || 1;
    this.#canvas.width = width * scale;
    this.#canvas.height = rows * size * scale;
    this.#canvas.style.height = `${rows * size}px`;
    const context = this.#canvas.getContext("2d");
    context.scale(scale, scale);
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(name);
    for (let cell = 0; cell < cells; cell++) {
      const tally = new Map();
      let used = 0, cached = 0;
      for (const owners of frames.slice(cell * each, (cell + 1) * each)) {
        const [id] = this.#requestsOf(owners);
        if (id !== undefined) tally.set(id, (tally.get(id) ?? 0) + 1), used++;
        else if (owners.length) cached++;
      }
      const x = (cell % columns) * size, y = Math.floor(cell / columns) * size;
      const [most] = [...tally].sort((a, b) => b[1] - a[1])[0] ?? [];
      const chosen = this.#chosen === null || tally.has(this.#chosen);
      context.globalAlpha = most === undefined ? (cached ? 0.5 : 1) : (chosen ? 0.35 + (0.65 * used) / each : 0.3);
      context.fillStyle = most === undefined ? colour(cached ? "--cached" : "--free") : colour(`--c${this.#palette.of(this.#chosen !== null && chosen ? this.#chosen : most).colour}`);
      context.fillRect(x + 0.5, y + 0.5, size - 1, size - 1);
    }
  }
}
