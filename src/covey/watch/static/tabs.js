// The pages of a run beside its curves.

import { amount, clock, count, empty, figure, h, put, seconds, table } from "./dom.js";
import { get } from "./net.js";

export async function pageOf(body, view, page) {
  if (page === "graph") return (await import("./graph.js")).graph(body, view);
  return { events, hosts, attacks, settings }[page](body, view);
}

// ---------------------------------------------------------------------- events

async function events(body, view) {
  const found = await get(`/api/run/${view.id}/events`);
  let rows = found.events;
  view.event = rows[0]?.row ?? 0;
  const kinds = new Map(found.kinds);
  const draw = () => {
    if (!rows.length) return void put(body, empty("No event", "Nodes that leave, return or are lost, rejected messages and the like are here when they happen."));
    const list = [...kinds].map(([kind, number]) => h("li", {}, h("b", {}, count(number)), ` ${kind}`));
    const lines = rows.map((event) => [seconds(event.time), event.node < 0 ? "–" : count(event.node), event.kind, event.detail || "–"]);
    const all = [...kinds.values()].reduce((sum, number) => sum + number, 0);
    put(body, h("ul", { class: "counts", "aria-label": "Events by kind" }, list), all > rows.length ? h("p", { class: "sub" }, `The newest ${count(rows.length)} of ${count(all)}, by time of the nodes.`) : null, table("Events, the newest first", ["time", "node", "event", "detail"], lines, "words"));
  };
  draw();
  view.listeners.push((change) => {
    if (!change.events) return;
    for (const event of change.events) kinds.set(event.kind, (kinds.get(event.kind) ?? 0) + 1);
    rows = [...change.events, ...rows].slice(0, 200);
    draw();
  });
}

// ---------------------------------------------------------------------- hosts

const QUIET = 5;

async function hosts(body, view) {
  const draw = async () => {
    const found = await get(`/api/run/${view.id}/hosts`);
    if (!found.hosts.length) return void put(body, empty("No figures of hosts", "A simulation has none; the hosts of an emulation report theirs some times a second."));
    const behind = (host) => (host.behind > QUIET ? h("span", { class: "late" }, `silent for ${seconds(host.behind)}`) : "reporting");
    const of = (host, name, show) => (host.figures[name] === undefined ? "–" : show(host.figures[name]));
    const rows = found.hosts.map((host) => [
      `host ${host.host}`, behind(host), of(host, "memory", amount), of(host, "cpu_seconds", seconds), of(host, "inboxes", count), of(host, "send_queue", amount), of(host, "socket_bytes_out", amount), of(host, "train_late", seconds), of(host, "send_late", seconds),
    ]);
    const lost = found.lost.map((event) => [seconds(event.time), event.kind, event.detail]);
    put(
      body,
      table("Hosts", ["host", "condition", "memory", "CPU time", "messages in inboxes", "waiting to be sent", "sent by sockets", "trainings late by", "messages late by"], rows, "figures"),
      lost.length ? [h("h3", {}, "Lost and returned"), table("Events of hosts", ["time", "event", "detail"], lost, "words")] : null,
    );
  };
  await draw();
  let waiting = null;
  view.listeners.push(() => (waiting ??= setTimeout(() => ((waiting = null), draw().catch(() => {})), 1500)));
}

// ---------------------------------------------------------------------- attacks and observers

async function attacks(body, view) {
  const found = await get(`/api/run/${view.id}/attacks`);
  const parts = [];
  const observer = Object.entries(found.observer);
  if (observer.length)
    parts.push(h("section", { class: "section" }, h("h2", {}, "Observer"), table("Observer", ["setting", "value"], [...observer, ["messages kept", found.messages === null ? "known when the run has ended" : count(found.messages)]], "settings pair")));
  if (!found.attacks.length) parts.push(empty("No attack was made", "Attack what the observers received:", h("pre", {}, "covey attack RUN --kind linkability,membership-loss")));
  const later = [];
  for (const attack of found.attacks) {
    const rows = attack.rows.map((row) => row.map(String));
    const plot = Object.keys(attack.curves).length ? await rates(attack, view, later) : null;
    parts.push(
      h("section", { class: "section" }, h("h2", {}, attack.kind), h("p", { class: "lead" }, attack.meaning), rows.length ? table(`Results of ${attack.kind}`, attack.columns, rows, "figures") : null, plot,
        attack.picture ? h("img", { class: "picture", src: attack.picture, alt: `Reconstructions of ${attack.kind} beside the true samples` }) : null),
    );
  }
  put(body, parts);
  for (const draw of later) draw();
}

