// Curves over rounds, time, bytes or energy, with their bands, their tables and their files.

import { amount, axis, count, csv, h, put, save, saveText, say, table, title, valued } from "./dom.js";
import { init } from "./echarts.js";

// The columns of a point, as the server sends it.
export const [ROUND, NODES, MEAN, LEAST, MOST, QUANTILES, TIME, BYTES, ENERGY] = [0, 1, 2, 3, 4, 5, 6, 7, 8];
const X = { rounds: ROUND, time: TIME, bytes: BYTES, energy: ENERGY };
const MARKS = ["circle", "rect", "triangle", "diamond", "roundRect", "pin"];
export const LINES = 6;

const dark = matchMedia("(prefers-color-scheme: dark)");

/** The colours of the page, in light or dark mode. */
export function colours() {
  const style = getComputedStyle(document.documentElement);
  const named = (name) => style.getPropertyValue(`--${name}`).trim();
  return {
    ink: named("ink"), soft: named("soft"), rule: named("rule"), faint: named("faint"), paper: named("paper"), panel: named("panel"),
    lines: Array.from({ length: LINES }, (_, index) => named(`line${index}`)),
  };
}

/** A drawing that fits its element, and is drawn anew in the other mode. draw: gives the options of ECharts. */
export function drawing(element, draw) {
  const chart = init(element, null, { renderer: "canvas" });
  const again = () => chart.setOption({ animation: false, ...draw(colours()) }, { notMerge: true });
  new ResizeObserver(() => chart.resize()).observe(element);
  dark.addEventListener("change", again);
  return {
    chart,
    again,
    png: () => chart.getDataURL({ type: "png", pixelRatio: 2, backgroundColor: colours().paper }),
  };
}

export function tooltip(colour) {
  return {
    confine: true,
    className: "tip",
    backgroundColor: colour.paper,
    borderColor: colour.rule,
    borderWidth: 1,
    padding: [6, 10],
    textStyle: { color: colour.ink, fontSize: 13 },
    extraCssText: "box-shadow: 0 2px 10px rgb(20 30 40 / 15%)",
  };
}

function axes(colour, against, clockOfRun, vertical, range) {
  const [label, numbers] = axis(against, clockOfRun);
  const text = { color: colour.soft, fontSize: 12 };
  const line = { lineStyle: { color: colour.rule } };
  return {
    grid: { left: 6, right: 12, top: 14, bottom: 26, containLabel: true },
    xAxis: {
      type: "value", name: label, nameLocation: "middle", nameGap: 28, nameTextStyle: text, axisLine: line, axisTick: line, min: "dataMin", max: "dataMax",
      splitLine: { show: false }, minInterval: against === "rounds" ? 1 : 0, splitNumber: 5,
      axisLabel: { ...text, hideOverlap: true, showMinLabel: true, alignMinLabel: "left", alignMaxLabel: "right", formatter: numbers },
    },
    yAxis: {
      type: "value", scale: true, splitNumber: 4, axisLine: { show: false }, axisTick: { show: false }, ...range, axisLabel: { ...text, formatter: vertical }, splitLine: { lineStyle: { color: colour.faint } },
    },
  };
}

/** The bounds of an axis: accuracies that fill most of [0, 1] have all of it. */
function range(name, lines) {
  if (!/accuracy/.test(name)) return {};
  const least = Math.min(...lines.flatMap((points) => points.map((point) => point[LEAST] ?? 1)));
  const most = Math.max(...lines.flatMap((points) => points.map((point) => point[MOST] ?? 0)));
  if (least < 0 || most > 1) return {};
  if (most > 0.5 && least < 0.5) return { min: 0, max: 1, interval: 0.25 };
  return most > 0.5 ? { max: 1 } : least < 0.2 ? { min: 0 } : {};
}

