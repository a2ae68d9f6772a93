// Subscriptions in programs: loops, handlers that change subscriptions, iteration. In virtual time.
import assert from "node:assert/strict";
import { test } from "node:test";

import { Channels } from "../channels.js";
import { statusOf } from "../status.js";
import { Subscriber } from "../subscriber.js";
import { Trades } from "../trades.js";
import { inWorld, latest, pass, sockets, world } from "./world.mjs";

const URL_ = "ws://feed.example/ws";
const settled = async () => { for (let n = 0; n < 30; n += 1) await null; };
const sent = () => latest().sent.splice(0).map(JSON.parse);
const data = (channel, value) => ({ type: "data", seq: 1, channel, pattern: null, data: value });
const grant = ({ channels, requestId }) => latest().message({ type: "subscribed", channels, errors: [], requestId, seq: 1 });

/** Takes all items of an iteration; returns the items so far, and the end. */
function taking(items) {
  const got = { items: [], end: null };
  (async () => {
    for await (const item of items) got.items.push(item.data ?? item.price);
  })().then(() => (got.end = "done"), (error) => (got.end = [error.code, error.message]));
  return got;
}

test("2,500 names of a loop are three requests, and three again on the next connection", inWorld(async () => {
  const channels = new Channels(URL_), names = Array.from({ length: 2_500 }, (_, n) => `n:${n}`);
  for (const name of names) channels.subscribe(name);
  latest().open();
  await settled();
  for (let connection = 0; connection < 2; connection += 1) {
    const requests = sent();
    assert.deepEqual(requests.map((one) => one.channels.length), [1_000, 1_000, 500]);
    assert.deepEqual(requests.flatMap((one) => one.channels), names);
    requests.forEach(grant);
    await settled();
    assert.equal(channels.subscriptions.size, 2_500);
    latest().end(1006);
    pass(400);
    latest().open();
    await settled();
  }
  channels.close();
}));

test("changes of 4,000 names, one after the other, are told together, and all in the end", inWorld(async () => {
  const names = Array.from({ length: 4_000 }, (_, n) => `n:${n}`), told = { coming: [], refused: [] };
  const channels = new Channels(URL_, { onComing: (now) => told.coming.push(now.length), onRefused: (now) => told.refused.push(Object.keys(now).length), onError() {} });
  let looks = 0;
  Object.defineProperty(channels, "cuts", { get: () => (looks += 1) && Object.getOwnPropertyDescriptor(Subscriber.prototype, "cuts").get.call(channels) });
  const states = [], end = statusOf(channels, ({ state }) => states.push(state));
  channels.subscribe(names, () => {});
  latest().open();
  await settled();
  const brings = Object.fromEntries(names.map((name) => [name, { from: "retained" }]));
  for (const { channels: part, requestId } of sent()) latest().message({ type: "subscribed", channels: part, brings, errors: [], requestId });
  const each = async (of) => {
    looks = 0;
    for (const name of names) {
      latest().message(of(name));
      await null;
    }
    pass(200);
    // A change may cost as much as 64 names: here and in the status, also of a message that changes none.
    assert.ok(looks <= 200, `${looks} looks at all names`);
  };
  await each((channel) => ({ type: "retained", channel, count: 0 }));
  await each((name) => ({ type: "error", error: `Refused by the bus: ${name}` }));
  assert.equal(told.refused.at(-1), 4_000);
  await each((name) => data(name, 1));
  assert.deepEqual([told.coming.at(-1), told.refused.at(-1), states.at(-1)], [0, 0, "open"]);
  let seq = 1;
  await each((name) => ({ ...data(name, 2), seq: (seq += 2) }));
  end();
  channels.close();
}));

test("names are bounded, wherever the loop is: a loop that never gives up is stopped", inWorld(async () => {
  const channels = new Channels(URL_);
  let made = 0;
  assert.throws(() => { for (; made < 20_000; made += 1) channels.subscribe("x", () => {}); }, { name: "RangeError", message: /namesMax \(10000\)/ });
  assert.equal(made, 10_000);
  channels.close();
  await settled();
}));

