// What happened, newest first, in sentences: requests that come, are sent back and end, and cached pages that are given up.

/** Entries of the log. */
const LOG_MAX = 100;
/** Letters of requests in an entry. */
const WHOM_MAX = 5;

/** A time of the stream as m:ss. */
function clockTime(ms) {
  const seconds = Math.floor(ms / 1000);
  return `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}`;
}

/** The numbers of a kind of owners of a frame. */
const numbersOf = (kind, owners) => owners.filter((owner) => owner[0] === kind).map((owner) => owner[1]);

/** What became of the frames that a request gave up with a message: how many stay another's, are cached, or are free. */
function leftBy(id, frames) {
  const left = { shared: 0, cached: 0, free: 0 };
  for (const [, , before, after] of frames) {
    if (!numbersOf(OF_REQUEST, before).includes(id) || numbersOf(OF_REQUEST, after).includes(id)) continue;
    const stays = numbersOf(OF_TREE, before).every((node) => numbersOf(OF_TREE, after).includes(node)) && after.length > 0;
    const other = numbersOf(OF_REQUEST, after).some((user) => numbersOf(OF_REQUEST, before).includes(user));
    if (other) left.shared++;
    else if (stays && numbersOf(OF_TREE, after).length) left.cached++;
    else left.free++;
  }
  return left;
}

/** Cached pages that are there no more with a message, by the request that has their frame now; 0: nobody. */
function givenUp(frames) {
  const takers = new Map();
  for (const [, , before, after] of frames) {
    const nodes = numbersOf(OF_TREE, before);
    if (!nodes.length || numbersOf(OF_REQUEST, before).length || numbersOf(OF_TREE, after).includes(nodes[0])) continue;
    const taker = numbersOf(OF_REQUEST, after)[0] ?? 0;
    takers.set(taker, (takers.get(taker) ?? 0) + 1);
  }
  return takers;
}

class Log {
  #palette;
  #replica;
  /** Goes to a time; none where there is only now. */
  #onSeek = null;
  #start = 0;
  /** The entry of given up pages that is still the newest: its element, pages by request, and its time. */
  #open = null;
  /** Tokens whose pages stayed cached when a request was sent back. */
  #kept = new Map();

  constructor(replica, palette) {
    this.#replica = replica;
    this.#palette = palette;
  }

  clear() {
    byId("log").replaceChildren();
    this.#open = null;
    this.#kept.clear();
  }

  /** Times, counted from `start`, become buttons that go there. */
  seekWith(onSeek, start) {
    this.#onSeek = onSeek;
    this.#start = start;
  }

  update(changes) {
    if (changes.snapshot) this.#open = null;
    // The pages of a text are counted in the first layer group; others have theirs for the same tokens.
    const frames = changes.frames.filter(([group]) => group === 0);
    this.#tellGivenUp(givenUp(frames));
    for (const event of changes.events) {
      const kind = event[0] === "e" && !["stop", "eos", "length"].includes(event[2]) ? "cut" : event[0];
      this.#add(kind, event[1], this.#words(event, frames));
    }
  }

  #add(kind, id, words) {
    const box = byId("log"), t = this.#replica.t - this.#start, time = clockTime(t);
    const when = this.#onSeek
      ? make("button", { type: "button", class: "when", "aria-label": `Go to ${time}`, onclick: () => this.#onSeek(t) }, time)
      : make("span", { class: "when" }, time);
    const said = make("span", {}, words);
    const item = make("li", {}, when, " ", id ? this.#mark(id) : null, id ? " " : null, said);
    item.dataset.kind = kind;
    this.#open = null;
    box.prepend(item);
    while (box.children.length > LOG_MAX) box.lastChild.remove();
    return said;
  }

  #mark(id) {
    return make("b", { style: { "--fill": this.#palette.colour(id) } }, this.#palette.letter(id));
  }

  /** Pages that are given up one after the other are one entry, until something else happens. */
  #tellGivenUp(takers) {
    const cleared = takers.get(0) ?? 0;
    takers.delete(0);
    if (takers.size) {
      const open = this.#open ?? { takers: new Map() };
      for (const [id, pages] of takers) open.takers.set(id, (open.takers.get(id) ?? 0) + pages);
      const all = [...open.takers.values()].reduce((sum, pages) => sum + pages, 0);
      const letters = [...open.takers.keys()].map((id) => this.#palette.letter(id));
      const whom = letters.length > WHOM_MAX ? `${letters.length} requests` : list(letters);
      const words = `${count(all, "cached page")} ${all === 1 ? "was" : "were"} given up to make room for ${whom}: no frame was free.`;
      const said = open.said ?? this.#add("g", 0, words);
      said.textContent = words;
      this.#open = { said, takers: open.takers };
    }
    if (!cleared) return;
    const why = this.#replica.paced && !this.#replica.requests.size ? " The demonstration does this before it begins again." : "";
    this.#add("g", 0, `${count(cleared, "cached page")} ${cleared === 1 ? "was" : "were"} cleared: ${cleared === 1 ? "its frame is" : "their frames are"} free.${why}`);
  }

  #words(event, frames) {
    if (event[0] === "a") return this.#came(event);
    const left = leftBy(event[1], frames);
    return event[0] === "p" ? this.#sentBack(event, left) : this.#ended(event, left);
  }

  #came([, id, tokens, reused]) {
    const again = this.#replica.requests.get(id)?.preemptions > 0, kept = this.#kept.get(id) ?? 0;
    const all = again ? `its ${count(tokens, "token")} (prompt and answer so far)` : `its ${count(tokens, "prompt token")}`;
    const found = reused ? `${reused} of ${all} are reused from the cache, the rest is computed` : `all of ${all} have to be computed`;
    const { page_tokens } = this.#replica.about;
    const lost = again && kept > reused ? Math.round((kept - reused) / page_tokens) : 0;
    const why = lost ? `, because ${reused ? `${lost} of its` : "its"} ${count(Math.round(kept / page_tokens), "cached page")} had been given up meanwhile` : "";
    this.#kept.delete(id);
    return `${again ? "runs again" : "began"}: ${found}${why}.`;
  }

  #sentBack([, id, computed, kept], left) {
    const tokens = this.#replica.requests.get(id)?.tokens ?? computed;
    this.#kept.set(id, kept);
    return `was sent back to the queue, because pages ran out (paused requests go first, then those of lowest priority, then the last that came). ` +
      `Its text is kept; ${computed} of its ${count(tokens, "token")} were computed` +
      (kept ? `, ${kept} of these stay cached until their frames are needed.` : ".") + this.#pages(left);
  }

  #ended([, id, why, , generated], left) {
    const how = {
      length: "reached its maximum of tokens", stop: "ended by itself", eos: "ended by itself", cancel: "was cancelled by its client",
      deadline: "ran out of time", close: "was ended with the engine", error: "failed",
    }[why] ?? "ended";
    this.#kept.delete(id);
    return `${how} after ${count(generated, "token")}.${this.#pages(left)}`;
  }

  /** What became of pages that were given back. */
  #pages({ shared, cached, free }) {
    const parts = [[cached, "cached"], [shared, "in use by others"], [free, "free for others"]].filter(([pages]) => pages);
    const all = shared + cached + free;
    if (!all) return "";
    if (parts.length === 1) return ` ${all === 1 ? "Its page is" : `All its ${all} pages are`} ${parts[0][1]}.`;
    return ` Its ${count(all, "page")}: ${list(parts.map(([pages, what]) => `${pages} ${what}`))}.`;
  }
}
