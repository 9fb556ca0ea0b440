// Where messages come from: the server's stream. It is read with fetch, because that can send a key.

/** Calls `take(name, data)` for each event of a response that is a stream of events. */
async function readEvents(response, take) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const blocks = (rest + value).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      let name = "message", data = [];
      for (const line of block.split("\n")) {
        if (line.startsWith("event: ")) name = line.slice(7);
        if (line.startsWith("data: ")) data.push(line.slice(6));
      }
      if (data.length) take(name, data.join("\n"));
    }
  }
}

/** The key: of the address after the `#`, where no server sees it, or as it was typed in. */
const key = {
  value: new URLSearchParams(location.hash.slice(1)).get("key") ?? "",
  headers(more = {}) {
    return this.value ? { ...more, Authorization: `Bearer ${this.value}` } : more;
  },
};

/** Follows the engine of a model; comes back by itself. `handlers`: message(data, isSnapshot), state(text), needsKey(). */
class LiveSource {
  #handlers;
  #stop = new AbortController();

  constructor(handlers) {
    this.#handlers = handlers;
  }

  async follow(model) {
    this.#stop.abort();
    const stop = (this.#stop = new AbortController());
    for (let wait = 250; !stop.signal.aborted; wait = Math.min(wait * 2, 4000)) {
      try {
        const query = model ? `?model=${encodeURIComponent(model)}` : "";
        const response = await fetch(`window/events${query}`, { headers: key.headers(), signal: stop.signal, cache: "no-store" });
        if (response.status === 401) return this.#handlers.needsKey();
        if (!response.ok) {
          const error = await response.json().catch(() => ({}));
          this.#handlers.state(error.error?.message ?? `The server says ${response.status}`);
        } else {
          wait = 125;
          await readEvents(response, (name, data) => this.#handlers.message(JSON.parse(data), name === "snapshot"));
          this.#handlers.state("The stream ended; connecting again…");
        }
      } catch (error) {
        if (stop.signal.aborted) return;
        this.#handlers.state("The server does not answer; trying again…");
      }
      await new Promise((resolve) => setTimeout(resolve, wait));
    }
  }
}
