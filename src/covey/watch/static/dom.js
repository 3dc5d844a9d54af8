// Elements whose texts are never parsed, and numbers as people read them.

const SVG = "http://www.w3.org/2000/svg";

/** An element with attributes, listeners ("onclick") and children. A text is a text node: nothing is parsed as HTML. */
export function h(name, attributes = {}, ...children) {
  return filled(document.createElement(name), attributes, children);
}

/** An element of a picture. */
export function s(name, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, name), attributes, children);
}

function filled(element, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (key === "value" || key === "checked") element[key] = value;
    else element.setAttribute(key, value === true ? "" : String(value));
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** Replace the content of an element. */
export function put(element, ...children) {
  element.replaceChildren(...children.flat().filter(Boolean));
  return element;
}

/** Change a text only where it differs, so that readers of the screen are not disturbed. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
  return element;
}

export const NONE = "–";

export function figure(value, digits = 3) {
  if (value === null || value === undefined) return NONE;
  const size = Math.abs(value);
  if (size !== 0 && (size >= 1e6 || size < 10 ** -digits / 2)) return value.toExponential(2);
  return value.toFixed(size >= 1000 ? 0 : digits);
}

export function count(value) {
  return value === null || value === undefined ? NONE : Math.round(value).toLocaleString("en");
}

export function amount(value) {
  if (value === null || value === undefined) return NONE;
  let size = value;
  for (const unit of ["B", "kB", "MB", "GB"]) {
    if (Math.abs(size) < 1000) return `${unit === "B" ? Math.round(size) : trimmed(size)} ${unit}`;
    size /= 1000;
  }
  return `${trimmed(size)} TB`;
}

export function seconds(value) {
  if (value === null || value === undefined) return NONE;
  if (value === 0) return "0 s";
  if (value < 1) return `${Math.round(value * 1000)} ms`;
  if (value < 120) return `${trimmed(value)} s`;
  if (value < 7200) return `${trimmed(value / 60)} min`;
  return value < 172800 ? `${trimmed(value / 3600)} h` : `${trimmed(value / 86400)} days`;
}

const trimmed = (value) => value.toFixed(1).replace(/\.0$/, "");

/** The time since a moment, in seconds since 1970. */
export function ago(moment) {
  const past = Date.now() / 1000 - moment;
  return past < 5 ? "just now" : `${seconds(Math.round(past))} ago`;
}

export function clock(moment) {
  const date = new Date(moment);
  if (Number.isNaN(date.getTime())) return NONE;
  const time = date.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
  const today = date.toDateString() === new Date().toDateString();
  return today ? `today, ${time}` : `${date.toLocaleDateString([], { day: "numeric", month: "short", year: "numeric" })}, ${time}`;
}

const TITLES = {
  accuracy: "Accuracy",
  loss: "Loss",
  average_model_accuracy: "Accuracy of the average model",
  average_model_loss: "Loss of the average model",
  consensus_distance: "Distance of models from their average",
  train_loss: "Training loss",
  bytes_out: "Bytes sent by a node",
  energy: "Energy of a node",
};

export function title(name) {
  return TITLES[name] ?? name.replaceAll("_", " ");
}

/** A value of a figure, with its unit. */
export function valued(name, value) {
  if (name === "bytes_out") return amount(value);
  if (name === "energy") return value === null || value === undefined ? NONE : `${figure(value, 1)} J`;
  return figure(value);
}

export const AXES = { rounds: "Rounds", time: "Time", bytes: "Bytes", energy: "Energy" };

/** The label of a horizontal axis, and its numbers. */
export function axis(against, clockOfRun) {
  if (against === "time") return [`${clockOfRun} time, mean of the nodes`, seconds];
  if (against === "bytes") return ["sent by a node, on average", amount];
  if (against === "energy") return ["energy of a node, on average", (value) => `${figure(value, value < 10 ? 1 : 0)} J`];
  return ["round", (value) => count(value)];
}

const SIGNS = { running: "●", finished: "✓", interrupted: "❚❚", failed: "✕", unreadable: "!" };

export function status(name) {
  const sign = h("span", { class: "sign", "aria-hidden": "true" }, SIGNS[name] ?? "?");
  return h("span", { class: `status ${SIGNS[name] ? name : "unreadable"}` }, sign, name);
}

/** A bar of progress, in a quiet colour where nothing runs. */
export function bar(done, of, label, running) {
  const share = of > 0 ? Math.min(done / of, 1) : 0;
  return h("progress", { max: 1, value: share, class: running ? "running" : null, "aria-label": label });
}

/** A small curve. */
export function spark(points, label) {
  const [width, height] = [88, 24];
  if (points.length < 2) return h("span", { class: "nospark" });
  const [xs, ys] = [points.map((point) => point[0]), points.map((point) => point[1])];
  const [left, right, low, high] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
  const place = ([x, y]) =>
    `${(2 + ((x - left) / (right - left || 1)) * (width - 4)).toFixed(1)},${(height - 3 - ((y - low) / (high - low || 1)) * (height - 6)).toFixed(1)}`;
  return s(
    "svg",
    { class: "spark", width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label },
    s("polyline", { points: points.map(place).join(" ") }),
  );
}

/** A table with a caption for readers of the screen. */
export function table(caption, heads, rows, kind = "") {
  return h(
    "div",
    { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
    h(
      "table",
      { class: kind },
      h("caption", { class: "unseen" }, caption),
      h("thead", {}, h("tr", {}, heads.map((head) => h("th", { scope: "col" }, head)))),
      h("tbody", {}, rows.map((row) => h("tr", {}, row.map((cell, index) => h(index ? "td" : "th", index ? {} : { scope: "row" }, cell))))),
    ),
  );
}

export function empty(heading, ...lines) {
  return h("div", { class: "empty" }, h("h2", {}, heading), lines.map((line) => (typeof line === "string" ? h("p", {}, line) : line)));
}

/** Let the browser save a file. */
export function save(name, address) {
  const link = h("a", { href: address, download: name.replace(/[^\w.-]+/g, "-") });
  document.body.append(link);
  link.click();
  link.remove();
}

export function saveText(name, text) {
  const address = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
  save(name, address);
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}

/** Rows as CSV. A text that a spreadsheet would take for a formula is quoted with an apostrophe. */
export function csv(rows) {
  const cell = (value) => {
    let text = value === null || value === undefined ? "" : String(value);
    if (typeof value === "string" && /^[=+\-@\t\r]/.test(text)) text = `'${text}`;
    return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  return rows.map((row) => row.map(cell).join(",")).join("\r\n") + "\r\n";
}
