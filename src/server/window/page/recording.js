// Where messages come from without a server: the recording in this file, its player and the marks on its time bar.

/** The messages of the file, [is it a snapshot, message] each; none in a page that a server sent. */
function recordedMessages() {
  const element = byId("recording");
  return element ? JSON.parse(element.textContent) : null;
}

/** So many requests that begin within so many milliseconds are a burst; marks of a kind closer than this are one. */
const BURST = 5, BURST_MS = 1500, MARK_MS = 1200;
/** Kinds of marks, with what is said of them. */
const MARKS = { shared: "a shared beginning", burst: "a burst of requests", back: "a request is sent back", cut: "a request is cancelled" };

/** What is worth to be found: [kind, time] in the order of time. */
function marksOf(messages, start) {
  const marks = [], newest = new Map(), begun = [];
  const mark = (kind, time) => {
    if (time - (newest.get(kind) ?? -Infinity) >= MARK_MS) marks.push([kind, time]);
    newest.set(kind, time);
  };
  for (const [, message] of messages) {
    const time = message.t - start;
    for (const [kind, , what, reused] of message.events ?? []) {
      if (kind === "p") mark("back", time);
      if (kind === "e" && what === "cancel") mark("cut", time);
      if (kind !== "a") continue;
      begun.push(time);
      if (begun.length >= BURST && time - begun[begun.length - BURST] <= BURST_MS) mark("burst", time);
      else if (reused > 0) mark("shared", time);
    }
  }
  return marks;
}

/** Plays messages at the times at which they came, and begins anew at the end. */
class Player {
  #messages;
  #handlers;
  #at = 0;
  #time = 0;
  #last = 0;
  #speed = 1;
  #playing = true;

  constructor(messages, handlers) {
    this.#messages = messages;
    this.#handlers = handlers;
    const start = messages[0]?.[1].t ?? 0;
    this.start = start;
    this.length = (messages[messages.length - 1]?.[1].t ?? 0) - start + 2000;
    byId("player").hidden = false;
    byId("seek").max = String(Math.ceil(this.length));
    byId("seek").addEventListener("input", () => this.seek(Number(byId("seek").value)));
    byId("speed").addEventListener("change", () => (this.#speed = Number(byId("speed").value)));
    byId("play").addEventListener("click", () => this.#setPlaying(!this.#playing));
    byId("forward").addEventListener("click", () => this.#forward());
    this.#drawMarks();
    requestAnimationFrame((now) => this.#tick(now));
  }

  /** Marks on the time bar; the log has the same for keys and for readers of text. */
  #drawMarks() {
    const marks = marksOf(this.#messages, this.start);
    byId("marks").replaceChildren(...marks.map(([kind, time]) => make("i", {
      class: kind, title: `${clockTime(time)}: ${MARKS[kind]}`, style: { "--at": time / this.length }, onclick: () => this.seek(time),
    })));
    const kinds = Object.keys(MARKS).filter((kind) => marks.some(([other]) => other === kind));
    byId("mark-legend").replaceChildren(...kinds.map((kind) => make("li", {}, make("i", { class: kind }), MARKS[kind])));
    byId("mark-legend").hidden = !kinds.length;
  }

  #setPlaying(playing) {
    this.#playing = playing;
    byId("play").textContent = playing ? "❚❚" : "►";
    byId("play").setAttribute("aria-label", playing ? "Pause" : "Play");
  }

  /** Pauses, and shows the next message: mostly one step. */
  #forward() {
    this.#setPlaying(false);
    const next = this.#messages[this.#at]?.[1];
    if (!next) return this.seek(0);
    this.#time = next.t - this.start;
    this.#play(false);
  }

  /** Goes to a time. What lies before the first message is nothing, so going back begins anew. */
  seek(time) {
    if (time < this.#time) {
      this.#at = 0;
      this.#handlers.begin();
    }
    this.#time = time;
    this.#play(true);
  }

  #tick(now) {
    const passed = this.#last ? Math.min(now - this.#last, 250) : 0;
    this.#last = now;
    if (this.#playing) {
      this.#time += passed * this.#speed;
      if (this.#time > this.length) this.seek(0);
      this.#play(false);
    }
    requestAnimationFrame((next) => this.#tick(next));
  }

  /** Gives the messages up to the time; `quiet`: without showing each. */
  #play(quiet) {
    while (this.#at < this.#messages.length && this.#messages[this.#at][1].t - this.start <= this.#time) {
      const [isSnapshot, message] = this.#messages[this.#at++];
      this.#handlers.message(message, isSnapshot === 1, quiet);
    }
    if (quiet) this.#handlers.shown();
    byId("seek").value = String(Math.round(this.#time));
    const clock = `${clockTime(this.#time)} / ${clockTime(this.length)}`;
    byId("seek").setAttribute("aria-valuetext", clock);
    byId("clock").textContent = clock;
  }
}
