// Functions of the program that throw, in every place and state: the client reports them, and goes on. In virtual time.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { test } from "node:test";
import { fileURLToPath } from "node:url";

import { Channels } from "../channels.js";
import { Devices } from "../events.js";
import { Trades } from "../trades.js";
import { connect, Levels } from "../weirgate.js";
import { settled } from "./expectations.mjs";
import { inWorld, latest, pass, sockets, world } from "./world.mjs";

const URL_ = "ws://feed.example/ws";
const boom = () => { throw new Error("of the program"); };

/** Runs `run` with a list of what is reported, or logged where the client says it in another way too. */
function reporting(run) {
  return inWorld(async () => {
    const reported = [];
    const { error: log } = console;
    globalThis.reportError = console.error = (error) => reported.push(String(error.message ?? error));
    try {
      await run(reported);
    } finally {
      delete globalThis.reportError;
      console.error = log;
    }
  });
}

const PLACES = ["onStatus", "onOpen", "onMessage", "onState", "onBad", "retry"];

for (const place of PLACES) {
  for (const how of place === "retry" ? ["option"] : ["option", "listener", "object", "promise"]) {
    test(`${place} that throws (${how}) is reported, and the client connects, is stale, lost and back as ever`, reporting(async (reported) => {
      const type = place.slice(2).toLowerCase(), fails = how === "promise" ? async () => boom() : boom;
      const feed = new Levels(URL_, how === "option" || how === "promise" ? { [place]: fails } : {});
      if (how === "listener") feed.addEventListener(type, boom);
      if (how === "object") feed.addEventListener(type, { handleEvent: boom });
      for (let connection = 1; connection <= 3; connection += 1) {
        assert.equal(sockets.length, connection);
        latest().open();
        assert.equal(feed.status, connection === 1 ? "open" : "stale");
        latest().message({ n: connection });
        latest().message("{");
        assert.deepEqual([feed.status, feed.state], ["open", { n: connection }]);
        pass(3_000);
        assert.equal(feed.status, "stale");
        latest().end(connection === 2 ? 1012 : 1006);
        assert.equal(feed.status, "waiting");
        assert.equal(world.timers.size, 1);
        pass(1_000);
        await settled();
      }
      feed.close();
      await settled();
      assert.deepEqual([feed.status, world.timers.size], ["closed", 0]);
      assert.ok(reported.length > 0 && reported.every((one) => one === "of the program"), String(reported));
    }));
  }
}

test("a wait of retry that is none counts as none, and retry may close or reconnect", reporting(async () => {
  for (const [value, ms] of [["soon", 450], [NaN, 450], [{}, 450], [null, 450], [undefined, 450], [7, 7], [-5, 0]]) {
    const feed = connect(URL_, { retry: () => value });
    latest().end();
    assert.deepEqual([feed.status, feed.retryAt], ["waiting", world.now + ms], String(value));
    feed.close();
  }
  const closes = connect(URL_, { retry: () => closes.close() });
  latest().end();
  pass(60_000);
  assert.deepEqual([closes.status, world.timers.size], ["closed", 0]);
  const { length } = sockets, again = connect(URL_, { retry: () => again.reconnect() });
  latest().end();
  assert.deepEqual([again.status, sockets.length], ["connecting", length + 2]);
  again.close();
  const late = connect(URL_, { retry: () => 1e12 });
  latest().end();
  pass(3e9);
  assert.equal(late.status, "waiting");
  late.close();
}));

test("functions for address and token that fail are reported once in a row, and asked again", reporting(async (reported) => {
  for (const option of ["url", "token"]) {
    for (const fails of [boom, async () => boom()]) {
      let isBad = false;
      const give = (value) => () => (isBad ? fails() : value), asked = [];
      const token = option === "token" ? give("t") : "t";
      const feed = connect(option === "url" ? give(URL_) : URL_, { token, onStatus: (status) => asked.push(status) });
      await settled();
      isBad = true;
      latest().end();
      for (let n = 0; n < 60; n += 1) {
        pass(1_000);
        await settled();
      }
      assert.deepEqual([feed.status, feed.lastClose.reason], ["waiting", "Error: of the program"]);
      isBad = false;
      for (const { length } = sockets; sockets.length === length; await settled()) pass(1_000);
      latest().open();
      assert.equal(feed.status, "open");
      feed.close();
    }
  }
  assert.deepEqual(reported, Array(4).fill("of the program"));
}));

