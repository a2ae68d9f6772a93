// The page: keeps the newest message, draws it at most once a frame, and says how the connection is.
import { connect } from "../weirgate.js";
import { drawFlow } from "./flow.js";
import { drawLadder, followSpot } from "./ladder.js";
import { drawPredictions } from "./predictions.js";
import { aboutRelays, drawRelays, takeAges, takeState } from "./relays.js";
import { ask, removeDeadLinks, server } from "./server.js";
import { drawSlow, isSlow, ownUrl, setUpSlow } from "./slow.js";
import { attribute, byId, bytes, decimal, duration, isObject, number, object, objects, put, text, words } from "./values.js";

/** Told well within the 3 s that are promised. */
const STALE_MS = 2_500;
const TICK_MS = 250;
/** The rate is a mean of whole slots of half a second: the last eight. */
const SLOT_MS = 500, SLOTS = 8;
const LATENCIES = 50;
const CLOSES = {
  1000: "normal", 1001: "going away", 1002: "protocol error", 1003: "not accepted", 1006: "lost", 1007: "bad text",
  1008: "refused", 1009: "too big", 1011: "server error", 1012: "restart", 1013: "try again later",
};

// ---- What came. Only the newest text is kept and read, once a frame: a slow tab skips, it never falls behind.
let newest = null, newestAt = 0, newestIsFirst = false, newestKept = false;
let drawn = {}, newestTs = null, aboutLevels = "";
/** With relays alone: the text of the state, until its keys are taken from it; and when the ages were asked for. */
let untaken = null, agesAt = 0;
let arrivedAt = null, freshAt = null, received = 0, receivedBytes = 0, unreadable = 0;
const latencies = [], slots = [];

function onMessage(data, kept) {
  const now = performance.now();
  received += 1;
  arrivedAt = now;
  if (!kept) freshAt = now;
  const size = typeof data === "string" ? data.length : data.size;
  receivedBytes += size;
  const slot = Math.floor(now / SLOT_MS);
  if (slots.at(-1)?.slot !== slot) slots.push({ slot, count: 0, size: 0 });
  if (slots.length > SLOTS + 1) slots.shift();
  slots.at(-1).count += 1;
  slots.at(-1).size += size;
  newest = data;
  newestAt = Date.now();
  newestIsFirst = nextIsFirst;
  newestKept = kept;
  nextIsFirst = false;
  plan();
}

/** The newest of the times that a state's parts give themselves, in Unix ms. */
function timeOf(state) {
  const times = [number(object(state.levels).ts), number(object(state.flow).ts)].filter((ts) => ts !== null);
  return times.length ? Math.max(...times) : null;
}

function read() {
  if (newest === null) return;
  let state = null;
  try {
    state = JSON.parse(newest);
  } catch {
    // Counted with whatever else is not an object.
  }
  const json = newest;
  newest = null;
  if (!isObject(state)) {
    unreadable += 1;
    return;
  }
  drawn = state;
  untaken = { json, kept: newestKept, at: performance.now() };
  const ts = timeOf(state);
  // The first message of a connection may be a kept state: its age is not a latency.
  if (ts !== null && ts !== newestTs && !newestIsFirst) {
    latencies.push(newestAt - ts);
    if (latencies.length > LATENCIES) latencies.shift();
  }
  newestTs = ts;
}

// ---- Drawing: at most once a frame, and no more than a third of the time. What a drawing costs, painting
// included, is measured by a task that runs after it; otherwise a slow tab would starve its own messages.
let isPlanned = false, isPaused = false, drawAfter = 0, drawStart = 0;
const afterDrawing = new MessageChannel();
afterDrawing.port1.onmessage = () => {
  const now = performance.now();
  drawAfter = now + 2 * (now - drawStart);
};

function plan() {
  if (isPlanned) return;
  isPlanned = true;
  const wait = drawAfter - performance.now();
  if (wait < 4) requestAnimationFrame(draw);
  else setTimeout(() => requestAnimationFrame(draw), wait);
}

