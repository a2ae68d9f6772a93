// Tables of clients, topics and ends. Rows are used again: only what changed is touched.
import { attribute, byId, bytes, decimal, decoration, duration, element, put } from "./values.js";

/** The states of a client, with how bad they are. */
const STATES = {
  head: ["request head", ""], idle: ["nothing waits", ""], waiting: ["sends", ""], blocked: ["blocked", "wait"],
  conflating: ["skipping", "wait"], over_soft_limit: ["over soft limit", "bad"], closing: ["closing", ""],
};
/** Characters of a user in a table. */
const USER_MAX = 64;
/** Ends that clients decide, or that belong to a stop. */
const CALM = new Set(["peer_closed", "peer_gone", "shutting_down"]);

export const toneOf = (reason) => (CALM.has(reason) ? "" : "bad");
const ms = (value) => (value === null ? "–" : duration(value));
export const who = ({ client, user }) => (user ? `${user} (${client})` : client);
/** The whole user is in the tooltip. */
const shortWho = ({ client, user }) => who({ client, user: user?.length > USER_MAX ? `${user.slice(0, USER_MAX)}…` : user });
const overTls = ({ tls }) => (tls ? `over TLS ${tls}` : "without TLS");
/** The topic says more than the path, where there is one: a device, a symbol. */
const what = ({ topic, topics, path }) => topic ?? (topics > 1 ? `${path} · ${decimal(topics, 0)} topics` : path);

/** An end in full: what waited for a dropped client, and the limit. */
export function sayEnd({ reason, refusal, say, limit, waited_bytes: waited, waited_messages: messages, untaken_ms: untaken }) {
  const parts = [refusal ? `${reason} (${refusal})` : reason, say, limit];
  if (waited) parts.push(`${bytes(waited)} in ${decimal(messages, 0)} messages waited, nothing was taken for ${duration(untaken)}`);
  return parts.filter(Boolean).join("; ");
}

function clock(unixMs) {
  return new Date(unixMs).toLocaleTimeString("en-GB");
}

const WHO = { name: "Client", className: "who", text: shortWho, title: (row) => `${who(row)} ${overTls(row)}, session ${row.session}` };
const WHAT = { name: "Topic or path", className: "what middle", text: what };
const WHY = { name: "Why", className: "why", text: ({ why }) => why ?? "–", title: ({ why, say }) => say ?? why ?? "" };
const STATE = { name: "State", className: "state", text: ({ state }) => STATES[state]?.[0] ?? state, tone: ({ state }) => STATES[state]?.[1] ?? "" };

const COLUMNS = {
  slowest: [
    WHO, WHAT, STATE, WHY,
    { name: "Waits", className: "size num", text: (row) => bytes(row.queue_bytes), title: (row) => `${decimal(row.queue_messages, 0)} messages` },
    { name: "Oldest", className: "when num middle", text: (row) => ms(row.oldest_ms) },
    { name: "Stuck for", className: "when num wide middle", text: (row) => ms(row.stuck_ms) },
    { name: "Skipped", className: "count num middle", text: (row) => decimal(row.conflated, 0) },
    { name: "Connected", className: "when num wide middle", text: (row) => ms(row.age_ms) },
  ],
  busiest: [
    WHO, WHAT,
    { name: "Messages/s", className: "rate num", text: (row) => row.rate },
    { name: "From it", className: "count num middle", text: (row) => decimal(row.messages_in, 0) },
    { name: "To it", className: "count num", text: (row) => decimal(row.messages_out, 0) },
    { name: "Connected", className: "when num wide middle", text: (row) => ms(row.age_ms) },
  ],
  topics: [
    { name: "Topic", className: "who", text: ({ name }) => name },
    { name: "Members", className: "size num", text: (row) => decimal(row.members, 0) },
    { name: "Messages/s", className: "rate num", text: (row) => row.rate },
    { name: "Bytes/s", className: "size num", text: (row) => row.byteRate },
  ],
  refusals: [
    { name: "At", className: "at", text: (row) => clock(row.at_unix_ms), title: (row) => new Date(row.at_unix_ms).toISOString() },
    { ...WHO, title: (row) => `${who(row)}, session ${row.session}` },
    { name: "Role", className: "size middle", text: ({ role }) => role ?? "–" },
    { name: "Name", className: "what", text: ({ name }) => name },
    { name: "Reason", className: "state", text: ({ reason }) => reason },
    { name: "Times", className: "count num middle", text: ({ times }) => decimal(times, 0) },
  ],
  ends: [
    { name: "At", className: "at", text: (row) => clock(row.at_unix_ms), title: (row) => new Date(row.at_unix_ms).toISOString() },
    { ...WHO, title: (row) => `${who(row)} connected from ${row.peer} ${overTls(row)}` },
    { name: "Path", className: "what wide middle", text: ({ path }) => path || "–" },
    { name: "Reason", className: "reason", text: ({ reason, refusal }) => (refusal ? `${reason} (${refusal})` : reason), title: sayEnd, tone: ({ reason }) => toneOf(reason) },
    { ...WHY, className: "why middle" },
    { name: "Code", className: "count num middle", text: ({ code }) => code ?? "–" },
    { name: "Lived", className: "when num middle", text: (row) => ms(row.age_ms) },
    { name: "Got", className: "count num wide middle", text: (row) => decimal(row.messages_out, 0), title: (row) => `${bytes(row.bytes_out)} in ${decimal(row.messages_out, 0)} messages` },
    { name: "Skipped", className: "count num middle", text: (row) => decimal(row.conflated, 0) },
  ],
};

