// The requests, one of which may be chosen, and what happened to them.

/** Entries of the log. */
const LOG_MAX = 40;

class Requests {
  #replica;
  #palette;
  #onChoose;
  #chosen = null;
  #mine = new Set();
  #buttons = new Map();

  constructor(replica, palette, onChoose) {
    this.#replica = replica;
    this.#palette = palette;
    this.#onChoose = onChoose;
    byId("requests").addEventListener("keydown", (event) => this.#onKey(event));
  }

  /** A request of the chat. */
  addMine(id) {
    this.#mine.add(id);
  }

  choose(id) {
    this.#chosen = this.#chosen === id ? null : id;
    this.update();
    this.#onChoose(this.#chosen);
  }

  update() {
    const requests = [...this.#replica.requests.values()].sort((a, b) => a.id - b.id);
    if (this.#chosen !== null && !this.#replica.requests.has(this.#chosen)) {
      this.#chosen = null;
      this.#onChoose(null);
    }
    const rows = new Map(this.#replica.rows.map((row) => [row.id, row]));
    const shown = requests.slice(0, 64).map((request) => this.#show(request, rows.get(request.id)));
    for (const id of this.#buttons.keys()) if (!this.#replica.requests.has(id)) this.#buttons.delete(id);
    const box = byId("requests");
    if (shown.some((button, at) => box.children[at] !== button) || box.children.length !== shown.length) {
      const focused = document.activeElement;
      box.replaceChildren(...shown);
      if (shown.includes(focused)) focused.focus();
    }
    if (!shown.length) box.replaceChildren(make("p", { class: "empty" }, "Nobody asks for anything just now."));
    const first = shown.find((button) => button.tabIndex === 0) ?? shown[0];
    shown.forEach((button) => (button.tabIndex = button === first ? 0 : -1));
  }

  #show(request, row) {
    let button = this.#buttons.get(request.id);
    if (!button) {
      button = make("button", { type: "button", class: "request", role: "option", onclick: () => this.choose(request.id) },
        make("b", {}), make("span", { class: "what" }), make("span", { class: "bar" }, make("i", {}), make("u", {})), make("q", {}));
      button.style.setProperty("--fill", this.#palette.colour(request.id));
      this.#buttons.set(request.id, button);
    }
    const [letter, what, bar, quote] = button.children;
    letter.textContent = this.#palette.letter(request.id);
    what.textContent = this.#words(request, row);
    // The prompt and what was generated, as parts of all that it has now.
    const most = Math.max(request.prompt + 1, request.tokens, 96);
    bar.style.setProperty("--computed", `${(100 * Math.min(request.computed, request.prompt)) / most}%`);
    bar.style.setProperty("--generated", `${(100 * Math.max(0, request.tokens - request.prompt)) / most}%`);
    const text = plain(this.#replica.texts.get(request.id) ?? "");
    quote.textContent = text.length > 90 ? `…${text.slice(-88)}` : text;
    quote.hidden = !text;
    button.classList.toggle("waits", request.place === WAITS);
    button.setAttribute("aria-selected", String(request.id === this.#chosen));
    return button;
  }

  #words(request, row) {
    const mine = this.#mine.has(request.id) ? "yours, " : "";
    const generated = request.tokens - request.prompt;
    const times = request.preemptions ? `, sent back ${request.preemptions === 1 ? "once" : `${request.preemptions} times`}` : "";
    if (request.place === ENDED) return `${mine}done: ${count(generated, "token")}`;
    if (request.place === WAITS) {
      const why = request.preemptions ? "waits to go on" : "waits";
      return `${mine}${why}${times} · ${count(request.tokens, "token")}`;
    }
    if (request.paused) return `${mine}paused, its reader is slow${times}`;
    if (row?.prefill || (request.computed < request.prompt)) {
      return `${mine}prefill ${request.computed} of ${request.prompt}${times}`;
    }
    return `${mine}${request.prompt} + ${count(generated, "token")}${times}`;
  }

  #onKey(event) {
    const by = { ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1 }[event.key];
    const buttons = [...byId("requests").querySelectorAll("button")];
    const next = buttons[buttons.indexOf(document.activeElement) + (by ?? NaN)];
    if (event.key === "Escape" && this.#chosen !== null) this.choose(this.#chosen);
    if (!next) return;
    event.preventDefault();
    buttons.forEach((button) => (button.tabIndex = button === next ? 0 : -1));
    next.focus();
  }
}

/** What happened, newest first. */
class Log {
  #palette;
  #replica;

  constructor(replica, palette) {
    this.#replica = replica;
    this.#palette = palette;
  }

  clear() {
    byId("log").replaceChildren();
  }

  update(changes) {
    const box = byId("log");
    for (const event of changes.events) {
      const item = make("li", {}, make("b", { style: { "--fill": this.#palette.colour(event[1]) } }, this.#palette.letter(event[1])), ` ${this.#words(event)}`);
      item.dataset.kind = event[0] === "e" && !["stop", "eos", "length"].includes(event[2]) ? "cut" : event[0];
      box.prepend(item);
    }
    while (box.children.length > LOG_MAX) box.lastChild.remove();
  }

  #words([kind, id, ...rest]) {
    if (kind === "a") {
      const [tokens, reused] = rest;
      const found = `${reused} of its ${tokens} tokens are on pages that are there already and are not computed`;
      const came = this.#replica.requests.get(id)?.preemptions ? "came back" : "came in";
      return `${came}: ${reused ? found : `all of its ${count(tokens, "token")} have to be computed`}.`;
    }
    if (kind === "p") {
      const [computed, kept] = rest;
      return `was sent back, as pages ran out: it gave all its pages up, with ${count(computed, "token")}. ` +
        (kept ? `${kept} of them stay cached as long as there is room, so that it need not compute those again; its text is kept.` : "Its text is kept, and is computed again later.");
    }
    const [why, , generated] = rest;
    const how = {
      length: "reached its length", stop: "is done", eos: "is done", cancel: "was cancelled", deadline: "ran out of time",
      close: "was ended with the engine", error: "failed",
    }[why] ?? "ended";
    return `${how} after ${count(generated, "token")}: its frames are free for others, or cached.`;
  }
}
