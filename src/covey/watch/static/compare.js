// Some runs on the same axes, and the settings in which they differ.

import { amount, count, empty, figure, h, put, s, seconds, status, table, title } from "./dom.js";
import { axisChoice, card, LINES } from "./chart.js";
import { get, stream } from "./net.js";
import { merge } from "./run.js";

export async function show(main, connected) {
  const ids = (new URLSearchParams(location.search).get("runs") ?? "").split(",").filter(Boolean);
  document.title = "Compare · covey";
  if (ids.length < 2) return void put(main, empty("Nothing to compare", h("p", {}, "Choose two or more of ", h("a", { href: "/" }, "all runs"), ".")));
  const found = await get(`/api/differences?runs=${ids.join(",")}`);
  const rows = found.runs;
  const names = shortened(rows.map((row) => row.name));
  const shared = [...new Set(found.figures.flatMap((figures) => Object.keys(figures)))];
  const usual = ["accuracy", "loss", "consensus_distance", "bytes_out"].filter((name) => shared.includes(name));
  const shown = new Set(usual.length ? usual : shared.slice(0, 4));
  const grid = h("div", { class: "charts" });
  const cards = new Map();
  let against = "rounds";

  const load = async (name) => {
    const having = rows.map((row, index) => [row, index]).filter(([, index]) => name in found.figures[index]);
    const curves = await Promise.all(having.map(([row]) => get(`/api/run/${row.id}/curve?figure=${encodeURIComponent(name)}&against=${against}`)));
    const one = cards.get(name) ?? card(name, () => "compared");
    cards.set(name, one);
    Object.assign(one.state, { against, clock: rows[0].clock, lines: curves.map(({ points }, index) => ({ name: names[having[index][1]], id: having[index][0].id, points, colour: having[index][1] })) });
    return one;
  };
  const all = async () => {
    const loaded = await Promise.all([...shown].map(load));
    put(grid, loaded.map((one) => one.element));
    for (const one of loaded) one.update();
  };
  const mark = (index) => s("svg", { class: `curve${index % LINES}`, width: 26, height: 12, viewBox: "0 0 26 12", "aria-hidden": "true" }, s("path", { d: "M0 6H26", stroke: "currentColor", "stroke-width": 2 }), SHAPES[index % SHAPES.length]());
  const rest = shared.filter((name) => !usual.includes(name));
  put(
    main,
    h("p", { class: "crumbs" }, h("a", { href: "/" }, "← All runs")),
    h("div", { class: "head" }, h("h1", {}, `${rows.length} runs compared`)),
    h("ul", { class: "legend", "aria-label": "Runs and their lines" }, rows.map((row, index) => h("li", {}, mark(index), h("a", { href: `/run/${row.id}` }, names[index])))),
    axisChoice(against, shared.includes("energy"), (value) => ((against = value), all())),
    h("p", { class: "key" }, "Lines: mean over the nodes of a run."),
    grid,
    rest.length ? h("details", { class: "more" }, h("summary", {}, `More figures (${rest.length})`), rest.map((name) => h("label", {}, h("input", { type: "checkbox", onchange: (event) => (shown[event.target.checked ? "add" : "delete"](name), all()) }), title(name)))) : null,
    h("section", { class: "section" }, h("h3", {}, "Results"), table("Results", ["run", "status", "round", "accuracy", "loss", "sent", "time"], rows.map((row, index) => [names[index], status(row.status), `${count(Math.floor(row.done))} of ${count(row.rounds)}`, figure(row.accuracy), figure(row.loss), amount(row.bytes), seconds(row.time)]), "figures")),
    h("section", { class: "section" }, h("h3", {}, "Differences"), found.differs.length ? table("Settings in which the runs differ", ["setting", ...names], found.differs, "settings") : h("p", { class: "sub" }, "Their settings are the same.")),
    h("details", { class: "more" }, h("summary", {}, `The same for all (${found.same.length})`), table("Settings that the runs share", ["setting", "value"], found.same, "settings pair")),
  );
  await all();
  for (const row of rows.filter((one) => one.status === "running")) follow(row, cards, shown, connected);
  if (!rows.some((row) => row.status === "running")) connected("live");
}

const SHAPES = [
  () => s("circle", { cx: 13, cy: 6, r: 3.5, fill: "currentColor" }),
  () => s("path", { d: "M9.5 2.5h7v7h-7z", fill: "currentColor" }),
  () => s("path", { d: "M13 2 17 9.5H9z", fill: "currentColor" }),
  () => s("path", { d: "M13 1.5 17 6 13 10.5 9 6z", fill: "currentColor" }),
  () => s("rect", { x: 9.5, y: 2.5, width: 7, height: 7, rx: 2, fill: "currentColor" }),
  () => s("path", { d: "M13 11C8 5 11 2 13 2s5 3 0 9z", fill: "currentColor" }),
];

/** The names without the folders that all of them share. */
function shortened(names) {
  const parts = names.map((name) => name.split("/"));
  let common = 0;
  while (parts.every((one) => one.length > common + 1 && one[common] === parts[0][common])) common += 1;
  return parts.map((one) => one.slice(common).join("/"));
}

function follow(row, cards, shown, connected) {
  let since = "";
  stream(() => `/api/run/${row.id}/stream?since=${since}&event=999999999&figures=${encodeURIComponent([...shown].join("\n"))}`, async (change) => {
    const first = since === "";
    since = change.cursor;
    if (first || change.points === undefined) return;
    for (const [name, one] of cards) {
      const line = one.state.lines.find((each) => each.id === row.id);
      if (!line || !shown.has(name)) continue;
      if (change.points === null) line.points = (await get(`/api/run/${row.id}/curve?figure=${encodeURIComponent(name)}&against=${one.state.against}`)).points;
      else if (change.points[name]) merge(line.points, change.points[name]);
      else continue;
      one.update();
    }
  }, connected);
}
