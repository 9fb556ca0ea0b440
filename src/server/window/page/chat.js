// A chat with the model: a client of OpenAI's dialect like any other.

/** Alternatives of a token that are asked for. */
const ALTERNATIVES = 5;

class Chat {
  #model = () => "";
  #onRequest;
  #messages = [];
  #stop = null;

  /** `model()`: the name of the model; `onRequest(id)`: the engine's number of a request that has begun. */
  constructor(model, onRequest) {
    this.#model = model;
    this.#onRequest = onRequest;
    byId("chat-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#send();
    });
    byId("chat-input").addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      this.#send();
    });
    byId("chat-stop").addEventListener("click", () => this.#stop?.abort());
    byId("chat-new").addEventListener("click", () => this.#begin());
    addEventListener("keydown", (event) => event.key === "Escape" && hideCard());
  }

  #begin() {
    this.#stop?.abort();
    this.#messages = [];
    byId("chat-log").replaceChildren();
    byId("chat-input").focus();
  }

  /** The numbers of the form; what is empty is the model's default. */
  #options() {
    const fields = byId("chat-form").elements;
    const options = {};
    for (const name of ["temperature", "top_p", "top_k", "max_tokens", "seed"]) {
      if (fields[name].value !== "" && fields[name].validity.valid) options[name] = Number(fields[name].value);
    }
    if (fields.logprobs.checked) Object.assign(options, { logprobs: true, top_logprobs: ALTERNATIVES });
    return options;
  }

  #send() {
    const input = byId("chat-input");
    const text = input.value.trim() || input.placeholder;
    if (this.#stop) return;
    input.value = "";
    input.placeholder = "";
    const system = byId("chat-form").elements.system.value.trim();
    this.#messages.push({ role: "user", content: text });
    byId("chat-log").append(make("div", { class: "message user" }, text));
    const messages = system ? [{ role: "system", content: system }, ...this.#messages] : this.#messages;
    this.#ask(messages);
  }

  async #ask(messages) {
    const answer = new AnswerView();
    byId("chat-log").append(answer.element);
    const stop = (this.#stop = new AbortController());
    this.#setBusy(true);
    try {
      const response = await fetch("v1/chat/completions", {
        method: "POST",
        headers: key.headers({ "Content-Type": "application/json" }),
        body: JSON.stringify({ model: this.#model() || undefined, messages, stream: true, stream_options: { include_usage: true }, ...this.#options() }),
        signal: stop.signal,
      });
      if (!response.ok) {
        const error = await response.json().catch(() => ({}));
        throw new Error(error.error?.message ?? `The server says ${response.status}`);
      }
      const id = Number(response.headers.get("x-astrai-request"));
      if (id) this.#onRequest(id);
      await readEvents(response, (_, data) => data !== "[DONE]" && answer.add(JSON.parse(data)));
      answer.end("");
    } catch (error) {
      answer.end(stop.signal.aborted ? "stopped" : error.message, !stop.signal.aborted);
    }
    // As it has to be handed back.
    this.#messages.push(answer.message());
    this.#stop = null;
    this.#setBusy(false);
  }

  #setBusy(busy) {
    byId("chat-send").disabled = busy;
    byId("chat-stop").disabled = !busy;
    byId("chat-log").setAttribute("aria-busy", String(busy));
  }
}

/** An answer as it comes: reasoning folded, content by tokens, calls as cards. */
class AnswerView {
  #content = "";
  #reasoning = "";
  #calls = [];
  #tokens = [];
  #body = make("div", { class: "content" });
  #thinking = make("pre", {});
  #fold = make("details", { class: "reasoning", hidden: true }, make("summary", {}, "Reasoning"), this.#thinking);
  #cards = make("div", { class: "calls" });
  #foot = make("p", { class: "foot" }, "waits for its first token…");
  element = make("div", { class: "message assistant" }, this.#fold, this.#body, this.#cards, this.#foot);

  /** A chunk of the stream. */
  add(chunk) {
    if (chunk.error) throw new Error(chunk.error.message);
    const choice = chunk.choices?.[0];
    if (choice) {
      const { content, reasoning_content, reasoning, tool_calls } = choice.delta ?? {};
      this.#think(reasoning_content ?? reasoning ?? "");
      this.#tokens.push(...(choice.logprobs?.content ?? []));
      this.#say(content ?? "");
      for (const call of tool_calls ?? []) this.#call(call);
      if (choice.finish_reason === "length") this.#foot.textContent = "ended at its longest";
    }
    if (chunk.usage) this.#count(chunk.usage);
    const log = byId("chat-log");
    if (log.scrollHeight - log.scrollTop - log.clientHeight < 80) log.scrollTop = log.scrollHeight;
  }

  #think(text) {
    if (!text) return;
    this.#reasoning += text;
    this.#thinking.textContent = this.#reasoning;
    this.#fold.hidden = false;
    this.#foot.textContent = "thinks…";
  }

  /** Adds content. Tokens whose text it begins with become its pieces; those that are no content, such as of reasoning, are skipped. */
  #say(text) {
    if (!text) return;
    if (!this.#content) this.#foot.textContent = "";
    this.#content += text;
    let rest = text;
    while (rest && this.#tokens.length) {
      const token = this.#tokens.shift();
      if (!token.token || !rest.startsWith(token.token)) continue;
      this.#body.append(tokenPiece(token));
      rest = rest.slice(token.token.length);
    }
    if (rest) this.#body.append(rest);
  }

  #call({ index, id, function: called }) {
    let card = this.#calls[index];
    if (!card) {
      const view = make("div", { class: "call" }, make("b", {}, called.name ?? ""), make("code", {}));
      card = this.#calls[index] = { id, name: called.name ?? "", arguments: "", view };
      this.#cards.append(view);
    }
    card.arguments += called.arguments ?? "";
    card.view.lastChild.textContent = card.arguments;
    this.#foot.textContent = "";
  }

  #count(usage) {
    const cached = usage.prompt_tokens_details?.cached_tokens ?? 0;
    const end = this.#foot.textContent ? `${this.#foot.textContent} · ` : "";
    this.#foot.textContent = `${end}${count(usage.prompt_tokens, "token")} of prompt, ${cached} of them reused from the cache · ${usage.completion_tokens} generated`;
  }

  end(words, failed = false) {
    if (words) this.#foot.textContent = words;
    else if (this.#foot.textContent.endsWith("…")) this.#foot.textContent = "an empty answer";
    this.#foot.classList.toggle("failed", failed);
  }

  /** The answer as a message of the conversation. */
  message() {
    const message = { role: "assistant", content: this.#content };
    if (this.#reasoning) message.reasoning_content = this.#reasoning;
    if (this.#calls.length) {
      message.tool_calls = this.#calls.map((call) => ({ id: call.id, type: "function", function: { name: call.name, arguments: call.arguments } }));
    }
    return message;
  }
}

/** A token, the more underlined the less likely it was, with its alternatives on hover or focus. */
function tokenPiece(token) {
  const probability = Math.exp(token.logprob);
  const piece = make("span", { class: "token", tabIndex: -1 }, token.token);
  piece.style.setProperty("--doubt", String(1 - probability));
  piece.addEventListener("pointerenter", () => showCard(piece, token, probability));
  piece.addEventListener("click", () => showCard(piece, token, probability));
  piece.addEventListener("pointerleave", hideCard);
  return piece;
}

function showCard(piece, token, probability) {
  const card = byId("token-card");
  const row = (text, p, is) =>
    make("div", { class: is ? "is" : "" }, make("code", {}, text.replace(/\n/g, "↵").replace(/ /g, "␣")), make("i", { style: { "--p": p } }), make("span", {}, `${(100 * p).toFixed(1)}%`));
  const others = (token.top_logprobs ?? []).filter((other) => other.token !== token.token);
  const rows = [[token.token, probability, true], ...others.map((other) => [other.token, Math.exp(other.logprob), false])];
  card.replaceChildren(...rows.sort((a, b) => b[1] - a[1]).map((parts) => row(...parts)));
  card.hidden = false;
  const at = piece.getBoundingClientRect(), size = card.getBoundingClientRect();
  const above = at.top - size.height - 6;
  card.style.setProperty("left", `${Math.max(8, Math.min(at.left, innerWidth - size.width - 8))}px`);
  card.style.setProperty("top", `${above > 8 ? above : at.bottom + 6}px`);
}

function hideCard() {
  byId("token-card").hidden = true;
}
