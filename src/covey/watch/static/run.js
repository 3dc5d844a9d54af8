// One run: its head, which all of its pages share, and its curves.

import { ago, amount, bar, count, empty, figure, h, put, say, seconds, status, title } from "./dom.js";
import { get, hasToken, post, stream } from "./net.js";

const PAGES = { curves: "Curves", graph: "Nodes", events: "Events", hosts: "Hosts", attacks: "Attacks", settings: "Settings" };
const USUAL = ["accuracy", "loss", "average_model_accuracy", "consensus_distance", "bytes_out", "energy"];
const MOST_AT_FIRST = 6;

export async function show(main, connected, id, page) {
  const facts = await get(`/api/run/${id}`);
  const view = { id, facts, row: facts.row, listeners: [], since: facts.cursor, event: 0, figures: [] };
  document.getElementById("where").textContent = "";
  document.title = `${facts.row.name} · ${PAGES[page] ?? "covey"}`;
  const body = h("div", { class: "section" });
  const top = head(view, page);
  put(main, top.element, body);
  const { pageOf } = page === "curves" ? { pageOf: curves } : await import("./tabs.js");
  if (!PAGES[page]) put(body, empty("No such page", h("p", {}, h("a", { href: `/run/${id}` }, "The curves of the run"))));
  else await pageOf(body, view, page);
  stream(() => `/api/run/${id}/stream?since=${view.since}&event=${view.event}&figures=${encodeURIComponent(view.figures.join("\n"))}`, (change) => {
    view.row = change.row;
    view.since = change.cursor;
    if (change.events) view.event = change.events[0].row;
    top.update(change.failure);
    for (const listener of view.listeners) listener(change);
  }, connected);
  setInterval(() => top.update(), 5000);
}

function head(view, page) {
  const { facts, id } = view;
  const signs = h("span", {});
  const meta = h("p", { class: "lead" });
  const advance = h("div", { class: "advance" });
  const trouble = h("p", { class: "trouble-note", hidden: true });
  const said = h("p", { class: "said", role: "status" });
  const actions = h("div", { class: "actions" });
  const tiles = h("dl", { class: "tiles" });
  const act = (what, question) => async () => {
    if (!confirm(question)) return;
    said.className = "said";
    say(said, "…");
    try {
      say(said, (await post(`/api/run/${id}/${what}`)).said);
    } catch (error) {
      said.className = "said bad";
      say(said, error.message);
    }
  };
  const stop = h("button", { type: "button", class: "button danger", onclick: act("stop", "Stop this run after its round? It writes a checkpoint and can be resumed.") }, "Stop");
  const resume = h("button", { type: "button", class: "button", onclick: act("resume", "Resume this run from its latest checkpoint, in a process of its own?") }, "Resume");
  const visible = Object.entries(PAGES).filter(([key]) => (key !== "attacks" || facts.attacks) && (key !== "hosts" || facts.settings.engine !== "simulation"));
  const tabs = h("nav", { class: "tabs", "aria-label": "Pages of the run" }, visible.map(([key, label]) => h("a", { href: key === "curves" ? `/run/${id}` : `/run/${id}/${key}`, "aria-current": key === page ? "page" : null }, label)));
  const element = h(
    "div",
    {},
    h("p", { class: "crumbs" }, h("a", { href: "/" }, "← All runs")),
    h("div", { class: "titled" }, h("h1", {}, facts.row.name), signs, actions),
    meta, said, trouble, advance, tiles, tabs,
  );
  const update = (failure = "") => {
    const row = view.row;
    put(signs, status(row.status));
    say(meta, [row.program, row.nodes ? `${count(row.nodes)} nodes` : "", facts.settings["task.dataset"], facts.settings["task.model"], row.seed === null ? "" : `seed ${row.seed}`].filter(Boolean).join(" · "));
    const running = row.status === "running";
    const ended = ["interrupted", "failed"].includes(row.status);
    put(actions, hasToken() && running ? stop : null, hasToken() && ended && (facts.can_resume || row.status !== facts.row.status) ? resume : null);
    const problem = [row.problem, failure].filter(Boolean).join(" ");
    trouble.hidden = !problem;
    say(trouble, problem);
    const quiet = running && Date.now() / 1000 - row.updated > 30 ? `, last row ${ago(row.updated)}` : "";
    const left = row.read < 1 ? `reading rows, ${Math.round(row.read * 100)} %` : running ? `${row.left === null ? "" : `${seconds(row.left)} left`}${quiet}`.replace(/^, /, "") : "";
    const at = `round ${count(Math.floor(row.done))} of ${count(row.rounds)}`;
    put(advance, bar(row.done, row.rounds, `Rounds: ${at}`, running), h("span", {}, left ? `${at} · ${left}` : at));
    const facts_of = [
      ["Accuracy", figure(row.accuracy)], ["Loss", figure(row.loss)], [`${row.clock === "real" ? "Real" : "Virtual"} time`, seconds(row.time)],
      ["Sent in all", amount(row.bytes)], ["Messages dropped", count(row.dropped)], ["Computing time", seconds(row.wall)],
    ].filter(([, value]) => value !== "–");
    put(tiles, facts_of.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));
    tiles.hidden = !facts_of.length;
  };
  update();
  return { element, update };
}

