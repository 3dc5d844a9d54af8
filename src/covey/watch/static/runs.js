// All runs: their state, a filter, and the choice of some to compare.

import { ago, amount, bar, clock, count, empty, figure, h, put, say, seconds, spark, status } from "./dom.js";
import { get, stream } from "./net.js";

const SORTS = {
  name: ["Run", (row) => row.name],
  status: ["Status", (row) => ["running", "failed", "unreadable", "interrupted", "finished"].indexOf(row.status)],
  done: ["Progress", (row) => (row.rounds ? row.done / row.rounds : 0)],
  accuracy: ["Accuracy", (row) => row.accuracy ?? -1],
  loss: ["Loss", (row) => row.loss ?? Infinity],
  bytes: ["Sent", (row) => row.bytes ?? -1],
  started: ["Started", (row) => Date.parse(row.started) || 0],
};

export async function show(main, connected) {
  const state = { rows: new Map(), chosen: new Set(), sort: "", down: false, problem: "", folder: "", first: true };
  const view = built(state);
  const begun = await get("/api/runs");
  state.folder = begun.folder;
  document.getElementById("where").textContent = begun.folder;
  document.title = `${begun.folder} · covey`;
  take(state, begun);
  put(main, view.page);
  draw(state, view);
  performance.mark("covey-painted");
  let asked = false;
  stream(() => "/api/runs/stream", (facts) => {
    take(state, facts);
    if (!asked) {
      asked = true;
      requestAnimationFrame(() => {
        asked = false;
        draw(state, view);
      });
    }
  }, connected);
  setInterval(() => draw(state, view), 15_000);
  document.addEventListener("keydown", (event) => {
    if (event.key === "/" && !["INPUT", "SELECT"].includes(document.activeElement.tagName)) {
      event.preventDefault();
      view.filter.focus();
    }
  });
}

function take(state, facts) {
  const known = state.rows;
  const changed = new Map(facts.rows.map((row) => [row.id, row]));
  state.rows = new Map((facts.ids ?? []).map((id) => [id, changed.get(id) ?? known.get(id)]).filter(([, row]) => row));
  state.problem = facts.problem ?? "";
}

function built(state) {
  const view = { lines: new Map() };
  const again = () => draw(state, view);
  view.summary = h("p", { class: "lead" });
  view.filter = h("input", { type: "search", id: "filter", placeholder: "name, program, seed …", autocomplete: "off", spellcheck: "false", oninput: again });
  view.status = h("select", { id: "status", onchange: again }, ["all", "running", "finished", "interrupted", "failed", "unreadable"].map((name) => h("option", { value: name }, name === "all" ? "every status" : name)));
  view.heads = Object.entries(SORTS).map(([key, [label]]) =>
    h("th", { scope: "col", role: "columnheader", class: `c-${key}` }, h("button", { type: "button", class: "sort", onclick: () => sorted(state, key, again) }, label)),
  );
  view.body = h("tbody", { role: "rowgroup" });
  view.table = h(
    "table",
    { class: "runs", role: "table" },
    h("caption", { class: "unseen" }, "All runs"),
    h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, h("th", { scope: "col", role: "columnheader", class: "c-choose" }, h("span", { class: "unseen" }, "Compare")), view.heads)),
    view.body,
  );
  view.none = h("div", { hidden: true });
  view.compare = h("a", { class: "button main", href: "#" }, "Compare");
  view.chosen = h("span", { role: "status" });
  view.choice = h("div", { class: "choice", hidden: true }, view.chosen, view.compare, h("button", { type: "button", class: "button", onclick: () => (state.chosen.clear(), again()) }, "Clear"));
  view.page = h(
    "div",
    {},
    h("div", { class: "head" }, h("h1", {}, "Runs"), view.summary),
    h("form", { class: "tools", role: "search", onsubmit: (event) => event.preventDefault() }, h("label", {}, h("span", {}, "Filter"), view.filter), h("label", {}, h("span", {}, "Status"), view.status)),
    view.none,
    view.table,
    view.choice,
  );
  return view;
}

function sorted(state, key, again) {
  if (state.sort !== key) [state.sort, state.down] = [key, ["accuracy", "bytes", "started", "done"].includes(key)];
  else if (state.down === ["accuracy", "bytes", "started", "done"].includes(key)) state.down = !state.down;
  else state.sort = "";
  again();
}