function band(points, x, low, high, colour, opacity, stack) {
  const known = points.filter((point) => low(point) !== null && high(point) !== null && point[x] !== null);
  const common = { type: "line", stack, stackStrategy: "all", symbol: "none", silent: true, lineStyle: { width: 0 }, z: 1, emphasis: { disabled: true } };
  return [
    { ...common, data: known.map((point) => [point[x], low(point)]) },
    { ...common, data: known.map((point) => [point[x], high(point) - low(point)]), areaStyle: { color: colour, opacity } },
  ];
}

/** The series of one line and its bands. */
function series(points, x, colour, { bands = true, index = 0, several = false } = {}) {
  const line = {
    type: "line", z: 3, data: points.filter((point) => point[x] !== null).map((point) => [point[x], point[MEAN]]),
    lineStyle: { color: colour, width: 2 }, itemStyle: { color: colour }, connectNulls: false, emphasis: { disabled: true },
    symbol: MARKS[index % MARKS.length], symbolSize: 6, showSymbol: points.length === 1 || (several && points.length <= 40),
  };
  if (!bands || points.length < 2) return [line];
  return [
    ...band(points, x, (point) => point[LEAST], (point) => point[MOST], colour, 0.13, `range${index}`),
    ...band(points, x, (point) => point[QUANTILES]?.[1] ?? null, (point) => point[QUANTILES]?.[3] ?? null, colour, 0.26, `middle${index}`),
    line,
  ];
}

const HEADS = ["round", "time", "bytes", "energy", "nodes", "mean", "least", "10 %", "25 %", "50 %", "75 %", "90 %", "most"];

function cells(point) {
  return [point[ROUND], point[TIME], point[BYTES], point[ENERGY], point[NODES], point[MEAN], point[LEAST], ...(point[QUANTILES] ?? Array(5).fill(null)), point[MOST]];
}

/** A card with a chart of one figure. of: where its points are kept, {lines: [{name, points}], clock}. */
export function card(name, stem, heading = title(name)) {
  const state = { lines: [], against: "rounds", clock: "virtual", drawn: false };
  const now = h("span", { class: "now" });
  const plot = h("div", { class: "plot", role: "img", "aria-label": `${heading}: no values yet` });
  const rows = h("div", { hidden: true });
  const note = h("span", { class: "note" });
  let shown = null;
  const files = [
    h("button", { type: "button", class: "button small", "aria-label": `Save ${heading} as PNG`, onclick: () => save(`${stem()}-${name}.png`, shown.png()) }, "PNG"),
    h("button", { type: "button", class: "button small", "aria-label": `Save ${heading} as CSV`, onclick: () => saveText(`${stem()}-${name}.csv`, csv([["run", ...HEADS], ...state.lines.flatMap((line) => line.points.map((point) => [line.name, ...cells(point)]))])) }, "CSV"),
  ];
  const toggle = h("button", { type: "button", class: "button small", "aria-expanded": "false", "aria-label": `Show ${heading} as a table`, onclick: () => opened(rows.hidden) }, "Table");
  const opened = (open) => {
    rows.hidden = !open;
    toggle.setAttribute("aria-expanded", String(open));
    if (open) filled();
  };
  const filled = () => {
    const several = state.lines.length > 1;
    const line = (run, point) => [...(several ? [run] : []), ...[ROUND, NODES].map((column) => count(point[column])), valued(name, point[MEAN]), valued(name, point[LEAST]), valued(name, point[QUANTILES]?.[2]), valued(name, point[MOST])];
    put(rows, table(`${heading} by round`, [...(several ? ["run"] : []), "round", "nodes", "mean", "least", "median", "most"], state.lines.flatMap((one) => one.points.map((point) => line(one.name, point))), "figures"));
  };
  const element = h("figure", { class: "chart" }, h("figcaption", {}, h("h2", {}, heading), now), plot, h("div", { class: "feet" }, note, files, toggle), rows);

  const draw = (colour) => {
    const several = state.lines.length > 1;
    const x = X[state.against];
    const list = state.lines.flatMap((line, index) => series(line.points, x, colour.lines[(line.colour ?? index) % LINES], { bands: !several, index, several }));
    const numbers = name === "bytes_out" ? amount : (value) => short(value);
    return {
      ...axes(colour, state.against, state.clock, numbers, range(name, state.lines.map((line) => line.points))),
      tooltip: { trigger: "axis", axisPointer: { lineStyle: { color: colour.soft } }, ...tooltip(colour), formatter: (found) => tip(state, x, found[0]?.value?.[0], name) },
      series: list,
    };
  };
  return {
    element,
    name,
    state,
    update() {
      if (!shown) shown = drawing(plot, draw);
      const known = state.lines.flatMap((line) => line.points).filter((point) => point[X[state.against]] !== null);
      plot.hidden = !known.length;
      say(note, known.length ? "" : state.lines.some((line) => line.points.length) ? `There is no ${state.against === "energy" ? "energy" : state.against} in this run.` : "No value yet.");
      if (state.lines.length === 1) say(now, valued(name, state.lines[0].points.at(-1)?.[MEAN] ?? null));
      plot.setAttribute("aria-label", spoken(heading, name, state));
      if (known.length) {
        shown.again();
        shown.chart.resize();
      }
      if (!rows.hidden) filled();
    },
  };
}

