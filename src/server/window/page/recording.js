// Where messages come from without a server: the recording in this file.

/** The messages of the file, [is it a snapshot, message] each; none in a page that a server sent. */
function recordedMessages() {
  const element = byId("recording");
  return element ? JSON.parse(element.textContent) : null;
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
    requestAnimationFrame((now) => this.#tick(now));
  }

  #setPlaying(playing) {
    this.#playing = playing;
    byId("play").textContent = playing ? "❚❚" : "►";
    byId("play").setAttribute("aria-label", playing ? "Pause" : "Play");
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
    const seconds = Math.floor(this.#time / 1000);
    byId("clock").textContent = `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}`;
  }
}
