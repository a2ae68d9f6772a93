// The level ladder: one row for each level, highest price first, with the spot between them.
import {
  attribute, byId, clamp, decimal, decoration, element, number, object, objects, percent, place, put, scale, shares,
  signed, spanVisible, split, svg, text, words,
} from "./values.js";

/** More than this are not drawn: those nearest to the spot are. */
const ROWS_MAX = 200;
/** A ladder of more rows than this scrolls by itself, around the spot. */
const LONG = 16;
const HISTORY_S = 120, SAMPLE_MS = 1_000;
/** Half the height of a score's chart, in pixels, and the scores at its edges: 50 ± 38. */
const CHART_HALF = 14, SCORE_HALF = 38;
/** A spot is on the scale of the levels within this share of their middle. */
const SCALE_SHARE = 0.1;
const FOLLOW_PAUSE_MS = 10_000;

/** The names of the market, for readers who are no traders. */
const BARRIERS = {
  VACUUM: "Few orders rest at the level", WALL: "Far more orders than usual rest at the level", CONSUMED: "Trades use up the orders at the level",
  ABSORPTION: "Orders at the level come back as fast as trades use them up", NEUTRAL: "About as many orders as usual rest at the level",
};
const SIGNALS = {
  BREAK: "The price is expected to pass the level", BOUNCE: "The price is expected to turn at the level",
  NO_TRADE: "Nothing to trade on", CHOP: "No direction; also shown if the publisher sends no signal",
};

const still = matchMedia("(prefers-reduced-motion: reduce)");
const box = byId("scroll"), body = byId("rows");
const rows = new Map();

const spotCell = element("td"), spotRow = element("tr", "spot", spotCell);
const emptyTitle = element("b"), emptyText = element("span");
const emptyCell = element("td", "", emptyTitle, emptyText), emptyRow = element("tr", "empty", emptyCell);
const moreCell = element("td"), moreRow = element("tr", "more", moreCell);
spanVisible(byId("ladder"), [spotCell, emptyCell, moreCell]);

/** The score of the last two minutes, one sample a second, the newest at the right. */
class Chart {
  #samples = [];
  #sampledAt = -Infinity;
  #line = svg("polyline", { points: "" });
  node = svg("svg", { viewBox: `0 0 ${HISTORY_S} ${2 * CHART_HALF}`, preserveAspectRatio: "none", "aria-hidden": "true" });

