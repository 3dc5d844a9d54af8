// The nodes: the graph by which they talk, coloured by accuracy, or a heat map of many.

import { count, csv, empty, figure, h, put, save, saveText, table, title } from "./dom.js";
import { drawing, tooltip } from "./chart.js";
import { get } from "./net.js";

// From dark blue to yellow (cividis): as light as the value is high, to every eye.
const SCALE = ["#00224e", "#2a3f6d", "#575d6d", "#7d7c78", "#a59c74", "#d2c060", "#fee838"];
const LOSS = [...SCALE].reverse();

export async function graph(body, view) {
  const found = await get(`/api/run/${view.id}/graph`);
  const values = found.kind === "graph" ? found.values : found.cells;
  const known = (values ?? []).filter((value) => value !== null);
  if (found.kind === "cells" && !known.length)
    return void put(body, empty("Nothing to draw", found.has_graph ? "The nodes have no accuracy yet, and they are too many for a graph." : "The program has no topology, and its nodes have no accuracy."));
  const plot = h("div", { class: "plot tall", role: "img", "aria-label": spoken(found, known) });
  const list = h("div", {});
  const shown = drawing(plot, (colour) => (found.kind === "graph" ? network(found, known, colour, plot.clientWidth) : cells(found, known, colour)));
  const name = `${view.row.name}-${found.kind === "graph" ? "graph" : "nodes"}`;
  const rows = () => (found.kind === "graph" ? [["node", "degree", found.figure], ...found.degrees.map((degree, node) => [node, degree, found.values?.[node] ?? null])] : [["first node", "nodes", found.figure], ...found.cells.map((value, index) => [index * found.each, found.each, value])]);
  put(
    body,
    h("p", { class: "lead" }, words(found)),
    h("div", { class: "columns" },
      h("figure", { class: "chart" }, plot, h("div", { class: "feet" }, h("span", { class: "note" }, found.kind === "graph" ? "Drag to move, scroll to zoom" : ""),
        h("button", { type: "button", class: "button small", "aria-label": "Save the picture as PNG", onclick: () => save(`${name}.png`, shown.png()) }, "PNG"),
        h("button", { type: "button", class: "button small", "aria-label": "Save the nodes as CSV", onclick: () => saveText(`${name}.csv`, csv(rows())) }, "CSV"))),
      list),
  );
  shown.again();
  if (found.values) put(list, extremes(found));
  let waiting = null;
  view.listeners.push((change) => {
    if (change.points === undefined || waiting) return;
    waiting = setTimeout(async () => {
      waiting = null;
      const later = await get(`/api/run/${view.id}/graph`).catch(() => null);
      if (!later) return;
      Object.assign(found, later);
      known.splice(0, known.length, ...(later.values ?? later.cells ?? []).filter((value) => value !== null));
      plot.setAttribute("aria-label", spoken(found, known));
      shown.again();
      if (found.values) put(list, extremes(found));
    }, 3000);
  });
}

function words(found) {
  if (found.kind === "cells") {
    const each = found.each > 1 ? `the mean of ${count(found.each)} nodes with consecutive ids` : "a node";
    return `${count(found.nodes)} nodes${found.has_graph ? ", too many for a graph" : ""}. Each cell is ${each}, in order of ids.`;
  }
  const edges = `${count(found.edges)} ${found.is_undirected ? "edges" : "directed edges"}`;
  const which = found.is_static ? "the same in every round" : "those of the first round; each round has others (covey plot --graph --round N)";
  const part = found.drawn.length < found.edges ? ` Of the edges, ${count(found.drawn.length)} are drawn.` : "";
  return `${count(found.nodes)} nodes and ${edges}, ${which}.${part} Colour: the latest ${found.figure} of a node.`;
}

function spoken(found, known) {
  const spread = known.length ? ` ${title(found.figure)} from ${figure(Math.min(...known))} to ${figure(Math.max(...known))}.` : "";
  return found.kind === "graph" ? `Graph of ${found.nodes} nodes and ${found.edges} edges.${spread}` : `Heat map of ${found.nodes} nodes.${spread}`;
}

function scale(found, known, colour, dimension) {
  if (!known.length) return {};
  let [low, high] = [Math.min(...known), Math.max(...known)];
  if (high - low < 1e-9) [low, high] = [low - 0.01, high + 0.01];
  return {
    visualMap: {
      type: "continuous", min: low, max: high, dimension, calculable: false, orient: "horizontal", left: "center", bottom: 4, itemWidth: 12, itemHeight: 150,
      inRange: { color: found.figure === "loss" ? LOSS : SCALE }, textStyle: { color: colour.soft }, text: [figure(high), `${found.figure} ${figure(low)}`], seriesIndex: found.kind === "graph" ? 1 : 0,
    },
  };
}

