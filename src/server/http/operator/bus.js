// The bus, and where the gateway has them its services and the bus between its instances.
import { Pairs } from "./tables.js";
import { byId, decimal, duration, put } from "./values.js";

const pairs = new Pairs("bus");

/** Older than that, the newest message of a bus that is there is worth a look. */
const OLD_MS = 10_000;

/** So far behind the newest message of a stream the alert begins. */
const LATE_MS = 5_000;

/** So many quiet names have a line each. */
const QUIET_SHOWN = 5;

/** How far back clients can resume. */
function reach({ reach_ms: ms, wanted_ms: wanted, why }) {
  if (ms === null) return ["no message has a position yet", ""];
  const text = `the last ${duration(Math.min(ms, wanted))} of ${duration(wanted)}`;
  return why === "bytes" ? [`${text}: no more fits in --history-bytes-max`, ms < wanted / 2 ? "bad" : "wait"] : [text, ""];
}

function busEntries({ bus, history, numbers, survey, now_unix_ms: now }) {
  const at = numbers.bus_last_message_unix_ms, ageMs = at === null ? null : Math.max(0, now - at);
  const isAway = bus.away_ms !== null;
  const state = bus.subscribed ? ["up", "good"] : bus.connected ? ["connected, not subscribed", "bad"] : ["away", "bad"];
  const rows = [["State", ...state]];
  if (isAway) rows.push(["Away for", duration(bus.away_ms), "bad"]);
  rows.push(["Newest message", ageMs === null ? "none yet" : `${duration(ageMs)} ago`, ageMs > OLD_MS ? "wait" : ""]);
  rows.push(["Reconnects", decimal(bus.reconnects, 0)]);
  rows.push(["Refused subscriptions", decimal(bus.refused, 0), bus.refused ? "bad" : ""]);
  const { stream_behind: behind, stream_behind_ms: behindMs } = bus;
  if (behindMs !== null) {
    const count = behind === null ? "" : `${decimal(behind, 0)} behind`, time = behindMs ? `${duration(behindMs)} behind` : "";
    rows.push(["Stream", [count, time].filter(Boolean).join(", ") || "read to its end", behindMs > LATE_MS ? "bad" : ""]);
  }
  for (const { subject, quiet_ms: quietMs, usual_gap_ms: gapMs } of bus.quiet) {
    rows.push([`Quiet: ${subject}`, `for ${duration(quietMs)}; a message every ${duration(gapMs)} before`, "bad"]);
  }
  rows.push(...quietTopics(survey));
  const isQuiet = rows.some(([title]) => title.startsWith("Quiet"));
  for (const { name, sentence, stopped } of bus.streams) {
    if (stopped || isQuiet) rows.push([`Stream ${name}`, sentence, stopped ? "bad" : ""]);
  }
  if (history) rows.push(["History", ...reach(history)]);
  const { bus_messages_bad: bad, bus_gaps: gaps } = numbers;
  rows.push(["Bad messages", decimal(bad, 0), bad ? "wait" : ""]);
  if (gaps) rows.push(["Losses", decimal(gaps, 0), "wait"]);
  for (const { name, lag, away_ms: awayMs, stalled } of bus.consumers) {
    const text = awayMs !== null ? `away for ${duration(awayMs)}` : stalled ? "stalled" : lag === null ? "–" : `${decimal(lag, 0)} behind`;
    rows.push([name, text, awayMs !== null || stalled ? "bad" : ""]);
  }
  return rows;
}

/** Busy names that stand still, those with the most clients first. */
function quietTopics(survey) {
  const { topics_quiet: count, quiet_topics: topics } = survey ?? { topics_quiet: 0, quiet_topics: [] };
  const rows = topics.slice(0, QUIET_SHOWN).map(({ name, members, quiet_ms: quietMs, usual_gap_ms: gapMs }) => (
    [`Quiet: ${name}`, `for ${duration(quietMs)}; a message every ${duration(gapMs)} before; clients: ${decimal(members, 0)}`, "bad"]));
  if (count > rows.length) rows.push(["Quiet", `${decimal(count - rows.length, 0)} more names`, "bad"]);
  return rows;
}

/** Services of the events gateway, and its bus between instances. */
function serviceEntries({ services, events_bus: bus }) {
  const rows = services.map(({ name, away }) => [`Service ${name}`, away ? "does not answer" : "up", away ? "bad" : "good"]);
  if (bus) {
    rows.push(["Bus of the instances", bus.up ? "up" : "away", bus.up ? "good" : "bad"]);
    rows.push(["Instances", decimal(bus.instances, 0)]);
  }
  return rows;
}

export function drawBus(state) {
  const services = serviceEntries(state);
  put(byId("bus-h"), !state.bus && services.length ? "Services" : "Bus");
  const rows = [...(state.bus ? busEntries(state) : []), ...services];
  pairs.draw(rows.length ? rows : [["State", "this gateway has no bus"]]);
  put(byId("bus-about"), state.bus?.away_ms ? "trying again" : "");
}