/** The true positives of an attack against its false positives, on logarithmic axes as is usual. */
async function rates(attack, view, later) {
  const { drawing, tooltip } = await import("./chart.js");
  const names = Object.keys(attack.curves);
  const plot = h("div", { class: "plot", role: "img", "aria-label": `True against false positives of ${attack.kind}: ${names.join(", ")}` });
  const element = h("figure", { class: "chart" }, h("figcaption", {}, h("h3", {}, "True positives against false positives")), plot, h("ul", { class: "legend" }, names.slice(0, 6).map((name, index) => h("li", { class: `curve${index % 6}` }, "● ", name))));
  later.push(() => {
    const shown = drawing(plot, (colour) => {
      const axis = (name) => ({ type: "log", min: 1e-3, max: 1, name, nameLocation: "middle", nameGap: 30, nameTextStyle: { color: colour.soft }, axisLabel: { color: colour.soft, alignMinLabel: "left", alignMaxLabel: "right" }, axisLine: { lineStyle: { color: colour.rule } }, splitLine: { lineStyle: { color: colour.faint } } });
      const line = (points, look, extra = {}) => ({ type: "line", symbol: "none", data: points.filter(([x, y]) => x > 0 && y > 0), lineStyle: look, ...extra });
      return {
        grid: { left: 8, right: 16, top: 12, bottom: 30, containLabel: true },
        xAxis: axis("false positives"), yAxis: { ...axis(""), axisLabel: { color: colour.soft } }, tooltip: { ...tooltip(colour), show: false },
        series: [line([[1e-3, 1e-3], [1, 1]], { color: colour.soft, type: "dashed", width: 1 }), ...names.slice(0, 6).map((name, index) => line(attack.curves[name][0].map((x, at) => [x, attack.curves[name][1][at]]), { color: colour.lines[index], width: 2 }))],
      };
    });
    shown.again();
  });
  return element;
}

// ---------------------------------------------------------------------- settings

async function settings(body, view) {
  const { facts } = view;
  const filter = h("input", { type: "search", placeholder: "a part of a key or value", autocomplete: "off", spellcheck: "false" });
  const list = h("div", {});
  const pairs = Object.entries(facts.settings);
  const draw = () => {
    const word = filter.value.toLowerCase();
    const rows = pairs.filter(([key, value]) => `${key} ${value}`.toLowerCase().includes(word));
    put(list, rows.length ? table("Settings of the experiment", ["key", "value"], rows, "settings pair") : empty("No setting fits the filter"));
  };
  filter.addEventListener("input", draw);
  draw();
  const starts = facts.starts.map((start, index) =>
    h("section", { class: "section" }, h("h3", {}, facts.starts.length > 1 ? `Start ${index + 1}` : "Start"), table(`Start ${index + 1}`, ["fact", "value"], Object.entries(start).map(([key, value]) => [key.replaceAll("_", " "), key === "started" ? `${clock(value)} (${value})` : value]), "settings pair")),
  );
  const drops = Object.entries(facts.drops);
  const totals = Object.entries(facts.totals).map(([key, value]) => [key.replaceAll("_", " "), /bytes/.test(key) ? amount(value) : count(value)]);
  put(
    body,
    facts.is_changed ? h("p", { class: "trouble-note" }, "run.toml was changed after the run began.") : null,
    facts.privacy.map((words) => h("p", { class: "trouble-note" }, `Privacy: ${words}.`)),
    h("div", { class: "columns" },
      h("section", { class: "section" }, h("h2", {}, "Experiment"), h("div", { class: "tools" }, h("label", {}, h("span", {}, "Filter"), filter)), list),
      h("div", {},
        totals.length ? h("section", { class: "section" }, h("h2", {}, "Totals of the nodes"), table("Totals", ["total", "value"], totals, "figures")) : null,
        drops.length ? h("section", { class: "section" }, h("h2", {}, "Dropped messages"), facts.drops_in_words ? h("p", { class: "lead" }, facts.drops_in_words) : null, table("Dropped messages by reason", ["reason", "messages"], drops.map(([reason, number]) => [reason, count(number)]), "figures")) : null,
        h("section", { class: "section" }, h("h2", {}, "Environment"), starts))),
  );
}
