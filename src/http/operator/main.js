// The operator's page: asks for the state and the metrics once a second, and shows both.
import { drawBus } from "./bus.js";
import { drawLimits } from "./limits.js";
import { allowMessages } from "./messages.js";
import { Metrics, Rates } from "./metrics.js";
import { Pairs, drawEnds, drawSurvey } from "./tables.js";
import { attribute, byId, bytes, decimal, duration, put } from "./values.js";

const ASK_MS = 1_000;
/** The first survey is there soon after it was asked for. */
const FIRST_ASK_MS = 250;
const RATE_MS = 5_000;
const REASONS = {
  draining: "stopping", loop_stalled: "the loop hangs", starting: "starting", bus_away: "the bus is away", subject_away: "a subject is away",
  subscription_refused: "a subscription is refused", acks_refused: "acknowledgements are refused", feed_stalled: "the feed stalls",
};

const rates = new Rates(RATE_MS), ratePairs = new Pairs("rates");
let isPaused = false, answeredAt = null, uptime = 0;

async function fetched(path) {
  const answer = await fetch(new URL(path, document.baseURI), { cache: "no-store", signal: AbortSignal.timeout(5_000) });
  if (!answer.ok) throw new Error(`${path}: ${answer.status}`);
  return answer;
}

async function ask() {
  const [state, text] = await Promise.all([fetched("state").then((answer) => answer.json()), fetched("../metrics").then((answer) => answer.text())]);
  return { state, metrics: new Metrics(text, performance.now()) };
}

/** What the pill says, and its colour. */
function statusOf({ ready, reasons, bus }) {
  if (!ready) return [`Not ready: ${reasons.map((reason) => REASONS[reason] ?? reason).join(", ")}`, "closed"];
  if (bus && bus.away_ms !== null) return ["Bus away", "stale"];
  return ["Ready", "open"];
}

function say([text, status]) {
  put(byId("status"), text);
  attribute(byId("status"), "title", text);
  attribute(byId("pill"), "data-status", status);
  put(byId("live"), text);
}

function drawRates(metrics) {
  rates.push(metrics);
  const of = (name, label) => rates.perSecond(name, label);
  const count = (name, label) => decimal(of(name, label), 1);
  put(byId("clients"), decimal(metrics.sum("weirgate_clients"), 0));
  put(byId("in"), count("weirgate_bus_messages_total"));
  put(byId("out"), count("weirgate_frames_sent_total"));
  const sent = of("weirgate_bytes_sent_total");
  put(byId("sent"), sent === null ? "–" : bytes(sent));
  const queued = of("weirgate_messages_queued_total"), skipped = of("weirgate_messages_conflated_total");
  ratePairs.draw([
    ["Messages from the bus", count("weirgate_bus_messages_total")],
    ["Deliveries queued", decimal(queued, 1)],
    ["Deliveries sent", count("weirgate_frames_sent_total")],
    ["Skipped for slow clients", decimal(skipped, 1), skipped > 0 ? "wait" : ""],
    ["Lost with their connection", count("weirgate_messages_dropped_total")],
    ["Messages from clients", count("weirgate_received_messages_total")],
    ["Bytes from clients", of("weirgate_received_bytes_total") === null ? "–" : bytes(of("weirgate_received_bytes_total"))],
    ["Connections accepted", count("weirgate_connections_accepted_total")],
    ["Connections ended", count("weirgate_client_closes_total")],
    ["Processor", rates.perSecond("process_cpu_seconds_total") === null ? "–" : `${decimal(100 * of("process_cpu_seconds_total"), 1)} %`],
  ]);
}

function draw({ state, metrics }) {
  // Another process counts from 0.
  if (state.uptime_seconds < uptime) rates.forget();
  uptime = state.uptime_seconds;
  say(statusOf(state));
  put(byId("gateway"), state.gateway);
  document.title = `weirgate ${state.gateway} · operator`;
  drawRates(metrics);
  drawBus(state, metrics);
  drawLimits(state.limits, metrics);
  allowMessages(state.tail);
  drawSurvey(state);
  drawEnds(state.ends, metrics);
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
