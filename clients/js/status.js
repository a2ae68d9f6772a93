// One state of a client and its cause, of all that a page would have to combine.

export function statusOf(client, changed, { latency, lateMs = 1_000, recentMs = 10_000 } = {}) {
  const { driver, kind } = client;
  // What has happened within `recentMs`.
  const recent = new Map();
  let alarm, shown;

  const happened = (state, what, causeOf, more = 1) => {
    const count = (recent.get(what)?.count ?? 0) + more;
    recent.set(what, { state, cause: causeOf(count), count, at: client.now });
    show();
  };
  const causesOfNames = () => {
    const { refused = {}, unanswered = [], coming = [], cuts = {} } = client, all = [];
    const add = (state, cause) => all.push({ state, cause });
    const due = coming.filter((name) => !(name in cuts));
    for (const cut of new Set(Object.values(cuts))) {
      add("missing", `Not all last values of ${some(Object.keys(cuts).filter((name) => cuts[name] === cut))} have come: ${cut}.`);
    }
    if (isUp(client) && unanswered.length) add("loading", `The server has not answered yet for ${some(unanswered)}.`);
    if (due.length) add("loading", `The last values of ${some(due)} are coming.`);
    const reasons = Object.entries(refused).map(([name, why]) => `${name} (${why})`);
    if (reasons.length) add("refused", `The server refuses ${some(reasons)}.`);
    return all;
  };
  // Found anew only when names have changed: there may be very many.
  let ofNames;
  const lookAtNames = () => (ofNames = causesOfNames());
  const causes = () => {
    const { status, bus } = client, all = [];
    const add = (state, cause) => all.push({ state, cause });
    if (!isUp(client)) add(status, causeOfClose(client));
    else if (bus === "away") add("away", "The server gets no messages from its bus.");
    else if (status === "stale") add("stale", `Nothing has come for ${client.options.staleMs} ms.`);
    for (const { state, cause } of recent.values()) add(state, cause);
    all.push(...ofNames);
    if (!all.length) add("open", "All is well.");
    return all.sort((a, b) => STATES.indexOf(a.state) - STATES.indexOf(b.state));
  };
  const show = () => {
    if (!isUp(client)) recent.clear();
    const due = Math.min(...[...recent.values()].map(({ at }) => at + recentMs));
    driver.cancel(alarm);
    alarm = due < Infinity ? driver.after(due - driver.now(), forget) : undefined;
    const all = causes(), text = JSON.stringify(all);
    if (text === shown) return;
    shown = text;
    // Its exceptions break no step of the client.
    client.input("run", () => client.put("attempt", () => changed({ ...all[0], causes: all })));
  };
  const showNames = () => {
    lookAtNames();
    show();
  };
  const forget = () => {
    for (const [what, { at }] of recent) if (driver.now() >= at + recentMs) recent.delete(what);
    show();
  };

  const listeners = {
    status: showNames,
    bus: ({ lost }) => (lost ? happened("missing", "bus", () => "The server's bus has lost messages.") : show()),
    refused: showNames,
    unanswered: showNames,
    coming: showNames,
    subscribed({ detail: { recovered, why, brings } }) {
      lookAtNames();
      const all = Object.entries(Object(recovered) === recovered ? recovered : { [kind === "push" ? "the pushes" : "the symbols"]: recovered });
      // Last values show what has changed meanwhile.
      const lost = all.filter(([name, is]) => is === false && brings?.[name]?.from !== "retained");
      const reasons = new Set(lost.map(([name]) => why?.[name] ?? why));
      if (lost.length) happened("missing", "recovered", () => `What was missed of ${some(lost.map(([name]) => name))} does not follow: ${[...reasons].join(", ")}.`);
      else show();
    },
    error({ detail: { code, message, details } }) {
      // Of names the client has the reasons; the handler is the program's own.
      if (code === "handler" || (code === "refused" && details)) return;
      happened("failed", "request", () => (code === "token" ? `There is no new token: ${message}.` : `A request has failed: ${message}.`));
    },
    bad: () => happened("missing", "bad", (count) => `Bad messages: ${count}.`),
    gap({ detail: { first, last } }) {
      // A new state is whole, and who asks for a rate wants gaps.
      if (kind === "state" || client.options.maxHz) return;
      happened("missing", "gap", (count) => `Missing messages: ${count}; this client was too slow for them, or the bus has lost them.`, last - first + 1);
    },
  };
  listeners.identified = listeners.subscribed;
  if (latency) listeners[kind] = () => latency.ms > lateMs && happened("late", "late", () => `Messages come more than ${lateMs} ms late.`);
  for (const [type, listener] of Object.entries(listeners)) client.addEventListener(type, listener);
  showNames();
  return () => {
    driver.cancel(alarm);
    for (const [type, listener] of Object.entries(listeners)) client.removeEventListener(type, listener);
  };
}

/** The worst first. */
const STATES = ["closed", "waiting", "connecting", "away", "stale", "missing", "failed", "late", "loading", "refused", "open"];
const isUp = ({ status }) => status === "open" || status === "stale";
const some = (names) => `${names.slice(0, 3).join(", ")}${names.length > 3 ? ` and ${names.length - 3} more` : ""}`;

function causeOfClose({ status, end, lastClose }) {
  const why = lastClose && `${lastClose.code} ${lastClose.reason}`.trim();
  if (status === "closed") return end ? `The server refuses this client: ${why}.` : "The program has closed the connection.";
  if (status === "waiting") return `The connection is lost: ${why}.`;
  return why ? `Connecting again after ${why}.` : "Connecting.";
}
