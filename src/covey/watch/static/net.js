// Requests to this server, with the token of the link, and streams of events that are taken up again.

const KEPT = "covey-token";

/** Take the token from the link, so that it stays in no history. */
export function takeToken() {
  const found = /^#token=([\w-]+)$/.exec(location.hash);
  if (!found) return;
  localStorage.setItem(KEPT, found[1]);
  history.replaceState(null, "", location.pathname + location.search);
}

export const hasToken = () => localStorage.getItem(KEPT) !== null;

function headers() {
  const token = localStorage.getItem(KEPT);
  return token === null ? {} : { Authorization: `Bearer ${token}` };
}

export class Problem extends Error {
  constructor(text, status) {
    super(text);
    this.status = status;
  }
}

async function answered(path, method = "GET", signal = undefined) {
  const answer = await fetch(path, { method, headers: headers(), signal, cache: "no-store" });
  if (answer.ok) return answer;
  if (answer.status === 401) {
    localStorage.removeItem(KEPT);
    throw new Problem("This needs the link that covey watch has printed: open it once in this browser.", 401);
  }
  let text = `The server answered ${answer.status}.`;
  try {
    text = (await answer.json()).problem ?? text;
  } catch {
    // Not one of its own answers.
  }
  throw new Problem(text, answer.status);
}

export const get = async (path) => (await answered(path)).json();
export const post = async (path) => (await answered(path, "POST")).json();

/**
 * Take the events of a stream until it is closed. It rests while the page is hidden, and begins again after an error.
 * path: gives its address, with what the page has. take: takes an event. show: takes "live", "waiting" or "lost".
 */
export function stream(path, take, show) {
  let stopped = false;
  let current = null;
  let wake = () => {};
  const follow = async () => {
    let wait = 500;
    while (!stopped) {
      if (document.hidden) {
        await new Promise((resolve) => (wake = resolve));
        continue;
      }
      current = new AbortController();
      try {
        const answer = await answered(path(), "GET", current.signal);
        show("live");
        wait = 500;
        await events(answer.body, take);
        if (!stopped && !document.hidden) show("lost");
      } catch (error) {
        if (!stopped && !(error.name === "AbortError")) show("lost", error instanceof Problem ? error.message : "");
      }
      if (stopped || document.hidden) continue;
      await new Promise((resolve) => setTimeout(resolve, wait));
      wait = Math.min(wait * 2, 8000);
    }
  };
  const changed = () => {
    if (document.hidden) current?.abort();
    else wake();
  };
  document.addEventListener("visibilitychange", changed);
  follow();
  return () => {
    stopped = true;
    document.removeEventListener("visibilitychange", changed);
    current?.abort();
    wake();
  };
}

async function events(body, take) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) if (part.startsWith("data: ")) take(JSON.parse(part.slice(6)));
  }
}