test("a handler may give up itself and others, and subscribe, while a message is on its way", inWorld(async () => {
  const channels = new Channels(URL_), got = [];
  const first = channels.subscribe("x", (value) => {
    got.push(["first", value]);
    first.unsubscribe();
    second.unsubscribe();
    channels.subscribe("x", (newer) => got.push(["fourth", newer]));
  });
  const second = channels.subscribe("x", (value) => got.push(["second", value]));
  channels.subscribe("x", (value) => got.push(["third", value]));
  latest().open();
  await settled();
  sent().forEach(grant);
  latest().message(data("x", 1));
  latest().message(data("x", 2));
  await settled();
  assert.deepEqual(got, [["first", 1], ["third", 1], ["third", 2], ["fourth", 2]]);
  assert.deepEqual(sent(), []);
  channels.close();
}));

test("for await over a subscription takes its messages only, and ends when it is given up", inWorld(async () => {
  const channels = new Channels(URL_), mine = channels.subscribe("x"), other = channels.subscribe("y");
  const got = taking(mine), others = taking(other);
  latest().open();
  await settled();
  sent().forEach(grant);
  for (const [name, value] of [["x", 1], ["y", 2], ["x", 3]]) latest().message(data(name, value));
  await settled();
  assert.deepEqual([got.items, others.items], [[1, 3], [2]]);
  mine.unsubscribe();
  await settled();
  assert.deepEqual([got.end, others.end], ["done", null]);
  channels.close();
  await settled();
  assert.equal(others.end, "done");
  assert.deepEqual(taking(mine).items, []);
}));

test("for await over a subscription fails with the refusal of its names, of the client, or when it is late", inWorld(async () => {
  const channels = new Channels(URL_, { queueMax: 2 }), refused = taking(channels.subscribe("secret")), late = channels.subscribe("x");
  latest().open();
  await settled();
  latest().message({ type: "subscribed", channels: ["x"], errors: ["Access denied to channel: secret"], requestId: "1", seq: 1 });
  const items = late[Symbol.asyncIterator]();
  for (const value of [1, 2, 3]) latest().message(data("x", value));
  await settled();
  assert.deepEqual(refused.end, ["refused", "Access denied to channel: secret"]);
  assert.deepEqual([(await items.next()).value.data, (await items.next()).value.data], [1, 2]);
  await assert.rejects(items.next(), { code: "late" });
  const cut = taking(late);
  latest().end(1008, "Authentication failed");
  await settled();
  assert.deepEqual(cut.end, ["closed", "1008 Authentication failed"]);
  await assert.rejects(channels.ping(), ({ details }) => details.code === 1008 && details.reason === "Authentication failed");
}));

test("nobody has to wait for an answer: no unhandled rejection, and no timer is left", inWorld(async () => {
  const unhandled = [], note = (error) => unhandled.push(error);
  process.on("unhandledRejection", note);
  try {
    const trades = new Trades(URL_), gone = trades.subscribe("A");
    trades.subscribe("B");
    gone.unsubscribe();
    pass(10_000);
    await settled();
    trades.close();
    await settled();
    assert.equal(world.timers.size, 0);
  } finally {
    process.off("unhandledRejection", note);
  }
  assert.deepEqual(unhandled, []);
}));

test("a listener of refusals that fails stops nothing", inWorld(async () => {
  const channels = new Channels(URL_), got = [], fault = [];
  const { error: log } = console;
  console.error = (error) => fault.push(error.message);
  try {
    channels.options.onError = () => { throw new Error("of the listener"); };
    channels.subscribe("secret");
    latest().open();
    await settled();
    latest().message({ type: "subscribed", channels: [], errors: ["Access denied to channel: secret"], requestId: "1", seq: 1 });
    await settled();
    channels.subscribe("x", (value) => got.push(value));
    await settled();
    sent().filter(({ channels: names }) => names[0] === "x").forEach(grant);
    latest().message(data("x", 1));
    await settled();
    await new Promise((go) => setImmediate(go));
  } finally {
    console.error = log;
  }
  assert.deepEqual([got, fault], [[1], ["of the listener"]]);
  assert.equal(sockets.length, 1);
  channels.close();
}));