// ---------------------------------------------------------------------- curves

async function curves(body, view) {
  const { axisChoice, card } = await import("./chart.js");
  const { facts, id } = view;
  const names = Object.keys(facts.figures);
  if (!names.length) put(body, empty("No round is completed yet", "The curves begin with the first one."));
  const usual = USUAL.filter((name) => names.includes(name));
  const shown = new Set(usual.length > 1 ? usual : names.slice(0, MOST_AT_FIRST));
  const grid = h("div", { class: "charts" });
  const cards = new Map();
  let against = "rounds";

  const load = async (name) => {
    const found = await get(`/api/run/${id}/curve?figure=${encodeURIComponent(name)}&against=${against}`);
    const one = cards.get(name) ?? card(name, () => facts.row.name);
    cards.set(name, one);
    one.state.lines = [{ name: facts.row.name, points: found.points }];
    one.state.against = against;
    one.state.clock = view.row.clock;
    return [one, found.cursor];
  };
  const arrange = () => {
    const wanted = [...shown].map((name) => cards.get(name)?.element).filter(Boolean);
    if (wanted.some((element, index) => grid.children[index] !== element) || grid.children.length !== wanted.length) put(grid, wanted);
  };
  const all = async () => {
    const loaded = await Promise.all([...shown].map(load));
    arrange();
    for (const [one] of loaded) one.update();
    if (loaded.length) view.since = loaded[0][1];
    view.figures = [...shown];
  };
  const swatch = (kind) => h("span", { class: `swatch ${kind}`, "aria-hidden": "true" });
  const others = h("details", { class: "more" });
  const offer = () => {
    const rest = Object.keys(facts.figures).filter((name) => !usual.includes(name));
    others.hidden = !rest.length;
    put(others, h("summary", {}, `More figures (${rest.length})`), rest.map((name) => h("label", {}, h("input", { type: "checkbox", checked: shown.has(name), onchange: (event) => (shown[event.target.checked ? "add" : "delete"](name), all()) }), title(name))));
  };
  if (names.length) {
    put(
      body,
      axisChoice(against, names.includes("energy"), (value) => ((against = value), all())),
      h("p", { class: "key" }, swatch("line"), "mean over nodes", swatch("dark"), "middle half of the nodes", swatch("pale"), "from the worst to the best node", facts.is_sampled ? " · of the nodes whose rows the run keeps" : null),
      grid, others,
    );
    offer();
    await all();
  }
  let busy = false;
  view.listeners.push(async (change) => {
    if (busy || change.points === undefined) return;
    if (!names.length) return void location.reload();
    if (change.points === null) {
      busy = true;
      await all().catch(() => {});
      busy = false;
      return;
    }
    for (const [name, points] of Object.entries(change.points)) {
      const one = cards.get(name);
      if (!one || !shown.has(name)) continue;
      merge(one.state.lines[0].points, points);
      one.update();
    }
    // Many points were added one by one: the server thins them.
    if ([...cards.values()].some((one) => one.state.lines[0].points.length > 480)) await all().catch(() => {});
  });
}

/** Put changed points into those of a curve, in order of rounds. */
export function merge(points, changed) {
  for (const point of changed) {
    let place = points.length;
    while (place > 0 && points[place - 1][0] > point[0]) place -= 1;
    if (place > 0 && points[place - 1][0] === point[0]) points[place - 1] = point;
    else points.splice(place, 0, point);
  }
}
