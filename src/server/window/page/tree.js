// The prefix tree from left to right: runs of pages without a branch in one piece, a square for each page with the colours of the
// requests that use it now, grey and dashed where it is cached. A branch that is hit glows.

const PAGE = 15, GAP = 2, ROW = 34, INDENT = 18, TOP = 12;
/** Leaves that are drawn, and squares of a run; of a longer one each square is several pages. */
const LEAVES_MAX = 24, SQUARES_MAX = 40;
const GLOW_MS = 3500;

class Tree {
  #replica;
  #palette;
  #chosen = null;
  /** Runs that glow: nodes of the hit, the one at its end, until when. */
  #glows = [];
  #drawn = "";

  constructor(replica, palette) {
    this.#replica = replica;
    this.#palette = palette;
  }

  clear() {
    this.#glows = [];
    this.#drawn = "";
    byId("tree-info").textContent = "";
  }

  choose(id) {
    this.#chosen = id;
    this.update({ events: [] }, true);
  }

  update(changes, quiet) {
    for (const [kind, id, , reused] of changes.events) {
      if (kind !== "a" || !reused) continue;
      const path = this.#replica.path(id, reused);
      if (!path.length) continue;
      if (!quiet) this.#glows.push({ path: new Set(path), end: path[path.length - 1], until: performance.now() + GLOW_MS });
      byId("tree-info").textContent =
        `${this.#palette.letter(id)} found its first ${count(path.length, "page")} here: ${count(reused, "token")} reused, and not computed again.`;
    }
    this.#glows = this.#glows.filter((glow) => glow.until > performance.now() && this.#replica.nodes.has(glow.end));
    this.#render();
  }

