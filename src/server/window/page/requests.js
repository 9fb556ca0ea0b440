// The requests, one of which may be chosen. Until the reader chooses, the page does.

/** Requests that are listed. */
const LISTED_MAX = 64;

class Requests {
  #replica;
  #palette;
  #onChoose;
  #chosen = null;
  /** Whether the reader has not chosen yet. */
  #auto = true;
  #mine = new Set();
  #buttons = new Map();

  constructor(replica, palette, onChoose) {
    this.#replica = replica;
    this.#palette = palette;
    this.#onChoose = onChoose;
    byId("requests").addEventListener("keydown", (event) => this.#onKey(event));
    byId("requests").addEventListener("scroll", () => this.#writeMore());
    new ResizeObserver(() => this.#writeMore()).observe(byId("requests"));
  }

  /** A request of the chat. */
  addMine(id) {
    this.#mine.add(id);
  }

  /** The reader chooses, or lets go of what he chose. */
  choose(id) {
    this.#chosen = this.#chosen === id && !this.#auto ? null : id;
    this.#auto = false;
    this.update();
    this.#onChoose(this.#chosen);
  }

  #letGo() {
    this.#auto = false;
    this.#chosen = null;
    this.update();
    this.#onChoose(null);
  }

  /** What is chosen after a message: nothing that has gone; while the page chooses, the request that runs longest. */
  #chooseNow(requests) {
    const before = this.#chosen;
    const stays = this.#replica.requests.get(before);
    if (!stays || (this.#auto && stays.place !== RUNS)) this.#chosen = null;
    if (this.#auto && this.#chosen === null) {
      this.#chosen = requests.find((request) => request.place === RUNS && request.computed > 0)?.id ?? null;
    }
    if (this.#chosen !== before) this.#onChoose(this.#chosen);
  }

  update() {
    // Those that wait stand first.
    const waits = (request) => Number(request.place === WAITS);
    const requests = [...this.#replica.requests.values()].sort((a, b) => waits(b) - waits(a) || a.id - b.id);
    this.#chooseNow(requests);
    const rows = new Map(this.#replica.rows.map((row) => [row.id, row]));
    const shown = requests.slice(0, LISTED_MAX).map((request) => this.#show(request, rows.get(request.id)));
    for (const id of this.#buttons.keys()) if (!this.#replica.requests.has(id)) this.#buttons.delete(id);
    const box = byId("requests");
    if (shown.some((button, at) => box.children[at] !== button) || box.children.length !== shown.length) {
      const focused = document.activeElement;
      box.replaceChildren(...shown);
      if (shown.includes(focused)) focused.focus();
    }
    if (!shown.length) box.replaceChildren(make("p", { class: "empty" }, "No requests at the moment."));
    const first = shown.find((button) => button.tabIndex === 0) ?? shown[0];
    shown.forEach((button) => (button.tabIndex = button === first ? 0 : -1));
    this.#writeMore();
  }

  /** How many are below what one sees. */
  #writeMore() {
    const box = byId("requests"), end = box.scrollTop + box.clientHeight;
    const below = [...box.querySelectorAll("button")].filter((button) => button.offsetTop + button.offsetHeight / 2 > end).length;
    const more = below + Math.max(0, this.#replica.requests.size - LISTED_MAX);
    byId("requests-more").textContent = more ? `${more} more below` : "";
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
      const back = request.preemptions ? `${times.slice(2).replace(" once", "")}, ` : "";
      return `${mine}${back}waits · ${this.#parts(request)}`;
    }
    if (request.paused) return `${mine}paused, its reader is slow${times}`;
    if (row?.prefill || isPrefill(request)) {
      // The newest token is computed with the next step. After it was sent back, the answer so far is computed like a prompt.
      const all = request.computed === request.tokens - 1 && generated > 0 ? request.computed : request.tokens;
      return `${mine}prefill: ${request.computed} of ${count(all, "token")}${times}`;
    }
    return `${mine}${this.#parts(request)}${times}`;
  }

  #parts({ prompt, tokens }) {
    return tokens > prompt ? `${prompt} prompt + ${tokens - prompt} answer` : `${prompt} prompt`;
  }

  #onKey(event) {
    const by = { ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1 }[event.key];
    const buttons = [...byId("requests").querySelectorAll("button")];
    const next = buttons[buttons.indexOf(document.activeElement) + (by ?? NaN)];
    if (event.key === "Escape" && this.#chosen !== null) this.#letGo();
    if (!next) return;
    event.preventDefault();
    buttons.forEach((button) => (button.tabIndex = button === next ? 0 : -1));
    next.focus();
  }
}
