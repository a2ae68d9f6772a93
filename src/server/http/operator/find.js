// Looking for somebody: a user, an address, a session, or who holds a name; and for names.
import { sayEnd, who } from "./tables.js";
import { byId, decimal, duration, element, put } from "./values.js";

/** Causes that need nobody's attention. */
const CALM = new Set(["healthy", "own_rate"]);
const ANSWER_MS = 15_000;

const age = (ms) => (ms === null ? "never" : `${duration(ms)} ago`);

/** How far back the history of a name reaches. The sentence has the reason if that is less than wanted. */
const reach = (ms) => (ms === null ? "–" : duration(ms));

/** A table that is drawn once. `narrow`: the columns that a narrow page has, too. */
function table(caption, heads, rows, narrow = heads) {
  const line = (tag, cells) => element("tr", "", ...cells.map((cell, n) => element(n === 0 ? "th" : tag, narrow.includes(heads[n]) ? "" : "middle", cell)));
  const head = element("thead", "", line("th", heads));
  return element("table", "", element("caption", "vh", caption), head, element("tbody", "", ...rows.map((row) => line("td", row))));
}

const drawNames = (names) =>
  table("Names", ["Name", "From", "Members", "Messages", "Last message", "Reaches back"], names.map((one) => [
    one.name, one.from, decimal(one.members, 0), decimal(one.messages, 0), age(one.last_ms), reach(one.reach_ms),
  ]), ["Name", "From", "Last message"]);

function drawClient(row) {
  const parts = [who(row), `session ${row.session}`, row.role === null ? "" : `role ${row.role}`, row.path, `connected for ${duration(row.age_ms)}`,
    row.max_hz === null ? "" : `at most ${row.max_hz} a second`, `got ${decimal(row.messages_out, 0)} messages`, `${decimal(row.queue_messages, 0)} wait`];
  const sentence = element("p", "sentence", row.sentence);
  sentence.dataset.tone = CALM.has(row.cause) ? "good" : "bad";
  const left = row.topics - row.names.length;
  return element("section", "found", element("h3", "", parts.filter(Boolean).join(" · ")), sentence,
    ...(row.names.length ? [drawNames(row.names)] : []), ...(left > 0 ? [element("p", "none", `and ${decimal(left, 0)} more names`)] : []));
}

/** Which of several processes did not answer, so that what they have is missing. */
const sayMissing = (numbers) => `${numbers.length === 1 ? "process" : "processes"} ${numbers.join(", ")} did not answer`;

function drawFound({ count, sentence, clients, names, refused_names: refused, ended, processes_missing: missing = [] }) {
  const shown = clients.length + names.length, kind = names.length ? "names" : "clients";
  const first = sentence ?? (count > shown ? `the first ${shown} of ${decimal(count, 0)} ${kind}` : `${decimal(count, 0)} ${count === 1 ? kind.slice(0, -1) : kind}`);
  const parts = [element("p", "none", first), ...clients.map(drawClient)];
  // The sentence about nobody says so itself.
  if (missing.length && !sentence) parts.unshift(element("p", "none", sayMissing(missing)));
  if (names.length) parts.push(drawNames(names));
  if (refused.length) {
    parts.push(element("h3", "", "Names refused"), table("Names refused", ["Name", "Client", "Role", "Reason", "Times", "Last"], refused.map((one) => [
      one.name, who(one), one.role ?? "–", one.reason, decimal(one.times, 0), new Date(one.at_unix_ms).toLocaleTimeString("en-GB"),
    ])));
  }
  if (ended.length) {
    parts.push(element("h3", "", "Ended last"), table("Ended last", ["At", "Client", "Reason", "Code"], ended.map((one) => [
      new Date(one.at_unix_ms).toLocaleTimeString("en-GB"), who(one), sayEnd(one), one.code ?? "–",
    ])));
  }
  byId("found").replaceChildren(...parts);
}

async function find(by, text) {
  const [path, key] = by === "names" ? ["names", "name"] : ["clients", by];
  const url = new URL(path, document.baseURI);
  url.searchParams.set(key, text);
  const answer = await fetch(url, { cache: "no-store", signal: AbortSignal.timeout(ANSWER_MS) });
  const body = await answer.json();
  if (!answer.ok) throw new Error(body.detail);
  return body;
}

let asked = 0;

byId("find").onsubmit = async (event) => {
  event.preventDefault();
  const text = byId("find-text").value.trim(), number = ++asked;
  if (!text) return byId("found").replaceChildren();
  put(byId("find-about"), "asking");
  try {
    const body = await find(byId("find-by").value, text);
    if (number === asked) drawFound(body);
  } catch (error) {
    if (number === asked) byId("found").replaceChildren(element("p", "none", `No answer: ${error.message}`));
  }
  if (number === asked) put(byId("find-about"), "");
};
