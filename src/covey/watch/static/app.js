// The page: which of its views an address shows, and whether the server is there.

import { empty, h, put } from "./dom.js";
import { takeToken } from "./net.js";

const main = document.getElementById("main");
const live = document.getElementById("live");
const stale = document.getElementById("stale");
let lostAt = null;

/** Show the state of the connection. */
export function connected(state, why = "") {
  if (state === "live") lostAt = null;
  else lostAt ??= new Date();
  live.className = `live ${state}`;
  live.textContent = state === "live" ? "live" : "no connection";
  stale.hidden = state === "live";
  if (state !== "live")
    put(stale, why || `No connection to covey watch since ${lostAt.toLocaleTimeString()}. The figures below are those of then.`);
}

/** Show an error instead of a view. */
export function failed(error) {
  const text = error.message || String(error);
  document.title = "covey";
  put(main, empty(error.status === 401 ? "The link is needed" : "This cannot be shown", text, h("p", {}, h("a", { href: "/" }, "All runs"))));
}

async function begin() {
  takeToken();
  const [, place, id, page = "curves"] = location.pathname.split("/");
  try {
    if (!place) await (await import("./runs.js")).show(main, connected);
    else if (place === "compare") await (await import("./compare.js")).show(main, connected);
    else await (await import("./run.js")).show(main, connected, id, page);
  } catch (error) {
    failed(error);
  }
}

// The link may be opened where the page is already.
addEventListener("hashchange", () => {
  if (location.hash.startsWith("#token=")) location.reload();
});
begin();