  /** Children of each node, in the order in which they came, by their numbers. */
  #children() {
    const children = new Map();
    for (const node of this.#replica.nodes.values()) {
      if (!children.has(node.parent)) children.set(node.parent, []);
      children.get(node.parent).push(node.id);
    }
    return children;
  }

  /** Pages below each node, itself included. */
  #sizes(children) {
    const order = [...(children.get(0) ?? [])];
    for (let at = 0; at < order.length; at++) order.push(...(children.get(order[at]) ?? []));
    const sizes = new Map();
    for (const id of order.reverse()) {
      sizes.set(id, (children.get(id) ?? []).reduce((sum, child) => sum + sizes.get(child), 1));
    }
    return (id) => sizes.get(id);
  }

  /** Lays runs of pages out: {nodes, each: pages of a square, width, x, y, parent, isLeaf}. */
  #layout() {
    const children = this.#children();
    const sizeOf = this.#sizes(children);
    const runs = [];
    let leaves = 0, hidden = 0;
    const place = (first, x, parent) => {
      const nodes = [first];
      for (let next = children.get(first); next?.length === 1; next = children.get(next[0])) nodes.push(next[0]);
      const each = Math.ceil(nodes.length / SQUARES_MAX);
      const run = { nodes, each, width: Math.ceil(nodes.length / each) * (PAGE + GAP), x, y: leaves * ROW, parent };
      runs.push(run);
      const branches = (children.get(nodes[nodes.length - 1]) ?? []).sort((a, b) => sizeOf(b) - sizeOf(a));
      run.isLeaf = !branches.length;
      if (run.isLeaf) leaves++;
      for (const branch of branches) {
        if (leaves < LEAVES_MAX) place(branch, x + run.width + INDENT, run);
        else hidden += sizeOf(branch);
      }
    };
    for (const first of (children.get(0) ?? []).sort((a, b) => sizeOf(b) - sizeOf(a))) {
      if (leaves < LEAVES_MAX) place(first, INDENT, null);
      else hidden += sizeOf(first);
    }
    return { runs, height: leaves * ROW, hidden };
  }

  #render() {
    const users = this.#replica.usersOfNodes();
    const { runs, height, hidden } = this.#layout();
    const width = runs.reduce((most, run) => Math.max(most, run.x + run.width + 330), 320);
    const glowing = new Map();
    for (const glow of this.#glows) for (const node of glow.path) glowing.set(node, glow);
    // Most steps change nothing here.
    const drawn = JSON.stringify([runs.map((r) => [r.nodes, r.y]), [...users], [...glowing.keys()], this.#chosen, hidden, this.#replica.names.size]);
    if (drawn === this.#drawn) return;
    this.#drawn = drawn;
    if (!runs.length) {
      byId("tree").replaceChildren(make("p", { class: "empty" }, "No full page is in the tree now."));
      return;
    }
    const svg = draw("svg", { viewBox: `0 ${-TOP} ${width} ${height + TOP}`, width, height: height + TOP, role: "img" });
    svg.append(draw("title", {}, `A prefix tree of ${count(this.#replica.nodes.size, "page")}`));
    svg.append(draw("circle", { class: "root", cx: 5, cy: ROW / 2, r: 4 }));
    for (const run of runs) svg.append(...this.#run(run, users, glowing));
    byId("tree").replaceChildren(svg);
    if (hidden) byId("tree").append(make("p", { class: "empty" }, `and ${count(hidden, "page")} more`));
  }

  #run(run, users, glowing) {
    const y = run.y + ROW / 2;
    const from = run.parent ? run.parent.x + run.parent.width : 9;
    const fromY = run.parent ? run.parent.y + ROW / 2 : ROW / 2;
    const glow = glowing.get(run.nodes[0]);
    const marks = [
      draw("path", { class: glow ? "edge glow" : "edge", d: `M${from} ${fromY} C${from + 12} ${fromY} ${run.x - 14} ${y} ${run.x - 2} ${y}` }),
    ];
    run.nodes.forEach((node, at) => {
      if (at % run.each) return;
      marks.push(this.#page(node, run.x + (at / run.each) * (PAGE + GAP), y, users.get(node) ?? [], glowing.has(node)));
    });
    const end = run.x + run.width + 4;
    if (run.isLeaf) marks.push(draw("text", { x: end, y: y + 4 }, this.#note(run, users)));
    else marks.push(draw("text", { x: run.x, y: y - PAGE / 2 - 3 }, this.#trunk(run)));
    return marks;
  }

  /** The beginning of a run's text in one line; one that goes on from another run begins with its first word. */
  #textOf({ nodes, parent }) {
    const text = plain(nodes.slice(0, 3).map((node) => this.#replica.names.get(node) ?? "").join(""));
    return parent && text ? `…${text.replace(/^[^\p{L}\p{N}]+/u, "")}` : text;
  }

  /** What is written over a run with branches: as much of its beginning as is as long as it. */
  #trunk(run) {
    const text = this.#textOf(run), length = Math.max(6, Math.floor(run.width / 6.2) - 3);
    return text ? `“${text.slice(0, length)}…”` : count(run.nodes.length * this.#replica.about.page_tokens, "token");
  }

  /** What is written behind a run: its beginning where texts are sent, else who uses its end. */
  #note(run, users) {
    const { page_tokens } = this.#replica.about;
    const last = users.get(run.nodes[run.nodes.length - 1]) ?? [];
    const text = this.#textOf(run);
    const who = list(last.slice(0, 6).map((id) => this.#palette.letter(id)));
    const words = text ? `“${text.slice(0, 42)}…”` : `${run.nodes.length * page_tokens} tokens`;
    return who ? `${who}: ${words}` : `cached: ${words}`;
  }

  #page(node, x, y, users, glows) {
    const { tokens, hits } = this.#replica.nodes.get(node);
    const muted = this.#chosen !== null && users.length > 0 && !users.includes(this.#chosen);
    const page = draw("g", { class: `page${glows ? " glow" : ""}${muted ? " muted" : ""}` });
    if (glows) page.append(draw("rect", { class: "halo", x: x - 3, y: y - PAGE / 2 - 4, width: PAGE + 6, height: PAGE + 8, rx: 5 }));
    page.append(draw("rect", { class: users.length ? "used" : "cached", x, y: y - PAGE / 2, width: PAGE, height: PAGE, rx: 3 }));
    users.slice(0, 5).forEach((id, at, all) => {
      const width = PAGE / all.length;
      const stripe = draw("rect", { x: x + at * width, y: y - PAGE / 2, width, height: PAGE });
      stripe.style.setProperty("fill", this.#palette.colour(id));
      page.append(stripe);
    });
    const text = this.#replica.names.get(node);
    const who = users.length ? `used by ${list(users.map((id) => this.#palette.letter(id)))}` : "used by no request now: cached";
    page.append(draw("title", {}, `${count(tokens, "token")}, ${who}, hit ${count(hits, "time")}${text ? `: “${plain(text)}”` : ""}`));
    return page;
  }
}