function draw() {
  isPlanned = false;
  drawStart = performance.now();
  read();
  document.body.classList.toggle("is-relays", server.isRelays);
  if (isPaused) return;
  if (server.isRelays) drawKeys();
  else drawMarket();
  // For tests that wait until a message is on the screen.
  attribute(byId("main"), "data-drawn", String(received));
  afterDrawing.port2.postMessage(0);
}

const isRelaysShown = () => document.body.classList.contains("is-relays");

function drawKeys() {
  if (untaken) takeState(untaken.json, untaken.kept, untaken.at);
  untaken = null;
  if (agesAt !== server.agesAt) takeAges(server.ages, server.agesAt);
  agesAt = server.agesAt;
  drawRelays(drawStart);
}

function drawMarket() {
  const { quote, about } = drawLadder(drawn, received, drawStart);
  aboutLevels = about;
  put(byId("symbol"), quote ? quote.name : "Spot");
  put(byId("spot"), decimal(quote ? quote.spot : null, 2));
  const hasBoth = quote && quote.bid !== null && quote.ask !== null;
  put(byId("bidask"), hasBoth ? `${decimal(quote.bid, 2)} / ${decimal(quote.ask, 2)}` : "");
  const names = objects(object(drawn.levels).levels).map((level) => [text(level.id), words(level.level_kind_name)]);
  drawPredictions(drawn, quote?.fits ? quote.spot : null, new Map(names), drawStart);
  drawFlow(drawn);
}

// ---- The connection
const path = new URLSearchParams(location.search).get("path") ?? "ws/stream";
const url = new URL(path, document.baseURI);
let openedAt = 0, nextIsFirst = true;

const feed = connect(() => ownUrl(path), {
  staleMs: STALE_MS,
  onMessage,
  onOpen: () => {
    openedAt = performance.now();
    nextIsFirst = true;
  },
  onStatus: () => tick(),
});

function closeText({ code, reason, opened }) {
  return `${code} ${text(reason, 80) || (opened ? CLOSES[code] ?? "" : "no connection")}`.trim();
}

/** A market moves all the time; a relayed subject may be silent for hours and well. A slowed tab is behind on purpose. */
function shownStatus() {
  const isHere = feed.status === "open" || feed.status === "stale";
  if (isHere && isSlow()) return "slowed";
  return feed.status === "stale" && server.isRelays && !server.isBusAway ? "quiet" : feed.status;
}

/** What the pill shows, and what is read aloud when it changes. */
function statusTexts(now) {
  const wait = Math.max(0, Math.ceil((feed.retryAt - now) / 1000));
  switch (shownStatus()) {
    case "connecting": return feed.lastClose ? ["Reconnecting", "Connection lost, reconnecting"] : ["Connecting", "Connecting"];
    case "waiting": return [`Reconnecting in ${wait} s`, "Connection lost, reconnecting"];
    case "slowed": return isPaused ? ["Paused", "The view is paused, the data comes on"] : ["Slowed", "Connected, and this tab is slowed"];
    case "quiet": return ["Quiet", "Connected, nothing new has come"];
    case "stale": return server.isBusAway
      ? ["NATS is away", "Connected, but the server gets no data: NATS is away"]
      : ["Stale", "Connected, but the data is stale"];
    case "closed": return [`Closed: ${closeText(feed.lastClose)}`, "Closed by the server. The button Reconnect tries again."];
    default: return isPaused ? ["Paused", "The view is paused, the data comes on"] : ["Live", "Connected, the data is live"];
  }
}

/** Messages and bytes a second; null while there is nothing to tell. */
function rates(now) {
  if (feed.status !== "open" && feed.status !== "stale") return null;
  const current = Math.floor(now / SLOT_MS), whole = slots.filter(({ slot }) => slot < current && slot >= current - SLOTS);
  const seconds = Math.min(SLOTS * SLOT_MS, Math.max(SLOT_MS, now - openedAt)) / 1000;
  const sum = (key) => whole.reduce((total, slot) => total + slot[key], 0) / seconds;
  return { messages: sum("count"), bytes: sum("size") };
}