function shownRows(state, view) {
  const words = view.filter.value.toLowerCase().split(/\s+/).filter(Boolean);
  const matches = (row) => {
    const text = `${row.name} ${row.label} ${row.program} seed ${row.seed} ${row.nodes} nodes ${row.status}`.toLowerCase();
    return words.every((word) => text.includes(word)) && ["all", row.status].includes(view.status.value);
  };
  const rows = [...state.rows.values()].filter(matches);
  if (state.sort) {
    const key = SORTS[state.sort][1];
    rows.sort((a, b) => (key(a) < key(b) ? -1 : key(a) > key(b) ? 1 : 0) * (state.down ? -1 : 1));
  }
  return rows;
}

function draw(state, view) {
  const every = [...state.rows.values()];
  const counts = {};
  for (const row of every) counts[row.status] = (counts[row.status] ?? 0) + 1;
  const parts = Object.entries(counts).map(([name, number]) => `${number} ${name}`);
  say(view.summary, every.length ? parts.join(" · ") : "");
  const rows = shownRows(state, view);
  Object.keys(SORTS).forEach((key, index) => {
    view.heads[index].setAttribute("aria-sort", state.sort !== key ? "none" : state.down ? "descending" : "ascending");
  });
  const lines = rows.map((row) => line(state, view, row));
  const before = [...view.body.children];
  if (before.length !== lines.length || before.some((child, index) => child !== lines[index])) {
    const focused = document.activeElement;
    view.body.replaceChildren(...lines);
    if (view.body.contains(focused)) focused.focus();
  }
  for (const id of view.lines.keys()) if (!state.rows.has(id)) view.lines.delete(id);
  view.table.hidden = !rows.length;
  view.none.hidden = rows.length > 0;
  if (!rows.length) put(view.none, nothing(state, every.length));
  chosen(state, view);
}

function nothing(state, others) {
  if (state.problem) return empty("The folder cannot be read", state.problem);
  if (others) return empty("No run fits the filter", `${count(others)} others do not.`);
  return empty(
    "No run yet",
    `The folder ${state.folder} holds none. As soon as one begins, it is here:`,
    h("pre", {}, `covey run experiment.toml --out ${state.folder}/first`),
  );
}

function chosen(state, view) {
  for (const id of state.chosen) if (!state.rows.has(id)) state.chosen.delete(id);
  const number = state.chosen.size;
  view.choice.hidden = number === 0;
  say(view.chosen, number === 1 ? "1 run chosen: choose another one to compare" : `${number} runs chosen`);
  view.compare.hidden = number < 2;
  view.compare.href = `/compare?runs=${[...state.chosen].join(",")}`;
}

/** The line of a run, which is changed in place. */
function line(state, view, row) {
  let found = view.lines.get(row.id);
  if (!found) {
    const cell = (key, ...children) => h("td", { role: "cell", class: `c-${key}` }, ...children);
    const box = h("input", { type: "checkbox", "aria-label": `Compare ${row.name}`, onchange: (event) => (state.chosen[event.target.checked ? "add" : "delete"](row.id), draw(state, view)) });
    const cells = Object.fromEntries(Object.keys(SORTS).map((key) => [key, cell(key)]));
    found = { box, cells, shown: "", element: h("tr", { role: "row" }, h("td", { role: "cell", class: "c-choose" }, box), Object.values(cells)) };
    view.lines.set(row.id, found);
  }
  found.box.checked = state.chosen.has(row.id);
  const quiet = row.status === "running" && Date.now() / 1000 - row.updated > 30 ? ago(row.updated) : "";
  const now = JSON.stringify([row, quiet]);
  if (found.shown !== now) {
    found.shown = now;
    fill(found.cells, row, quiet);
  }
  return found.element;
}

function fill(cells, row, quiet) {
  const facts = [row.program, row.nodes ? `${count(row.nodes)} nodes` : "", row.seed === null ? "" : `seed ${row.seed}`].filter(Boolean);
  put(cells.name, h("a", { href: `/run/${row.id}` }, row.name), h("span", { class: "sub" }, row.problem || facts.join(" · ")));
  cells.name.classList.toggle("trouble", Boolean(row.problem));
  put(cells.status, status(row.status), quiet ? h("span", { class: "sub" }, `last row ${quiet}`) : null);
  const at = `${count(Math.floor(row.done))} of ${count(row.rounds)}`;
  const left = row.read < 1 ? `reading, ${Math.round(row.read * 100)} %` : row.left !== null ? `${seconds(row.left)} left` : "";
  put(cells.done, bar(row.done, row.rounds, `Rounds: ${at}`, row.status === "running"), h("span", { class: "sub" }, left ? `${at} · ${left}` : at));
  put(cells.accuracy, spark(row.spark, row.accuracy === null ? "Loss by round" : "Accuracy by round"), h("span", { class: "number" }, figure(row.accuracy)));
  put(cells.loss, figure(row.loss));
  put(cells.bytes, amount(row.bytes));
  put(cells.started, row.started ? clock(row.started) : "–");
}