/** A number of a vertical axis. */
function short(value) {
  const size = Math.abs(value);
  if (size >= 1e4 || (size > 0 && size < 1e-3)) return value.toExponential(0).replace("e+", "e");
  return String(Number(value.toPrecision(4)));
}

/** A chart in one sentence, for those who hear it. */
function spoken(heading, name, state) {
  const of = (line) => {
    const [first, last] = [line.points[0], line.points.at(-1)];
    return `${state.lines.length > 1 ? `${line.name}: ` : ""}from ${valued(name, first[MEAN])} in round ${first[ROUND]} to ${valued(name, last[MEAN])} in round ${last[ROUND]}`;
  };
  const lines = state.lines.filter((line) => line.points.length);
  return lines.length ? `${heading}, mean over nodes. ${lines.map(of).join("; ")}.` : `${heading}: no values yet`;
}

/** The values at a position. */
function tip(state, x, at, name) {
  if (at === undefined) return "";
  const nearest = (points) => points.reduce((best, point) => (point[x] !== null && (best === null || Math.abs(point[x] - at) < Math.abs(best[x] - at)) ? point : best), null);
  const row = (label, value) => h("div", {}, h("span", {}, label), h("span", {}, value));
  if (state.lines.length > 1) {
    const rows = state.lines.map((line, index) => [line, nearest(line.points), index]).filter(([, point]) => point);
    return h("div", {}, rows.map(([line, point, index]) => h("div", {}, h("span", { class: `curve${(line.colour ?? index) % LINES}` }, `● ${line.name}`), h("span", {}, `${valued(name, point[MEAN])} (round ${point[ROUND]})`))));
  }
  const point = nearest(state.lines[0]?.points ?? []);
  if (!point) return "";
  const [, numbers] = axis(state.against, state.clock);
  const middle = point[QUANTILES];
  return h(
    "div",
    {},
    h("b", {}, `round ${point[ROUND]}${state.against === "rounds" ? "" : `, ${numbers(point[x])}`}`),
    row(point[NODES] > 1 ? "mean" : "value", valued(name, point[MEAN])),
    middle && point[NODES] > 1 ? row("middle half", `${valued(name, middle[1])} to ${valued(name, middle[3])}`) : null,
    point[NODES] > 1 ? row("all nodes", `${valued(name, point[LEAST])} to ${valued(name, point[MOST])}`) : null,
    point[NODES] > 1 ? row("nodes", count(point[NODES])) : null,
  );
}

/** The choice of the horizontal axis. */
export function axisChoice(chosen, hasEnergy, change) {
  const labels = { rounds: "rounds", time: "time", bytes: "bytes sent", ...(hasEnergy ? { energy: "energy" } : {}) };
  return h(
    "fieldset",
    { class: "axis" },
    h("legend", {}, "Horizontal axis"),
    Object.entries(labels).map(([value, label]) => h("label", {}, h("input", { type: "radio", name: "axis", value, checked: value === chosen, onchange: () => change(value) }), label)),
  );
}

