// A bot for Node on `weirgate trades`: prints each symbol's volume-weighted price once a second.
//
//   npm install ./clients/js ws    (in a checkout)
//   node bot.mjs ws://localhost:8080 AAPL GOOGL
import WebSocket from "ws";
import { Trades } from "weirgate/trades";

const [url = "ws://localhost:8080", ...symbols] = process.argv.slice(2);
const stop = new AbortController();
process.once("SIGINT", () => stop.abort());

const trades = new Trades(url, {
  WebSocket,
  signal: stop.signal,
  onStatus: (status) => console.error("connection:", status, trades.lastClose?.reason ?? ""),
  onError: (error) => console.error("refused:", error.message),
});
const seen = new Map();
const printing = setInterval(() => {
  for (const [symbol, { value, volume }] of seen) console.log(symbol, (value / volume).toFixed(4), volume);
  seen.clear();
}, 1_000);

try {
  // The symbols are wanted until the end: asked for once connected, and again on each new connection.
  for await (const { symbol, price, volume = 1 } of trades.subscribe(symbols.length ? symbols : ["AAPL"])) {
    const sum = seen.get(symbol) ?? { value: 0, volume: 0 };
    seen.set(symbol, { value: sum.value + price * volume, volume: sum.volume + volume });
  }
} finally {
  clearInterval(printing);
}
