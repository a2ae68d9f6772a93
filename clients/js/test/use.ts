// Compiled, never run: valid code for users of the types, and code that the compiler has to refuse.
import { connect, Levels, RequestError, type LevelsState, type Status } from "weirgate";
import { Channels } from "weirgate/channels";
import { Devices } from "weirgate/events";
import { EventStream, withFallback } from "weirgate/event-stream";
import { latencyOf } from "weirgate/latency";
import { useChannel, useFeed, useRows, useStatus } from "weirgate/react";
import { rowsOf } from "weirgate/rows";
import { statusOf } from "weirgate/status";
import { Trades } from "weirgate/trades";

const feed = connect("ws://localhost:8000/ws/stream", { onState: ({ levels }) => levels?.es, signal: AbortSignal.timeout(1) });
const status: Status = feed.status;
connect("ws://localhost/", { token: "text", maxHz: 0.5 });
connect("ws://localhost/", { token: async () => "text" });
// @ts-expect-error a token is not a number
connect("ws://localhost/", { token: 5 });
connect(async () => new URL("ws://localhost/"), { token: async ({ refused }) => (refused ? "new" : null), retry: () => false });

connect("ws://localhost:8000/ws/stream", { WebSocket: withFallback() });
connect("ws://localhost:8000/ws/stream", { WebSocket: EventStream });