class Table {
  #rows = [];
  #body = element("tbody");

  constructor(id) {
    this.columns = COLUMNS[id];
    this.none = byId(`${id}-none`);
    const heads = this.columns.map(({ name, className }) => {
      const th = element("th", className, name);
      th.scope = "col";
      return th;
    });
    byId(id).append(element("thead", "", element("tr", "", ...heads)), this.#body);
  }

  #row(n) {
    while (this.#rows.length <= n) {
      const cells = this.columns.map(({ className }, at) => element(at === 0 ? "th" : "td", className));
      cells[0].scope = "row";
      this.#rows.push({ tr: element("tr", "", ...cells), cells });
    }
    return this.#rows[n];
  }

  /** Shows these, or says `none`. */
  draw(entries, none) {
    entries.forEach((entry, n) => {
      const { tr, cells } = this.#row(n);
      this.columns.forEach(({ text, title = text, tone }, at) => {
        put(cells[at], String(text(entry)));
        attribute(cells[at], "title", String(title(entry)));
        if (tone) attribute(cells[at], "data-tone", tone(entry));
      });
      if (!tr.isConnected) this.#body.append(tr);
    });
    for (const { tr } of this.#rows.slice(entries.length)) tr.remove();
    put(this.none, entries.length ? "" : none);
  }
}

const tables = Object.fromEntries(Object.keys(COLUMNS).map((id) => [id, new Table(id)]));

/** "20 of 1,234", or "" where all are shown. */
const shownOf = (shown, all) => (shown && all > shown ? `${shown} of ${decimal(all, 0)}` : "");

const TOPICS = { trades: "Busiest symbols", channels: "Busiest channels", events: "Busiest devices" };

export function drawSurvey({ gateway, survey, slow }) {
  put(byId("topics-h"), TOPICS[gateway] ?? "Busiest topics");
  if (!survey) return;
  const seconds = survey.interval_ms ? survey.interval_ms / 1000 : null;
  const rate = (count) => (seconds === null ? "–" : decimal(count / seconds, 1));
  tables.slowest.draw(survey.slowest, survey.clients ? "No client waits: every send queue is empty." : "No clients.");
  const counts = [[survey.clients_waiting, "waiting"], [survey.clients_blocked, "blocked"], [survey.clients_conflating, "skipping"]];
  const causes = Object.entries(slow).map(([why, count]) => [count, `slow: ${why}`]);
  put(byId("slowest-about"), [...causes, ...counts].filter(([count]) => count).map(([count, text]) => `${decimal(count, 0)} ${text}`).join(", "));
  tables.busiest.draw(survey.busiest.map((row) => ({ ...row, rate: rate(row.recent_messages) })), "No messages in the last second.");
  put(byId("busiest-about"), shownOf(survey.busiest.length, survey.clients));
  const topics = survey.busiest_topics.map((row) => ({
    ...row, rate: rate(row.recent_messages), byteRate: seconds === null ? "–" : bytes(row.recent_bytes / seconds),
  }));
  tables.topics.draw(topics, "No topics.");
  put(byId("topics-about"), shownOf(topics.length, survey.topics));
}

/** Ended connections: how many of each reason since the start, and the last of them. */
export function drawEnds({ ends, closes }) {
  const counted = Object.entries(closes).sort(([, a], [, b]) => b - a);
  const items = counted.map(([reason, count]) => {
    const item = element("li", "", `${reason} ${decimal(count, 0)}`);
    attribute(item, "data-tone", toneOf(reason));
    return item;
  });
  const key = items.map((item) => item.textContent).join();
  if (byId("reasons").dataset.shown !== key) {
    byId("reasons").dataset.shown = key;
    byId("reasons").replaceChildren(...items);
  }
  tables.ends.draw(ends, "No connection has ended yet.");
  put(byId("ends-about"), ends.length ? "reasons count from the start" : "");
}

/** Names that clients did not get: how many of each reason since the start, and the last of them. */
export function drawRefusals({ refused_names: newest, names_refused: counts }) {
  byId("refusals-card").hidden = !Object.keys(counts).length;
  tables.refusals.draw(newest, "The survey has not seen them yet.");
  put(byId("refusals-about"), Object.entries(counts).map(([reason, count]) => `${reason} ${decimal(count, 0)}`).join(", "));
}

/** Pairs of a name and a value, in a list that stays. */
export class Pairs {
  #cells = new Map();

  constructor(id) {
    this.list = byId(id);
  }

  /** `entries`: name, value, tone. */
  draw(entries) {
    const names = entries.map(([name]) => name);
    if (names.join("\n") !== [...this.#cells.keys()].join("\n")) {
      this.#cells = new Map(names.map((name) => [name, element("dd")]));
      this.list.replaceChildren(...[...this.#cells].flatMap(([name, cell]) => [element("dt", "", name), cell]));
    }
    for (const [name, value, tone = ""] of entries) {
      put(this.#cells.get(name), value);
      attribute(this.#cells.get(name), "data-tone", tone);
    }
  }
}

/** A bar with its name and its numbers. */
export class Bar {
  fill = element("i");
  name = element("span");
  numbers = element("span");
  node = element("div", "limit", element("div", "ends", this.name, this.numbers), decoration("span", "track", this.fill));
}
