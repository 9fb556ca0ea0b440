// The engine as the messages tell it: a snapshot, then what changes.

const WAITS = 0, RUNS = 1, ENDED = 2;
const OF_REQUEST = 0, OF_TREE = 1, OF_PIN = 2;

/** Whether more than the newest token of a request is still to be computed. */
const isPrefill = ({ tokens, computed }) => computed < tokens - 1;

class Replica {
  about = { model: "", page_tokens: 16, with_text: false };
  t = 0;
  step = 0;
  paced = false;
  rate = null;
  pages = [0, 0, 0];
  rows = [];
  /** By id: {id, place, paused, prompt, tokens, computed, reused, preemptions}. */
  requests = new Map();
  /** By layer group and frame: owners, [kind, number, logical page] each. */
  groups = [];
  /** By layer group: the request that had a frame last, by frame. */
  last = [];
  /** By id: {id, parent, tokens, hits}. */
  nodes = new Map();
  /** Texts of requests and of nodes, where they are sent. */
  texts = new Map();
  names = new Map();
  /** Tokens that came to be computed, those of them that were taken from the tree, and lengths of requests that have ended, since the first message. */
  came = 0;
  reused = 0;
  ended = [];

  /** Takes a message over; returns what has changed: frames as [group, frame, owners before, owners now], events, requests that are gone. */
  apply(message, isSnapshot) {
    const changes = { snapshot: isSnapshot, frames: [], events: message.events ?? [], gone: message.gone ?? [] };
    if (isSnapshot) this.#begin(message);
    this.t = message.t;
    this.step = message.step;
    this.rate = message.rate ?? null;
    this.paced = message.paced ?? false;
    this.pages = message.pages;
    this.rows = message.rows.map(([id, first, tokens, prefill]) => ({ id, first, tokens, prefill: prefill === 1 }));
    for (const row of message.requests ?? []) this.#request(row);
    for (const id of changes.gone) this.requests.delete(id);
    for (const [group, frame, owners] of message.owners ?? []) {
      const before = this.groups[group][frame];
      changes.frames.push([group, frame, before, owners]);
      const owner = before.find(([kind]) => kind === OF_REQUEST);
      if (owner) this.last[group].set(frame, owner[1]);
      this.groups[group][frame] = owners;
    }
    for (const [id, parent, tokens, hits] of message.nodes ?? []) this.nodes.set(id, { id, parent, tokens, hits });
    for (const id of message.evicted ?? []) {
      this.nodes.delete(id);
      this.names.delete(id);
    }
    for (const [id, text] of message.texts?.requests ?? []) this.texts.set(id, (this.texts.get(id) ?? "") + text);
    for (const [id, text] of message.texts?.nodes ?? []) this.names.set(id, text);
    for (const event of changes.events) this.#event(event);
    return changes;
  }

  #begin(snapshot) {
    const { model, page_tokens, with_text } = snapshot;
    this.about = { model, page_tokens, with_text };
    this.requests.clear();
    this.nodes.clear();
    this.texts.clear();
    this.names.clear();
    this.last = snapshot.frames.map(() => new Map());
    this.groups = snapshot.frames.map((frames) => Array.from({ length: frames }, () => []));
  }

  #request([id, place, paused, prompt, tokens, computed, reused, preemptions]) {
    this.requests.set(id, { id, place, paused: paused === 1, prompt, tokens, computed, reused, preemptions });
  }

  #event([kind, id, ...rest]) {
    if (kind === "a") {
      this.came += rest[0];
      this.reused += rest[1];
    }
    if (kind === "e" && rest[2] > 0) this.ended.push({ id, prompt: rest[1], generated: rest[2] });
  }

  /** The frames of a request in a group, by logical page. */
  table(id, group = 0) {
    const table = [];
    (this.groups[group] ?? []).forEach((owners, frame) => {
      for (const [kind, number, index] of owners) if (kind === OF_REQUEST && number === id) table[index] = frame;
    });
    return table;
  }

  /** Requests that own a frame of a node in the first group, by node. */
  usersOfNodes() {
    const users = new Map();
    for (const owners of this.groups[0] ?? []) {
      const node = owners.find(([kind]) => kind === OF_TREE);
      if (node) users.set(node[1], owners.filter(([kind]) => kind === OF_REQUEST).map(([, id]) => id));
    }
    return users;
  }

  /** The nodes whose pages a request uses, first page first, as many as hold so many tokens. */
  path(id, tokens) {
    const pages = Math.floor(tokens / this.about.page_tokens);
    const path = [];
    for (const owners of this.groups[0] ?? []) {
      const mine = owners.find(([kind, number, index]) => kind === OF_REQUEST && number === id && index < pages);
      const node = owners.find(([kind]) => kind === OF_TREE);
      if (mine && node) path[mine[2]] = node[1];
    }
    return path.filter((node) => node !== undefined);
  }
}