test("functions for address and token may close or reconnect, and fail then", reporting(async () => {
  for (const option of ["url", "token"]) {
    for (const act of ["close", "reconnect"]) {
      let isBad = false;
      const give = (value) => () => {
        if (!isBad) return value;
        isBad = false;
        feed[act]();
        return boom();
      };
      const feed = connect(option === "url" ? give(URL_) : URL_, { token: option === "token" ? give("t") : "t" });
      latest().end();
      isBad = true;
      pass(1_000);
      pass(5_000);
      assert.equal(feed.status, act === "close" ? "closed" : "connecting");
      feed.reconnect();
      latest().open();
      assert.equal(feed.status, "open");
      feed.close();
      assert.equal(world.timers.size, 0);
    }
  }
}));

test("a first attempt that fails throws to the caller, and leaves nothing behind", reporting(async () => {
  assert.throws(() => connect(boom), { message: "of the program" });
  assert.equal(world.timers.size, 0);
  let isBad = true;
  const stop = new AbortController();
  stop.abort();
  const feed = connect(() => (isBad ? boom() : URL_), { signal: stop.signal });
  assert.throws(() => feed.reconnect(), { message: "of the program" });
  isBad = false;
  feed.reconnect();
  latest().open();
  assert.equal(feed.status, "open");
  feed.close();
}));

test("an error of the engine in an attempt is reported once in a row, and the next attempt is made", reporting(async (reported) => {
  const addresses = [URL_, "ws://refused/", "ws://refused/", URL_];
  class Strict extends globalThis.WebSocket {
    constructor(url, protocols) {
      if (url.includes("refused")) throw new TypeError("no address");
      super(url, protocols);
    }
  }
  const feed = connect(() => addresses.shift(), { WebSocket: Strict });
  latest().end();
  pass(1_000);
  pass(2_000);
  pass(4_000);
  latest().open();
  assert.equal(feed.status, "open");
  assert.deepEqual(reported, ["no address"]);
  feed.close();
}));

test("a socket that throws stops nothing", reporting(async (reported) => {
  const feed = connect(URL_);
  latest().open();
  latest().send = latest().close = boom;
  assert.equal(feed.send("x"), true);
  feed.reconnect();
  latest().open();
  assert.equal(feed.status, "open");
  latest().close = boom;
  feed.close(1, "no code");
  assert.deepEqual([feed.status, world.timers.size, reported.length], ["closed", 0, 3]);
}));

test("handlers of names, and callbacks of requests, fail alone", reporting(async (reported) => {
  const errors = [], got = [];
  const channels = new Channels(URL_, { onError: (error) => { errors.push(error.code); boom(); }, onData: boom, onSubscribed: boom, onBus: boom, onGap: boom, onWelcome: boom });
  channels.subscribe("x", boom);
  channels.subscribe("x", (value) => got.push(value));
  latest().open();
  await settled();
  const [{ requestId }] = latest().sent.splice(0).map(JSON.parse);
  latest().message({ type: "connected", seq: 1 });
  latest().message({ type: "subscribed", channels: ["x"], errors: [], requestId, seq: 2 });
  latest().message({ type: "status", bus: "away", lost: true, seq: 3 });
  latest().message({ type: "data", channel: "x", pattern: null, data: 1, seq: 9 });
  const answer = channels.ping();
  latest().message({ type: "pong", requestId: JSON.parse(latest().sent.pop()).requestId, seq: 10 });
  await answer;
  assert.deepEqual([got, errors, channels.status, [...channels.subscriptions]], [[1], ["handler"], "stale", ["x"]]);
  assert.equal(reported.length, 7);
  channels.close();
  const device = new Devices(URL_, { deviceId: "d", onPush: boom, onIdentified: boom }), trades = new Trades(URL_, { onTrade: boom, onCandle: boom });
  const [first, second] = sockets.slice(-2);
  first.open();
  second.open();
  first.message({ type: "event", event: "e", data: 1, request_id: null });
  second.message({ type: "trade", data: { symbol: "A", price: 1 }, timestamp: 1 });
  second.message({ type: "candle", data: { symbol: "A", interval: "1s", close: 1 } });
  assert.deepEqual([device.status, trades.status, reported.length], ["open", "open", 10]);
  device.close();
  trades.close();
}));

