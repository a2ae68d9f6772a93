// The bus, and where the gateway has them its services and the bus between its instances.
import { Pairs } from "./tables.js";
import { byId, decimal, duration, put } from "./values.js";

const pairs = new Pairs("bus");

/** Older than that, the newest message of a bus that is there is worth a look. */
const OLD_MS = 10_000;

function busEntries({ bus, now_unix_ms: now }, metrics) {
  const at = metrics.sum("weirgate_bus_last_message_timestamp_seconds");
  const ageMs = at === null ? null : Math.max(0, now - at * 1000);
  const isAway = bus.away_ms !== null;
  const state = bus.subscribed ? ["up", "good"] : bus.connected ? ["connected, not subscribed", "bad"] : ["away", "bad"];
  const rows = [["State", ...state]];
  if (isAway) rows.push(["Away for", duration(bus.away_ms), "bad"]);
  rows.push(["Newest message", ageMs === null ? "none yet" : `${duration(ageMs)} ago`, ageMs > OLD_MS ? "wait" : ""]);
  rows.push(["Reconnects", decimal(bus.reconnects, 0)]);
  rows.push(["Refused subscriptions", decimal(bus.refused, 0), bus.refused ? "bad" : ""]);
  const bad = metrics.sum("weirgate_bus_messages_bad_total"), gaps = metrics.sum("weirgate_bus_gaps_total");
  rows.push(["Bad messages", decimal(bad, 0), bad ? "wait" : ""]);
  if (gaps) rows.push(["Losses", decimal(gaps, 0), "wait"]);
  for (const { name, lag, away_ms: awayMs, stalled } of bus.consumers) {
    const text = awayMs !== null ? `away for ${duration(awayMs)}` : stalled ? "stalled" : lag === null ? "–" : `${decimal(lag, 0)} behind`;
    rows.push([name, text, awayMs !== null || stalled ? "bad" : ""]);
  }
  return rows;
}

/** Services of the events gateway, and its bus between instances. */
function serviceEntries(metrics) {
  const rows = metrics.samples("weirgate_service_away").map(({ labels, value }) =>
    [`Service ${labels.service}`, value ? "does not answer" : "up", value ? "bad" : "good"]);
  const isUp = metrics.sum("weirgate_events_bus_up");
  if (isUp !== null) {
    rows.push(["Bus of the instances", isUp ? "up" : "away", isUp ? "good" : "bad"]);
    rows.push(["Instances", decimal(metrics.sum("weirgate_events_bus_instances"), 0)]);
  }
  return rows;
}

export function drawBus(state, metrics) {
  const services = serviceEntries(metrics);
  put(byId("bus-h"), !state.bus && services.length ? "Services" : "Bus");
  const rows = [...(state.bus ? busEntries(state, metrics) : []), ...services];
  pairs.draw(rows.length ? rows : [["State", "this gateway has no bus"]]);
  put(byId("bus-about"), state.bus?.away_ms ? "trying again" : "");
}
