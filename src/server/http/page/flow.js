// The flow: volumes, a few figures, the book. It may be any JSON value; what is known of it is shown.
import { anything, byId, decimal, decoration, element, isObject, number, object, put, scale, split, text, words } from "./values.js";

const PAIRS_MAX = 7, BOOK_ROWS = 5;
const FIRST = ["delta", "cvd", "volume", "imbalance", "velocity", "vwap", "change", "net"];
const NAMES = { delta: "Delta", cvd: "Cumulative delta", vwap: "VWAP" };
const MEANINGS = {
  delta: "Bought minus sold, in the newest period",
  cvd: "Bought minus sold, since the session began",
  volume: "Bought and sold, since the session began",
  imbalance: "From −1, only sold, to 1, only bought",
  velocity: "How fast the price moves",
  vwap: "The average price, each trade weighted by its size",
  change: "How far the price is from the first of the session",
  net: "Bought minus sold",
};
const BOOK = [
  ["Bid size", "How much others want to buy at the price beside it"], ["Bid", "A price that somebody pays"],
  ["Ask", "A price that somebody sells at"], ["Ask size", "How much others want to sell at the price beside it"],
];
/** Shown elsewhere on the page. */
const ELSEWHERE = new Set(["ts", "symbol", "buy_vol", "sell_vol", "buy", "sell"]);

const none = element("p", "dim");
const buyText = element("span", "a"), sellText = element("span", "b"), volumes = split();
const top = element("div", "volumes", element("div", "ends", buyText, sellText), volumes.bar);
const list = element("dl", "kv"), pairs = new Map();
const book = element("table", "book");
byId("flow").append(none, top, list, book);
let bookRows = [];

export function drawFlow(state) {
  const { flow } = state, data = object(flow);
  const isKnown = flow !== undefined && flow !== null;
  put(none, isObject(flow) ? "" : isKnown ? `Not an object: ${text(flow) || "a list"}` : "No flow yet.");
  put(byId("flow-about"), text(data.symbol, 16));
  drawVolumes(data);
  drawPairs(data);
  drawBook(object(data.book));
}

function drawVolumes(data) {
  const buy = number(data.buy_vol) ?? number(data.buy), sell = number(data.sell_vol) ?? number(data.sell);
  top.hidden = buy === null || sell === null || buy < 0 || sell < 0;
  if (top.hidden) return;
  put(buyText, `Buy ${decimal(buy, 0)}`);
  put(sellText, `Sell ${decimal(sell, 0)}`);
  const total = buy + sell || 1;
  volumes.set(buy / total, sell / total);
}

function drawPairs(data) {
  const keys = Object.keys(data).filter((key) => !ELSEWHERE.has(key) && data[key] !== null && typeof data[key] !== "object");
  const chosen = FIRST.filter((key) => keys.includes(key)).concat(keys.filter((key) => !FIRST.includes(key))).slice(0, PAIRS_MAX);
  if (chosen.join("\n") !== [...pairs.keys()].join("\n")) {
    pairs.clear();
    list.replaceChildren();
    for (const key of chosen) {
      const value = element("dd");
      pairs.set(key, value);
      const name = element("dt", "", Object.hasOwn(NAMES, key) ? NAMES[key] : words(key));
      if (Object.hasOwn(MEANINGS, key)) name.title = MEANINGS[key];
      list.append(name, value);
    }
  }
  for (const key of chosen) put(pairs.get(key), anything(key, data[key]));
}

/** [[price, size], …], also where each is an object. */
function side(entries) {
  const pair = (entry) => (Array.isArray(entry) ? entry : [object(entry).price, object(entry).size]).slice(0, 2).map(number);
  return Array.isArray(entries) ? entries.slice(0, BOOK_ROWS).map(pair) : [];
}

function bookCell(className) {
  const bar = decoration("i"), value = element("span");
  return { cell: element("td", className, bar, value), bar, value };
}

function makeBook(count) {
  const head = element("tr", "", ...BOOK.map(([name, meaning], n) => {
    const th = element("th", n % 2 ? "num" : "", name);
    th.scope = "col";
    th.title = meaning;
    return th;
  }));
  head.children[2].className = "";
  bookRows = Array.from({ length: count }, () => ["a", "a num", "b", "b num"].map(bookCell));
  const rows = bookRows.map((cells) => element("tr", "", ...cells.map(({ cell }) => cell)));
  book.replaceChildren(element("caption", "vh", "The book, best prices first"), element("thead", "", head), element("tbody", "", ...rows));
}

function drawBook({ bids, asks }) {
  const [bid, ask] = [side(bids), side(asks)], count = Math.max(bid.length, ask.length);
  book.hidden = count === 0;
  if (bookRows.length !== count) makeBook(count);
  const most = Math.max(1, ...bid.concat(ask).map(([, size]) => size ?? 0));
  bookRows.forEach(([bidSize, bidPrice, askPrice, askSize], n) => {
    const [atBid, bidding] = bid[n] ?? [null, null], [atAsk, asking] = ask[n] ?? [null, null];
    put(bidSize.value, decimal(bidding ?? null, 0));
    put(bidPrice.value, decimal(atBid ?? null, 2));
    put(askPrice.value, decimal(atAsk ?? null, 2));
    put(askSize.value, decimal(asking ?? null, 0));
    // One bar over both cells of a side, growing away from the middle.
    const shares = [bidding, asking].map((size) => 2 * (size ?? 0) / most);
    scale(bidPrice.bar, shares[0]);
    scale(bidSize.bar, shares[0] - 1);
    scale(askPrice.bar, shares[1]);
    scale(askSize.bar, shares[1] - 1);
  });
}