/** Runs `run` with the lines of `console.warn`. */
function warning(run) {
  return inWorld(async () => {
    const { warn } = console, lines = [];
    console.warn = (line) => lines.push(line);
    try {
      await run(lines);
    } finally {
      console.warn = warn;
    }
  });
}
const refuse = ({ requestId }, ...errors) => latest().message({ type: "subscribed", channels: [], errors, requestId, seq: 1 });

test("a refused name is one line of the console where nobody hears of it, also after reconnections", warning(async (lines) => {
  const channels = new Channels(URL_);
  channels.subscribe(["a", "b"], () => {});
  for (let connection = 0; connection < 3; connection += 1) {
    latest().open();
    latest().message({ type: "connected", timestamp: "2026-01-01T00:00:00Z", seq: 1 });
    await settled();
    for (const request of sent()) refuse(request, "Max channels", "Access denied to channel: b");
    await settled();
    latest().end(1006);
    pass(20_000);
  }
  assert.deepEqual(lines, ['weirgate: refused {"a":"Max channels","b":"Access denied to channel: b"}']);
  channels.close();
}));

for (const [how, options, use] of [
  ["onError", { onError() {} }, () => {}],
  ["a listener", {}, (channels) => channels.addEventListener("error", () => {})],
  ["an iteration of errors", {}, (channels) => channels.iterate("error")],
  ["then", {}, (_, sub) => sub.then(undefined, () => {})],
  ["catch", {}, (_, sub) => sub.catch(() => {})],
]) {
  test(`who hears of a refused name by ${how} finds nothing in the console`, warning(async (lines) => {
    const channels = new Channels(URL_, options);
    use(channels, channels.subscribe("a", () => {}));
    latest().open();
    await settled();
    sent().forEach((request) => refuse(request, "Access denied to channel: a"));
    await settled();
    assert.deepEqual(lines, []);
    channels.close();
  }));
}

for (const isHeard of [false, true]) {
  const how = isHeard ? "not in the console for who listens to bad" : "one line of the console, also after reconnections";
  test(`trades that match no subscription are ${how}`, warning(async (lines) => {
    const bad = [], onBad = (error, data) => bad.push([error.message, data]);
    const trades = new Trades(URL_, { onError() {}, ...(isHeard && { onBad }) });
    trades.subscribe(["A", "B"], () => {});
    for (let connection = 0; connection < 2; connection += 1) {
      latest().open();
      await settled();
      latest().message({ type: "success", data: { subscribed: ["A", "B"], currentSubscriptions: ["A", "B"] } });
      for (const data of [{ price: 1 }, { symbol: "X" }]) latest().message({ type: "trade", data });
      await settled();
      latest().end(1006);
      pass(20_000);
    }
    const told = (symbol) => `no subscription matches the symbol ${symbol} of a trade`;
    assert.deepEqual(lines, isHeard ? [] : [`weirgate: ${told(undefined)}`]);
    if (isHeard) assert.deepEqual(bad[1], [told("X"), '{"type":"trade","data":{"symbol":"X"}}']);
    assert.equal(bad.length, isHeard ? 4 : 0);
    trades.close();
  }));
}

test("a name that a new token does not grant is in the console, although the program has awaited its grant", warning(async (lines) => {
  const channels = new Channels(URL_), sub = channels.subscribe("a", () => {});
  sub.then(() => {});
  latest().open();
  await settled();
  sent().forEach(grant);
  await settled();
  latest().message({ type: "authenticated", timestamp: "2026-01-01T00:00:00Z", revoked: ["a"], requestId: null, seq: 2 });
  assert.deepEqual(lines, ['weirgate: refused {"a":"not granted by the new token"}']);
  channels.close();
}));

test("a thousand refused names are one short line", warning(async (lines) => {
  const channels = new Channels(URL_);
  for (let n = 0; n < 1_000; n += 1) channels.subscribe(`n${n}`);
  latest().open();
  await settled();
  sent().forEach((request) => refuse(request, "Access denied"));
  assert.deepEqual(lines.map((line) => line.length), [1_018]);
  channels.close();
}));