function network(found, known, colour, width) {
  const nodes = found.positions.length;
  const reach = Math.max(...found.positions.flat().map(Math.abs), 1e-9) * 1.06;
  const size = Math.max(4, Math.min(26, 190 / Math.sqrt(nodes), (0.4 * width * nearest(found.positions)) / reach));
  const faint = Math.max(0.06, Math.min(0.75, 6 / Math.sqrt(found.drawn.length + 1)));
  const bounds = { type: "value", min: -reach, max: reach, show: false };
  return {
    grid: { left: 10, right: 10, top: 10, bottom: 54 },
    xAxis: bounds,
    yAxis: bounds,
    dataZoom: [{ type: "inside", xAxisIndex: 0, filterMode: "none" }, { type: "inside", yAxisIndex: 0, filterMode: "none" }],
    tooltip: { ...tooltip(colour), trigger: "item", formatter: (at) => (at.seriesIndex === 1 ? node(found, at.dataIndex) : "") },
    ...scale(found, known, colour, 2),
    series: [
      {
        type: "graph", coordinateSystem: "cartesian2d", symbolSize: 0.01, silent: true, z: 1, data: found.positions.map((at) => ({ value: at })), itemStyle: { opacity: 0 },
        edges: found.drawn.map(([source, target]) => ({ source, target })), edgeSymbol: ["none", found.is_undirected || found.drawn.length > 600 ? "none" : "arrow"], edgeSymbolSize: 5,
        lineStyle: { color: colour.soft, opacity: faint, width: 1 },
      },
      {
        type: "scatter", z: 3, symbolSize: size, data: found.positions.map((at, index) => [...at, found.values?.[index] ?? null]),
        itemStyle: { color: known.length ? undefined : colour.lines[0], opacity: 1, borderColor: colour.soft, borderWidth: nodes > 400 ? 0.3 : 0.8 },
      },
    ],
  };
}

function cells(found, known, colour) {
  const { columns } = found;
  const data = found.cells.map((value, index) => [index % columns, Math.floor(index / columns), value]).filter((cell) => cell[2] !== null);
  const hidden = (length, inverse) => ({ type: "category", data: Array.from({ length }, (_, index) => index), inverse, show: false });
  return {
    grid: { left: 6, right: 6, top: 6, bottom: 54 },
    xAxis: hidden(columns, false),
    yAxis: hidden(Math.ceil(found.cells.length / columns), true),
    tooltip: {
      ...tooltip(colour), trigger: "item",
      formatter: (at) => {
        const first = (at.value[1] * columns + at.value[0]) * found.each;
        const last = Math.min(first + found.each, found.nodes) - 1;
        return h("div", {}, h("b", {}, last > first ? `nodes ${count(first)} to ${count(last)}` : `node ${count(first)}`), h("div", {}, h("span", {}, found.figure), h("span", {}, figure(at.value[2]))));
      },
    },
    ...scale(found, known, colour, 2),
    series: [{ type: "heatmap", data, itemStyle: { borderColor: colour.paper, borderWidth: columns > 60 ? 0.5 : 1 }, emphasis: { itemStyle: { borderColor: colour.ink } } }],
  };
}

/** The distance of the two nodes that are nearest to each other. */
function nearest(positions) {
  if (positions.length > 400) return 1;
  let least = 2;
  positions.forEach(([x, y], index) => positions.slice(0, index).forEach(([a, b]) => (least = Math.min(least, Math.hypot(x - a, y - b)))));
  return least;
}

function node(found, index) {
  const row = (label, value) => h("div", {}, h("span", {}, label), h("span", {}, value));
  const group = found.groups.findIndex((members) => members.includes(index));
  return h("div", {}, h("b", {}, `node ${index}`), row(found.figure, figure(found.values?.[index] ?? null)), row(found.is_undirected ? "neighbours" : "senders to it", count(found.degrees[index])), found.groups.length > 1 && group >= 0 ? row("group", count(group)) : null);
}

function extremes(found) {
  const order = found.values.map((value, index) => [value, index]).filter(([value]) => value !== null).sort((a, b) => b[0] - a[0]);
  const best = found.figure === "loss" ? [...order].reverse() : order;
  const few = best.length > 20;
  const rows = (few ? [...best.slice(0, 10), ...best.slice(-10)] : best).map(([value, index]) => [`node ${index}`, count(found.degrees[index]), figure(value)]);
  return [h("h2", {}, few ? "The ten best and the ten worst nodes" : "The nodes, from the best"), table(`Nodes by ${found.figure}`, ["node", found.is_undirected ? "neighbours" : "senders to it", found.figure], rows, "figures")];
}
