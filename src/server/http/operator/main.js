// The operator's page: asks for the state once a second, and shows the state.
import { drawBus } from "./bus.js";
import { drawLimits, drawRefused } from "./limits.js";
import "./find.js";
import { Pairs, drawEnds, drawRefusals, drawSurvey } from "./tables.js";
import { drawTls } from "./tls.js";
import { attribute, byId, bytes, decimal, duration, put } from "./values.js";

const ASK_MS = 1_000;
/** The first survey is there soon after it was asked for. */
const FIRST_ASK_MS = 250;
const RATE_MS = 5_000;

/** How much the counters of the process grew a second, over the last seconds. */
class Rates {
  #kept = [];

  push(numbers) {
    const at = performance.now();
    this.#kept.push({ at, numbers });
    while (this.#kept.length > 2 && at - this.#kept[1].at >= RATE_MS) this.#kept.shift();
  }

  /** Null before there are two readings, after a restart, and for a number that the process lacks. */
  perSecond(name) {
    const first = this.#kept[0], last = this.#kept.at(-1);
    if (!first || first === last) return null;
    const to = last.numbers[name], grown = to - first.numbers[name];
    return to === null || !(grown >= 0) ? null : grown / ((last.at - first.at) / 1000);
  }

  forget() {
    this.#kept.length = 0;
  }
}

const rates = new Rates(), ratePairs = new Pairs("rates");
let isPaused = false, answeredAt = null, uptime = 0, missingBefore;

async function ask() {
  const answer = await fetch(new URL("state", document.baseURI), { cache: "no-store", signal: AbortSignal.timeout(5_000) });
  if (!answer.ok) throw new Error(`state: ${answer.status}`);
  return answer.json();
}

/** The colour of the pill. */
const colourOf = ({ ready, bus, behind }) => (!ready ? "closed" : behind || (bus && bus.away_ms !== null) ? "stale" : "open");

function say([text, status]) {
  put(byId("status"), text);
  attribute(byId("status"), "title", text);
  attribute(byId("pill"), "data-status", status);
  put(byId("live"), text);
}

/** Less than this share of a core in the loop is nothing to look at. */
const BUSY = 0.8;

function drawRates({ numbers, latency, late_ms: late }) {
  rates.push(numbers);
  const count = (name) => decimal(rates.perSecond(name), 1);
  const size = (name) => (rates.perSecond(name) === null ? "–" : bytes(rates.perSecond(name)));
  const cpu = rates.perSecond("cpu_seconds"), busy = rates.perSecond("loop_busy_seconds");
  const ms = (value) => (latency ? `${decimal(value(latency), 1)} ms` : "–");
  put(byId("clients"), decimal(numbers.clients, 0));
  put(byId("in"), count("bus_messages"));
  put(byId("out"), count("messages_sent"));
  put(byId("sent"), size("sent_bytes"));
  ratePairs.draw([
    ["Messages from the bus", count("bus_messages")],
    ["Deliveries queued", count("messages_queued")],
    ["Deliveries sent", count("messages_sent")],
    ["Skipped for slow clients", count("messages_conflated"), rates.perSecond("messages_conflated") > 0 ? "wait" : ""],
    ["Lost with their connection", count("messages_dropped")],
    ["Messages from clients", count("received_messages")],
    ["Bytes from clients", size("received_bytes")],
    ["Connections accepted", count("connections_accepted")],
    ["Connections ended", count("connections_ended")],
    ["Processor", cpu === null ? "–" : `${decimal(100 * cpu, 1)} %`],
    ["Loop busy", busy === null ? "–" : `${decimal(100 * busy, 1)} %`, busy > BUSY ? "wait" : ""],
    ["Loop late", `${decimal(late, 0)} ms`, late ? "wait" : ""],
    ["Latency p50", ms((l) => l.p50_ms)],
    ["Latency p99", ms((l) => l.p99_ms)],
    ["Latency p99.9", ms((l) => l.p999_ms)],
  ]);
}

function draw(state) {
  // Another process counts from 0, and sums of other processes are no readings of the same counters.
  const missing = String(state.processes_missing);
  if (state.uptime_seconds < uptime || missing !== missingBefore) rates.forget();
  uptime = state.uptime_seconds;
  missingBefore = missing;
  say([state.status, colourOf(state)]);
  put(byId("gateway"), state.gateway);
  document.title = `weirgate ${state.gateway} · operator`;
  drawRates(state);
  drawBus(state);
  drawTls(state);
  drawLimits(state.limits);
  drawRefused(state);
  drawSurvey(state);
  drawEnds(state);
  drawRefusals(state);
  put(byId("version"), state.version);
  put(byId("uptime"), duration(state.uptime_seconds * 1000).replace(".0 s", " s"));
  const { survey } = state;
  put(byId("survey"), survey ? `${duration(survey.age_ms)} ago` : "–");
  put(byId("looked"), survey ? `${decimal(survey.clients, 0)} clients, ${decimal(survey.took_us / 1000, 1)} ms` : "–");
  answeredAt = performance.now();
  return Boolean(survey);
}

/** One answer and its drawing; how long to wait for the next, in ms. */
async function step() {
  if (isPaused || document.hidden) return ASK_MS;
  try {
    const hasSurvey = draw(await ask());
    document.body.classList.remove("is-old");
    put(byId("asked"), "");
    return hasSurvey ? ASK_MS : FIRST_ASK_MS;
  } catch {
    document.body.classList.add("is-old");
    say(["No answer", "closed"]);
    put(byId("asked"), answeredAt === null ? "" : `last answer ${duration(performance.now() - answeredAt)} ago`);
    rates.forget();
    return ASK_MS;
  }
}

let timer;
async function run() {
  clearTimeout(timer);
  const wait = await step();
  timer = setTimeout(run, wait);
}

byId("pause").onclick = () => {
  isPaused = !isPaused;
  put(byId("pause"), isPaused ? "Resume" : "Pause");
  attribute(byId("pause"), "aria-pressed", String(isPaused));
  if (isPaused) say(["Paused", "paused"]);
  document.body.classList.toggle("is-old", isPaused);
};
run();