async function main() {
  const levels = new Levels("ws://localhost:8000/ws/stream");
  for await (const state of levels) {
    const seen: LevelsState = state;
    const price: number | undefined = seen.levels?.levels[0]?.level_price;
  }
  const spot: number | null | undefined = levels.state?.levels?.spy.spot;

  const trades = new Trades("ws://localhost:8080", { onTrade: (trade, timestamp) => trade.price + timestamp });
  const { granted, refused } = await trades.subscribe(["AAPL"]);
  const why: string = refused[granted[0]];
  const symbol = trades.subscribe("AAPL", (trade, timestamp) => trade.price + timestamp);
  for await (const { price } of symbol) console.log(price + 1);
  symbol.unsubscribe();
  symbol.then(({ granted }) => granted.length, (error) => error);
  for await (const trade of trades) trade.symbol.toUpperCase();
  trades.addEventListener("trade", ({ detail, timestamp }) => detail.price + timestamp);
  trades.addEventListener("error", ({ detail }) => detail.code);
  await trades.subscribeCandles("AAPL", "1m", ({ high, low, partial }) => (partial ? undefined : high - low));
  for await (const { close } of trades.subscribeCandles("AAPL", "1m")) console.log(close + 1);
  for await (const { start, high, closed } of trades.iterate("candle")) console.log(start + high, closed);
  const resumed = new Trades("ws://localhost:8080", { since: localStorage.getItem("position"), last: 1, onBus: (bus, lost) => bus === "away" || lost });
  resumed.addEventListener("subscribed", ({ detail }) => detail.recovered === false && detail.why === "window");
  const [position, bus]: [string | null | undefined, "up" | "away" | undefined] = [resumed.position, resumed.bus];
  // @ts-expect-error the position is the client's
  resumed.position = "p";
  const minutes: number | undefined = trades.candles.get("1m")?.size;
  // @ts-expect-error there are no candles of an hour
  trades.subscribeCandles("AAPL", "1h");
  // @ts-expect-error trades have no such option
  new Trades("ws://localhost:8080", { onGap: () => {} });
  // @ts-expect-error symbols are texts
  trades.subscribe(5);

  const renewed = new Channels("ws://localhost:8889/ws", { since: null, last: 5, onSubscribed: ({ recovered, why }) => recovered?.x === false && why?.x === "gap" });
  const place: string | null | undefined = renewed.position;
  const channels = new Channels(new URL("ws://localhost:8889/ws"), { tokenIn: "query", onGap: ({ first, last }) => last - first });
  const all = new Channels("ws://localhost:8889/ws", { onLast: ({ channel, count, cut, pos }) => cut === "window" || [channel, count + 1, pos] });
  all.subscribe("inbox.7", undefined, { last: "all" });
  // @ts-expect-error trades have no beginning
  new Trades("ws://localhost:8080").subscribe("AAPL", undefined, { last: "all" });
  const { refused: reasons } = await channels.subscribe("market:tick:*", (data, { channel, pattern }) => [data, channel, pattern]);
  for await (const { channel, data, seq } of channels) console.log(channel, data, seq);
  const bytes = new Channels<Uint8Array>("ws://localhost:8889/ws", { payload: "binary", onData: ({ data }) => data.byteLength });
  for await (const { data } of bytes) console.log(data[0] + 1);
  // @ts-expect-error there is no other kind
  new Channels("ws://localhost:8889/ws", { payload: "text" });
  // @ts-expect-error trades have no payloads
  new Trades("ws://localhost:8080", { payload: "binary" });
  for await (const { first } of channels.iterate("gap")) console.log(first + 1);

  interface Tick { price: number }
  const ticks = new Channels<Tick>("ws://localhost:8889/ws", { onData: ({ data }) => data.price, namesMax: 5 });
  const sub = ticks.subscribe("market:tick", ({ price }, { data, seq }) => price + data.price + seq);
  for await (const { data } of sub) console.log(data.price + 1);
  for await (const { data } of ticks) console.log(data.price + 1);
  for await (const { data } of ticks.iterate("data")) console.log(data.price + 1);
  ticks.addEventListener("data", ({ detail }) => detail.data.price + 1);
  ticks.subscribe<Tick & { volume: number }>("market:tick:*", ({ volume }) => volume + 1);
  // @ts-expect-error ticks have no such member
  ticks.subscribe("market:tick", ({ cost }) => cost);
  // @ts-expect-error ticks have no such member
  ticks.addEventListener("data", ({ detail }) => detail.data.cost);
  // @ts-expect-error a subscription is given up by itself
  ticks.unsubscribe("market:tick");
  const tick: number | undefined = useChannel(ticks, "market:tick").value?.price;
  const trade: number | undefined = useChannel(trades, "AAPL").value?.price;
  // @ts-expect-error ticks have no such member
  useChannel(ticks, "market:tick").value?.cost;

  const latency = latencyOf(ticks, { pingMs: 30_000 });
  const age: number | undefined = latency.ms && latency.ageOf({ recv_us: 1 });
  const endRows = rowsOf<Tick>(ticks, ["a.*", "b.*"], ({ rows }) => [...rows.values()].map(({ value, message, at }) => [value.price, latency.ageOf(message), at]));
  const endStatus = statusOf(trades, ({ state, cause, causes }) => state === "late" || cause + causes.length, { latency: latencyOf(trades), lateMs: 500 });
  endRows();
  endStatus();
  latency.end();
  const row: number | undefined = useRows<Tick>(ticks, "a.*", { idOf: ({ channel }) => channel }).rows.get("1")?.value.price;
  const { state } = useStatus(ticks, { latency });
  // @ts-expect-error the state is none of these
  const other: "opened" = state;
  const denied: string | undefined = ticks.refused.x;
  // @ts-expect-error levels answer no pings
  latencyOf(levels);

  const typed = new Devices<{ code: string }>("ws://localhost:8000/ws", { onPush: ({ data }) => data.code });
  for await (const { data } of typed) data.code.toUpperCase();

  const device = new Devices("ws://localhost:8000/ws", { deviceId: "d1", onPush: ({ event }) => event });
  const { recovered } = await new Devices("ws://localhost:8000/ws", { since: device.position, onIdentified: ({ why }) => why === "off" }).identify("d3");
  const { code } = await device.request<{ code: string }>("lobby.create", {});
  try {
    await device.identify("d2");
  } catch (error) {
    if (error instanceof RequestError) console.log(error.code, error.details);
  }
  const { value, client } = useFeed(() => new Levels("ws://localhost:8000/ws/stream"), []);
  const newest: LevelsState | undefined = value;
  const shared = useFeed(trades);
  const price: number | undefined = shared.value?.price;
  // @ts-expect-error the status is none of these
  const wrong: "opened" = shared.status;
}
