// The newest messages of one topic, while its card is open.
import { attribute, byId, bytes, decimal, element, put } from "./values.js";

const ASK_MS = 500, LINES_MAX = 50;

let isAllowed = false, topic = null, isPaused = false, timer, began = null, last = 0;

/** Whether the gateway shows messages: --admin-tail. */
export const hasMessages = () => isAllowed;
export function allowMessages(allowed) {
  isAllowed = Boolean(allowed);
}

function clock(unixMs) {
  return new Date(unixMs).toISOString().slice(11, 23);
}

function line({ at_unix_ms: at, bytes: size, text, is_cut: isCut }) {
  const about = element("span", "about", `${clock(at)} · ${bytes(size)}`);
  return element("li", "", about, element("code", "", isCut ? `${text}…` : text));
}

function draw({ began_unix_ms: since, messages, left_out: leftOut, lines }) {
  if (since === null) return;
  if (since !== began) {
    // Another tail: nobody has asked for some seconds, or the gateway is another process.
    const isFirst = began === null;
    began = since;
    last = 0;
    if (!isFirst) return;
  }
  last = lines.at(-1)?.number ?? last;
  byId("messages").prepend(...lines.map(line).reverse());
  while (byId("messages").children.length > LINES_MAX) byId("messages").lastElementChild.remove();
  put(byId("messages-none"), byId("messages").children.length ? "" : "No message since this was opened.");
  put(byId("messages-about"), `${decimal(messages, 0)} messages, ${decimal(leftOut, 0)} left out`);
}

async function ask() {
  const asked = topic;
  const query = new URLSearchParams({ topic, after: last });
  try {
    const answer = await fetch(new URL(`tail?${query}`, document.baseURI), { cache: "no-store", signal: AbortSignal.timeout(5_000) });
    const json = await answer.json();
    if (asked !== topic || isPaused) return;
    if (answer.ok) draw(json);
    else put(byId("messages-about"), json.detail);
  } catch {
    if (asked === topic) put(byId("messages-about"), "no answer");
  }
}

async function run() {
  clearTimeout(timer);
  if (topic === null || isPaused) return;
  if (!document.hidden) await ask();
  clearTimeout(timer);
  timer = setTimeout(run, ASK_MS);
}

function pause(paused) {
  isPaused = paused;
  put(byId("messages-pause"), paused ? "Resume" : "Pause");
  attribute(byId("messages-pause"), "aria-pressed", String(paused));
}

export function openMessages(name) {
  [topic, began, last] = [name, null, 0];
  pause(false);
  byId("messages").replaceChildren();
  put(byId("messages-h"), `Messages of ${name}`);
  put(byId("messages-about"), "");
  put(byId("messages-none"), "Waiting for the first message.");
  byId("messages-card").hidden = false;
  byId("messages-h").focus();
  run();
}

byId("messages-pause").onclick = () => {
  pause(!isPaused);
  run();
};
byId("messages-close").onclick = () => {
  topic = null;
  byId("messages-card").hidden = true;
  byId("topics-h").focus();
};