test("a callback that changes the client takes effect behind the step", reporting(async () => {
  const seen = [];
  const feed = connect(URL_, { staleMs: 0, onStatus: (status) => seen.push([status, feed.status]), onOpen: () => feed.reconnect() });
  latest().open();
  assert.equal(feed.status, "connecting");
  assert.deepEqual(seen, [["open", "open"], ["connecting", "connecting"]]);
  feed.close();
}));

test("listeners: once, a signal, removed while an event is told, the same one twice", reporting(async () => {
  const feed = connect(URL_), abort = new AbortController(), got = [];
  const second = () => got.push("second"), twice = () => got.push("twice");
  feed.addEventListener("message", () => { got.push("first"); feed.removeEventListener("message", second); });
  feed.addEventListener("message", second);
  feed.addEventListener("message", () => got.push("once"), { once: true });
  feed.addEventListener("message", () => got.push("signal"), { signal: abort.signal });
  feed.addEventListener("message", twice);
  feed.addEventListener("message", twice);
  feed.addEventListener("message", null);
  latest().open();
  latest().message({});
  abort.abort();
  latest().message({});
  assert.deepEqual(got, ["first", "once", "signal", "twice", "first", "twice"]);
  feed.close();
}));

// What a program may throw that is no Error.
const THROWN = [null, undefined, "text", Symbol("s"), Object.create(null), { toString() { throw new Error("of toString"); } }, Object.freeze([])];

test("whatever is thrown, in every place, changes nothing", inWorld(async () => {
  const { error: log } = console;
  console.error = () => {};
  try {
    for (const thrown of THROWN) {
      for (const fails of [() => { throw thrown; }, () => Promise.reject(thrown)]) {
        let asked = 0;
        const before = sockets.length, token = () => (asked++ ? "x.y.z" : fails());
        // An error at the start is for the caller, so the first token comes late.
        const feed = new Channels(URL_, { token: async () => token(), onStatus: fails, onOpen: fails, onMessage: fails, onData: fails, onError: fails, retry: fails });
        const names = feed.subscribe("a", fails);
        await settled();
        assert.deepEqual([feed.status, sockets.length], ["waiting", before]);
        pass(20_000);
        await settled();
        latest().open();
        await settled();
        latest().message({ type: "subscribed", channels: ["a"], errors: [], requestId: latest().sent.at(-1).requestId, seq: 1 });
        latest().message({ type: "data", channel: "a", pattern: null, data: 1, seq: 2 });
        await settled();
        assert.deepEqual([feed.status, names.granted], ["open", ["a"]]);
        latest().end(1006);
        await settled();
        assert.equal(feed.status, "waiting");
        feed.close();
        await settled();
      }
    }
  } finally {
    console.error = log;
  }
}));

test("a close that a WebSocket refuses closes it all the same", reporting(async (reported) => {
  for (const how of [[1006, ""], [999], [1000, "x".repeat(200)]]) {
    const feed = new Levels(URL_), closed = [];
    latest().open();
    latest().close = (...given) => {
      closed.push(given);
      if (given.length) throw new Error("InvalidAccessError");
    };
    feed.close(...how);
    assert.deepEqual([feed.status, closed.at(-1), reported.length], ["closed", [], 1]);
    reported.length = 0;
  }
}));

