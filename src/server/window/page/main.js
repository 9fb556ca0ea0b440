// What ties the parts together: messages in, views out; the choice of a request, the theme, the pace.

/** The places of the slider: steps a second, and at last as fast as it can. */
const RATES = [1, 2, 4, 8, 16, 64, null];

/** Events that are kept for the next picture: a page in the background makes none. */
const PENDING_MAX = 256;

/** What has changed since the last picture. */
class Pending {
  snapshot = false;
  #frames = new Map();
  #events = [];

  add({ snapshot, frames, events }) {
    if (snapshot) {
      this.snapshot = true;
      this.#frames.clear();
    }
    // The owners that were shown last are those before the first change.
    for (const [group, frame, before] of frames) {
      const name = `${group} ${frame}`;
      if (!this.#frames.has(name)) this.#frames.set(name, [group, frame, before]);
    }
    this.#events.push(...events);
    this.#events.splice(0, Math.max(0, this.#events.length - PENDING_MAX));
  }

  changes() {
    return { frames: [...this.#frames.values()], events: this.#events };
  }
}

class View {
  #replica = new Replica();
  #palette = new Palette();
  #frames = new Frames(this.#replica, this.#palette);
  #requests = new Requests(this.#replica, this.#palette, (id) => this.#choose(id));
  #stations = new Stations(this.#replica, this.#palette, (id) => this.#requests.choose(id));
  #log = new Log(this.#replica, this.#palette);
  #tree = new Tree(this.#replica, this.#palette);
  #race = new Race(this.#replica, this.#palette);
  /** Times and numbers of steps lately. */
  #recent = [];
  /** What is not shown yet, whether it will be, and milliseconds until the next picture may be made. */
  #pending = new Pending();
  #scheduled = false;
  #rest = 0;

  /** The beginning of a recording: nothing is known. */
  begin() {
    this.#palette.clear();
    this.#replica.came = 0;
    this.#replica.reused = 0;
    this.#replica.ended = [];
    this.#recent = [];
    this.#log.clear();
    this.#race.clear();
  }

  /** Takes a message. It is shown with the next picture; `quiet`: it will not be shown by itself. */
  message(message, isSnapshot, quiet = false) {
    const changes = this.#replica.apply(message, isSnapshot);
    this.#palette.meet(this.#replica.requests.keys());
    this.#recent.push([message.t, message.step]);
    this.#log.update(changes);
    this.#pending.add(changes);
    if (!quiet) this.#schedule();
  }

  /** Shows at once how things are after messages that were taken quietly. */
  shown() {
    if (!this.#replica.groups.length) return;
    this.#pending = new Pending();
    this.#stations.clear();
    this.#tree.clear();
    this.#frames.begin();
    this.#show({ events: [] }, true);
  }

  /** One picture shows all that came since the last; a slow page makes fewer of them. */
  #schedule() {
    if (this.#scheduled) return;
    this.#scheduled = true;
    setTimeout(() => requestAnimationFrame(() => this.#draw()), this.#rest);
  }

  #draw() {
    const begin = performance.now(), pending = this.#pending;
    this.#scheduled = false;
    this.#pending = new Pending();
    if (pending.snapshot) {
      this.#stations.clear();
      this.#tree.clear();
      this.#frames.begin();
    } else {
      this.#frames.update(pending.changes());
    }
    this.#show(pending.changes(), false);
    // With what the browser needs to put it on the screen.
    requestAnimationFrame(() => (this.#rest = Math.min(1000, Math.max(0, 2 * (performance.now() - begin) - 40))));
  }

  addMine(id) {
    this.#requests.addMine(id);
  }

  /** Times of the log, counted from `start`, are places to go to. */
  seekWith(onSeek, start) {
    this.#log.seekWith(onSeek, start);
  }

  get model() {
    return this.#replica.about.model;
  }

  #show(changes, quiet) {
    this.#requests.update();
    this.#stations.update(changes);
    this.#tree.update(changes, quiet);
    this.#race.update();
    this.#figures();
    showPace(this.#replica);
  }

  #choose(id) {
    this.#frames.choose(id);
    this.#stations.choose(id);
    this.#tree.choose(id);
  }

  #figures() {
    const places = [...this.#replica.requests.values()].map((request) => request.place);
    const [used, cached, free] = this.#replica.pages;
    const recent = (this.#recent = this.#recent.filter(([t]) => t <= this.#replica.t && t > this.#replica.t - 2000));
    const [first, last] = [recent[0] ?? [0, 0], recent[recent.length - 1] ?? [0, 0]];
    const rate = last[0] > first[0] ? ((last[1] - first[1]) * 1000) / (last[0] - first[0]) : 0;
    const figures = {
      running: places.filter((place) => place === RUNS).length,
      waiting: places.filter((place) => place === WAITS).length,
      used: `${used.toLocaleString("en")} of ${(used + cached + free).toLocaleString("en")}`,
      cached: cached.toLocaleString("en"),
      free: free.toLocaleString("en"),
      rate: rate >= 100 ? Math.round(rate).toLocaleString("en") : rate.toFixed(1),
      reused: `${this.#replica.reused.toLocaleString("en")} of ${this.#replica.came.toLocaleString("en")}`,
    };
    for (const [name, value] of Object.entries(figures)) byId(`figure-${name}`).textContent = String(value);
  }
}

/** The slider of an engine that can be paced. */
function showPace({ paced, rate }) {
  const slider = byId("pace");
  byId("pace-control").hidden = !paced || document.body.classList.contains("recorded");
  if (!paced || document.activeElement === slider) return;
  const nearest = RATES.findIndex((place) => place === null || (rate !== null && place >= rate));
  slider.value = String(rate === null ? RATES.length - 1 : nearest);
  writePace();
}

function writePace() {
  const rate = RATES[Number(byId("pace").value)];
  const words = rate === null ? "full speed" : `${count(rate, "step")} a second`;
  byId("pace-value").textContent = words;
  byId("pace").setAttribute("aria-valuetext", words);
}

/** Light or dark: the system's, until one is chosen. */
function setUpTheme() {
  const button = byId("theme"), dark = matchMedia("(prefers-color-scheme: dark)");
  const store = (theme) => {
    try { localStorage.setItem("theme", theme); } catch { /* A file may have no store. */ }
  };
  const stored = () => {
    try { return localStorage.getItem("theme"); } catch { return null; }
  };
  const show = (theme) => {
    document.documentElement.dataset.theme = theme;
    button.textContent = theme === "dark" ? "Light" : "Dark";
    button.setAttribute("aria-label", `${button.textContent} colours`);
  };
  show(stored() ?? (dark.matches ? "dark" : "light"));
  dark.addEventListener("change", () => stored() ?? show(dark.matches ? "dark" : "light"));
  button.addEventListener("click", () => {
    const theme = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
    store(theme);
    show(theme);
  });
}

/** The page of a recording: a player instead of a server. */
function playRecording(view, messages) {
  document.body.classList.add("recorded");
  byId("status").replaceChildren(`A recording of the model ${messages[0]?.[1].model ?? "?"}. Live, with a chat: `, make("code", { class: "whole" }, "astrai serve --demo"));
  byId("stations-caption").append(" Steps pass quickly: ½× speed or ▸❘ (one step) shows each.");
  // There is no engine behind it to ask.
  byId("chat-section").remove();
  const player = new Player(messages, {
    begin: () => view.begin(),
    message: (message, isSnapshot, quiet) => view.message(message, isSnapshot, quiet),
    shown: () => view.shown(),
  });
  view.seekWith((time) => player.seek(time), player.start);
  const at = Number(new URLSearchParams(location.hash.slice(1)).get("t"));
  if (at > 0) player.seek(at * 1000);
}

/** The page of a server. */
function watchServer(view) {
  let model = "";
  const source = new LiveSource({
    message(message, isSnapshot) {
      if (isSnapshot) byId("status").textContent = `Watching ${message.model}${message.with_text ? ", with texts" : ""}`;
      view.message(message, isSnapshot);
    },
    state: (text) => (byId("status").textContent = text),
    needsKey() {
      byId("status").textContent = "A key is needed";
      byId("key-form").hidden = false;
      byId("key").focus();
    },
  });
  // With several models the first is watched, until another is chosen.
  const watch = async () => {
    const names = await listModels(model);
    if (!model && names.length > 1) model = names[0];
    source.follow(model);
  };
  byId("key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    key.value = byId("key").value;
    byId("key").value = "";
    byId("key-form").hidden = true;
    watch();
  });
  byId("model").addEventListener("change", () => {
    model = byId("model").value;
    view.begin();
    source.follow(model);
  });
  byId("pace").addEventListener("input", () => {
    writePace();
    const body = JSON.stringify({ rate: RATES[Number(byId("pace").value)] });
    fetch("window/pace", { method: "POST", headers: key.headers({ "Content-Type": "application/json" }), body });
  });
  new Chat(() => view.model, (id) => view.addMine(id));
  // A key in the address is for this page only.
  if (key.value) history.replaceState(null, "", location.pathname);
  watch();
}

/** Fills the choice of models, where there are several. */
async function listModels(chosen) {
  const response = await fetch("v1/models", { headers: key.headers() }).catch(() => null);
  if (!response?.ok) return [];
  const { data } = await response.json();
  const names = data.map((model) => model.id);
  byId("model-control").hidden = names.length < 2;
  byId("model").replaceChildren(...names.map((name) => make("option", { value: name, selected: name === chosen }, name)));
  return names;
}

setUpTheme();
const view = new View();
const messages = recordedMessages();
if (messages) playRecording(view, messages);
else watchServer(view);