function clockTime(ts) {
  if (ts === null || Math.abs(ts) > 8.64e15) return "–";
  const when = new Date(ts);
  if (Math.abs(Date.now() - ts) > 86_400e3) return when.toISOString().slice(0, 19).replace("T", " ");
  return `${when.toLocaleTimeString("en-GB")}.${Math.floor(when.getMilliseconds() / 100)}`;
}

/** A feed on the edge of stale would be read aloud all the time. */
const SPEAK_EVERY_MS = 3_000;
let spokenAt = -Infinity;
function speak(sentence, now) {
  if (byId("live").textContent === sentence || now - spokenAt < SPEAK_EVERY_MS) return;
  spokenAt = now;
  put(byId("live"), sentence);
}

// ---- The clock line: four times a second, whatever arrives.
function tick() {
  if (document.hidden) return;
  const now = performance.now(), status = shownStatus();
  const isStale = freshAt !== null && status !== "open" && status !== "quiet" && now - freshAt >= STALE_MS;
  const [label, spoken] = statusTexts(now);
  put(byId("status"), label);
  attribute(byId("pill"), "data-status", isPaused && feed.status === "open" ? "paused" : status);
  if (feed.status !== "open" || server.isRelays) ask(now);
  byId("simulated").hidden = !server.isSimulated;
  document.body.classList.toggle("is-old", isStale || isPaused);
  speak(spoken, now);
  byId("main").classList.toggle("is-grey", isStale || isPaused);
  byId("about").classList.toggle("stale", isStale);
  put(byId("about"), isStale ? `Stale: nothing new for ${duration(now - freshAt)}` : isPaused ? "View paused" : aboutLevels);
  put(byId("relayed-about"), isPaused ? "View paused" : aboutRelays());
  // Ages move, and a page that the other replaces is drawn at once.
  if (server.isRelays || isRelaysShown()) plan();
  drawFigures(now);
  if (server.isSimulated) {
    setUpSlow(feed, timeOf);
    drawSlow(now, received, newestTs);
  }
  if (!isPaused) followSpot(now);
}

function drawFigures(now) {
  const rate = rates(now), middle = [...latencies].sort((a, b) => a - b)[latencies.length >> 1];
  put(byId("rate"), decimal(rate && rate.messages, 1));
  put(byId("bytes"), rate ? bytes(rate.bytes) : "–");
  if (!server.isSimulated) put(byId("age"), arrivedAt === null ? "–" : duration(now - arrivedAt));
  put(byId("latency"), !rate || middle === undefined ? "–" : `≈ ${duration(middle)}`);
  put(byId("messages"), decimal(received, 0));
  put(byId("received"), bytes(receivedBytes));
  put(byId("newest"), clockTime(newestTs));
  put(byId("unreadable"), decimal(unreadable, 0));
  put(byId("reconnects"), decimal(feed.reconnects, 0));
  put(byId("last-close"), feed.lastClose ? closeText(feed.lastClose) : "–");
  const isOpen = feed.status === "open" || feed.status === "stale";
  put(byId("open-for"), isOpen ? `open for ${duration(Math.floor((now - openedAt) / 1000) * 1000).replace(".0 s", " s")}` : "");
}

put(byId("address"), url.host + url.pathname);
attribute(byId("address"), "title", url.href);
byId("again").onclick = () => feed.reconnect();
byId("pause").onclick = () => {
  isPaused = !isPaused;
  put(byId("pause"), isPaused ? "Resume" : "Pause");
  plan();
  tick();
};
document.addEventListener("visibilitychange", tick);
ask();
const links = byId("operators");
if (links) removeDeadLinks(links);
setInterval(tick, TICK_MS);
draw();
tick();