const ENGINE = `
  const [part, file] = process.argv.slice(1), log = [];
  const gone = {
    "nothing": () => {},
    "React Native": () => { for (const name of ["EventTarget", "Event", "DOMException", "MessageEvent", "addEventListener", "queueMicrotask", "structuredClone"]) delete globalThis[name]; globalThis.window = globalThis; },
    "an old Hermes": () => { for (const name of ["TextDecoder", "TextEncoder", "atob", "btoa", "AbortController", "AbortSignal", "performance"]) delete globalThis[name]; },
    "no URL": () => { delete globalThis.URL; delete globalThis.URLSearchParams; },
    "a URL of getters": () => { const Whole = URL; globalThis.URL = class { constructor(...how) { this.whole = new Whole(...how); } get href() { return this.whole.href; } get origin() { throw new Error("not implemented"); } get searchParams() { throw new Error("not implemented"); } }; },
    "a worker of a blob": () => { globalThis.self = globalThis; globalThis.location = { href: "blob:https://feed.example/1" }; },
    "a document without events": () => { globalThis.document = {}; },
    "Deno or Bun": () => { globalThis.reportError = () => process.exit(3); },
  };
  globalThis.WebSocket = class { readyState = 0; constructor(url, protocols) { globalThis.made = Object.assign(this, { url, protocols, sent: [] }); } send(text) { this.sent.push(JSON.parse(text)); } close() {} };
  console.error = (error) => log.push(error.message);
  gone[part]();
  const { Levels } = await import(file + "/weirgate.js"), { Channels } = await import(file + "/channels.js"), { Trades } = await import(file + "/trades.js");
  const { Devices } = await import(file + "/events.js"), { withFallback } = await import(file + "/event-stream.js");
  for (const Class of [Levels, Channels, Trades, Devices]) {
    for (const WebSocket of [undefined, withFallback()]) {
      const client = new Class("https://feed.example/ws?a=1", { token: async () => "x.y.z", maxHz: 5, onStatus: () => { throw new Error("of the program"); }, ...(WebSocket && { WebSocket }) });
      const sub = client.subscribe?.("A", () => {});
      for (let n = 0; n < 9; n += 1) await null;
      if (made.url !== "wss://feed.example/ws?a=1&max_hz=5" || made.protocols[1] !== "x.y.z") throw new Error(made.url);
      made.readyState = 1;
      made.onopen({});
      for (let n = 0; n < 9; n += 1) await null;
      made.onmessage({ data: "{}" });
      if (client.status !== "open" || (sub && !made.sent.length)) throw new Error(client.status);
      client.close();
    }
  }
  console.log(new Set(log).size + " " + [...new Set(log)][0]);
  process.exit();`;

for (const part of ["nothing", "React Native", "an old Hermes", "no URL", "a URL of getters", "a worker of a blob", "a document without events", "Deno or Bun"]) {
  test(`the clients run with the globals of: ${part}`, () => {
    const folder = fileURLToPath(new URL("..", import.meta.url));
    const said = execFileSync(process.execPath, ["--input-type=module", "-e", ENGINE, part, folder], { encoding: "utf8", timeout: 30_000 });
    assert.equal(said.trim(), "1 of the program");
  });
}

const WITHOUT_STREAMS = `
  const [part, file] = process.argv.slice(1), said = [], reasons = new Set();
  const gone = {
    "a fetch": () => { delete globalThis.fetch; },
    "a fetch with streams": () => { globalThis.fetch = Object.assign(() => new Promise(() => {}), { polyfill: true }); },
    "a body": () => { globalThis.fetch = async () => ({ ok: true, status: 200, headers: new Headers({ "content-type": "text/event-stream" }), text: () => new Promise(() => {}) }); },
    "URL": () => { delete globalThis.URL; },
    "AbortController": () => { delete globalThis.AbortController; },
    "TextDecoder": () => { delete globalThis.TextDecoder; },
  };
  const { Levels } = await import(file + "/weirgate.js"), { withFallback } = await import(file + "/event-stream.js");
  let attempts = 0;
  class Refused { readyState = 0; constructor() { attempts += 1; setTimeout(() => this.onclose({ code: 1006, reason: "" })); } close() {} }
  console.error = (text) => said.push(text);
  delete globalThis.queueMicrotask;
  gone[part]();
  const feed = new Levels("ws://feed.example/ws", { WebSocket: withFallback(Refused), backoffMinMs: 5, backoffMaxMs: 5, onStatus: () => reasons.add(feed.lastClose?.reason) });
  while (attempts < 3) await new Promise((go) => setTimeout(go, 5));
  feed.close();
  console.log(JSON.stringify([said.length, said[0], [...reasons].filter(Boolean)]));
  process.exit();`;

for (const part of ["a fetch", "a fetch with streams", "a body", "URL", "AbortController", "TextDecoder"]) {
  test(`without ${part} there are no event streams: the client says so once, and goes on with WebSockets`, () => {
    const folder = fileURLToPath(new URL("..", import.meta.url));
    const [count, said, reasons] = JSON.parse(execFileSync(process.execPath, ["--input-type=module", "-e", WITHOUT_STREAMS, part, folder], { encoding: "utf8", timeout: 30_000 }));
    const what = { "a fetch": "fetch", "a body": "a fetch with streams" }[part] ?? part;
    assert.equal(count, 1);
    assert.ok(said.startsWith(`weirgate: event streams need ${what}; in React Native from a polyfill`), said);
    assert.equal(reasons.length, 1);
    assert.ok(said.includes(reasons[0].replace("TypeError: ", "")));
  });
}