  constructor() {
    this.node.append(svg("line", { x1: 0, x2: HISTORY_S, y1: CHART_HALF, y2: CHART_HALF }), this.#line);
  }

  add(score, now) {
    if (score === null || now - this.#sampledAt < SAMPLE_MS) return;
    this.#sampledAt = now;
    this.#samples.push(score);
    if (this.#samples.length > HISTORY_S + 1) this.#samples.shift();
    const first = HISTORY_S + 1 - this.#samples.length;
    const y = (one) => CHART_HALF - clamp((one - 50) / SCORE_HALF, -1, 1) * (CHART_HALF - 1);
    this.#line.setAttribute("points", this.#samples.map((one, n) => `${first + n},${y(one).toFixed(1)}`).join(" "));
  }

  /** In a word, for who cannot see it. */
  trend() {
    const before = this.#samples[Math.max(0, this.#samples.length - 30)];
    const change = this.#samples.at(-1) - before;
    return Math.abs(change) >= 5 ? (change > 0 ? ", rising" : ", falling") : "";
  }
}

const pips = (className) => decoration("span", `pips ${className}`, element("i"), element("i"), element("i"));

class Row {
  tr = element("tr");
  usedAt = 0;
  #price = element("span", "price");
  #kindSmall = element("span", "sub only-small");
  #kind = element("span");
  #sub = element("span", "sub");
  #distance = element("td", "c-distance num");
  #barrier = element("span");
  #barrierFill = element("i");
  #barrierCell = element("td", "c-barrier barrier");
  #score = element("b");
  #trend = element("span", "vh");
  #chart = new Chart();
  #arrow = decoration("span", "arrow");
  #signal = element("span");
  #direction = element("span", "vh");
  #chip = element("span", "chip", this.#arrow, this.#signal, this.#direction);
  #pips = pips("");
  #pipsSmall = pips("");
  #confidence = element("span");
  #confidenceSmall = element("span", "vh");
  #odds = element("span");
  #break = element("span", "a");
  #bounce = element("span", "b");
  #split = split();
  #was;

  constructor() {
    const head = element("th", "c-price", this.#price, this.#kindSmall);
    head.scope = "row";
    this.#barrierCell.append(this.#barrier, decoration("span", "track", this.#barrierFill));
    this.tr.append(
      head,
      element("td", "c-level", this.#kind, this.#sub),
      this.#distance,
      this.#barrierCell,
      element("td", "c-score", element("div", "score", element("span", "", this.#score, this.#trend), this.#chart.node)),
      element("td", "c-signal", this.#chip, element("span", "sub only-small", this.#pipsSmall, this.#confidenceSmall, this.#odds)),
      element("td", "c-confidence", this.#pips, this.#confidence),
      element("td", "c-odds", element("div", "ends", this.#break, this.#bounce), this.#split.bar),
    );
  }

  draw(level, price, spot, now) {
    this.usedAt = now;
    put(this.#price, price === null ? text(level.level_price) || "–" : decimal(price, 2));
    this.#drawName(level);
    const away = price !== null && spot !== null ? price - spot : null;
    put(this.#distance, away === null ? decimal(number(level.distance), 2) : signed(away, 2));
    this.#drawBarrier(level);
    this.#drawScore(level, now);
    this.#drawSignal(level);
    this.#drawOdds(level);
  }

  #drawName(level) {
    const kind = words(level.level_kind_name) || "–", strength = text(level.confluence_level_name);
    put(this.#kind, kind);
    put(this.#kindSmall, kind);
    const sub = text(level.note, 120) || (strength && strength !== "UNDEFINED" ? words(strength) : "");
    put(this.#sub, sub);
    attribute(this.#sub, "title", sub);
  }

  #drawBarrier(level) {
    const state = text(level.barrier_state) || "–", wall = number(level.wall_ratio), liquidity = number(level.barrier_delta_liq);
    put(this.#barrier, words(state));
    attribute(this.#barrierCell, "data-state", state);
    // A wall of 2.5 times the usual depth fills the bar.
    scale(this.#barrierFill, wall === null ? null : clamp(Math.abs(wall) / 2.5, 0.02, 1));
    const meaning = Object.hasOwn(BARRIERS, state) ? BARRIERS[state] : "";
    const parts = [meaning, liquidity === null ? "" : `liquidity ${signed(liquidity, 0)}`, wall === null ? "" : `${decimal(wall, 2)} of the usual depth`];
    attribute(this.#barrierCell, "title", parts.filter(Boolean).join(", "));
  }

  #drawScore(level, now) {
    const score = number(level.break_score_smooth) ?? number(level.break_score_raw);
    put(this.#score, decimal(score, 0));
    this.#chart.add(score, now);
    put(this.#trend, this.#chart.trend());
  }

  #drawSignal(level) {
    const signal = text(level.signal) || "–", up = level.direction === "UP", down = level.direction === "DOWN";
    if (this.#was !== undefined && this.#was !== signal && !still.matches) {
      this.#chip.animate([{ boxShadow: "0 0 0 3px currentColor" }, { boxShadow: "0 0 0 0 transparent" }], 700);
    }
    this.#was = signal;
    attribute(this.tr, "data-signal", signal);
    put(this.#arrow, up ? "▲" : down ? "▼" : "");
    put(this.#signal, words(signal));
    attribute(this.#chip, "title", Object.hasOwn(SIGNALS, signal) ? SIGNALS[signal] : "");
    put(this.#direction, up ? " up" : down ? " down" : ` ${text(level.direction)}`);
    const confidence = text(level.confidence);
    put(this.#confidence, words(confidence) || "–");
    put(this.#confidenceSmall, `${words(confidence)} confidence, `);
    const count = { HIGH: "3", MEDIUM: "2", LOW: "1" }[confidence] ?? "0";
    attribute(this.#pips, "data-n", count);
    attribute(this.#pipsSmall, "data-n", count);
  }

  #drawOdds(level) {
    const odds = object(level.ml_predictions), breaks = number(odds.p_break), bounces = number(odds.p_bounce);
    const [a, b] = shares(breaks, bounces);
    put(this.#break, a);
    put(this.#bounce, b);
    this.#split.set(breaks, bounces);
    put(this.#odds, breaks === null ? words(level.confidence) : `${percent(breaks)} break`);
  }
}

/** The instrument whose spot is on the scale of the levels: `es`, `spy`, or any other; null where there is none. */
export function quoteOf(levels, prices) {
  const middle = prices.length ? prices[prices.length >> 1] : null;
  let best = null;
  for (const key of Object.keys(levels)) {
    const quote = object(levels[key]), spot = number(quote.spot);
    if (spot === null) continue;
    const off = middle === null ? 0 : Math.abs(spot - middle);
    if (best && best.off <= off) continue;
    best = { name: key.toUpperCase().slice(0, 12), spot, bid: number(quote.bid), ask: number(quote.ask), off };
  }
  const fits = best !== null && middle !== null && best.off < Math.abs(middle) * SCALE_SHARE;
  return best && { ...best, fits };
}

/** Of many levels those around the spot. */
function around(entries, spot) {
  if (entries.length <= ROWS_MAX) return entries;
  const below = spot === null ? 0 : entries.findIndex(({ price }) => price !== null && price <= spot);
  const middle = below < 0 ? entries.length : below;
  const first = clamp(middle - ROWS_MAX / 2, 0, entries.length - ROWS_MAX);
  return entries.slice(first, first + ROWS_MAX);
}

/** Draws the rows of `entries`, and returns them in order with the spot between them. */
function drawRows(entries, spot, now) {
  const order = [], seen = new Map();
  let isMarked = spot === null;
  for (const { level, price } of entries) {
    if (!isMarked && (price === null || price < spot)) {
      order.push(spotRow);
      isMarked = true;
    }
    // Levels should have different names; levels of the same name are distinguished by their order.
    const name = text(level.id) || `${text(level.level_kind_name)} ${price}`, n = seen.get(name) ?? 0;
    seen.set(name, n + 1);
    const key = `${name}#${n}`;
    if (!rows.has(key)) rows.set(key, new Row());
    const row = rows.get(key);
    row.draw(level, price, spot, now);
    order.push(row.tr);
  }
  if (!isMarked && order.length) order.push(spotRow);
  return order;
}

function why(received, levels) {
  if (received === 0) return "Waiting for the first message.";
  return levels === undefined ? "Messages arrive, but none holds levels." : "The last message holds an empty list.";
}

/** Draws the ladder of a state; returns the quote and a line about it. */
export function drawLadder(state, received, now) {
  const levels = object(state.levels);
  const entries = objects(levels.levels).map((level) => ({ level, price: number(level.level_price) }));
  entries.sort((a, b) => (b.price ?? -Infinity) - (a.price ?? -Infinity) || 0);
  const quote = quoteOf(levels, entries.map(({ price }) => price).filter((price) => price !== null));
  const spot = quote?.fits ? quote.spot : null;
  const chosen = around(entries, spot);
  const order = drawRows(chosen, spot, now);
  if (spot !== null) put(spotCell, `${quote.name} spot ${decimal(spot, 2)}`);
  if (entries.length > chosen.length) {
    put(moreCell, `${entries.length - chosen.length} more levels farther away`);
    order.push(moreRow);
  }
  if (order.length === 0) {
    put(emptyTitle, "No levels yet");
    put(emptyText, why(received, state.levels));
    order.push(emptyRow);
  }
  for (const [key, row] of rows) if (row.usedAt !== now) rows.delete(key);
  place(body, order);
  box.classList.toggle("long", order.length > LONG);
  return { quote, about: about(entries, number(levels.ts)) };
}

function about(entries, ts) {
  if (entries.length === 0) return "";
  const { level } = entries[0], minute = number(level.bars_since_open);
  const isOver = minute === null || minute !== minuteOf(ts);
  const session = isOver ? "" : level.is_first_15m === true ? " · first 15 minutes" : ` · minute ${minute} of the session`;
  return `${entries.length} level${entries.length > 1 ? "s" : ""}${session}`;
}

const newYork = new Intl.DateTimeFormat("en-US", { timeZone: "America/New_York", weekday: "short", hour: "2-digit", minute: "2-digit", hourCycle: "h23" });

/**
 * The whole minutes since the open at 09:30 New York; null before it and at a weekend. The feed counts
 * at weekends too, and stops at the end of the session.
 */
export function minuteOf(ts) {
  if (ts === null || Math.abs(ts) > 8.64e15) return null;
  const { weekday, hour, minute } = Object.fromEntries(newYork.formatToParts(ts).map(({ type, value }) => [type, value]));
  const since = Number(hour) * 60 + Number(minute) - (9 * 60 + 30);
  return since < 0 || weekday === "Sat" || weekday === "Sun" ? null : since;
}

// A long ladder keeps the spot in sight, unless somebody has just moved it.
let movedAt = -Infinity;
for (const name of ["wheel", "pointerdown", "touchmove", "keydown"]) {
  box.addEventListener(name, () => { movedAt = performance.now(); }, { passive: true });
}

export function followSpot(now) {
  if (now - movedAt < FOLLOW_PAUSE_MS || !spotRow.isConnected || !box.classList.contains("long")) return;
  const y = spotRow.offsetTop - box.scrollTop;
  if (y < 80 || y > box.clientHeight - 80) box.scrollTop = spotRow.offsetTop - box.clientHeight / 2;
}
