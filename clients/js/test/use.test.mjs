// Use of the clients by programs: iteration, abort signals, late tokens and addresses. In virtual time.
import assert from "node:assert/strict";
import { test } from "node:test";

import { Channels } from "../channels.js";
import { Trades } from "../trades.js";
import { connect, Levels } from "../weirgate.js";
import { inWorld, latest, pass, sockets, world } from "./world.mjs";

const URL_ = "ws://feed.example/ws/stream";
const settled = async () => { for (let n = 0; n < 30; n += 1) await null; };
const trade = (price) => ({ type: "trade", data: { symbol: "A", price }, timestamp: 1 });

/** Takes all items of an iteration; returns the items so far, and the end. */
function taking(items) {
  const got = { items: [], end: null };
  (async () => {
    for await (const item of items) got.items.push(item);
  })().then(() => (got.end = "done"), (error) => (got.end = error.code));
  return got;
}

test("for await takes every trade, and ends with close()", inWorld(async () => {
  const trades = new Trades(URL_);
  const got = taking(trades);
  latest().open();
  for (const price of [1, 2, 3]) latest().message(trade(price));
  await settled();
  assert.deepEqual(got.items.map(({ price }) => price), [1, 2, 3]);
  trades.close();
  await settled();
  assert.equal(got.end, "done");
}));

test("for await takes the newest state only", inWorld(async () => {
  const levels = new Levels(URL_);
  const got = taking(levels);
  latest().open();
  for (const flow of [1, 2, 3]) latest().message({ flow });
  await settled();
  assert.deepEqual(got.items, [{ flow: 3 }]);
  assert.deepEqual(levels.state, { flow: 3 });
  levels.close();
}));

test("an iteration outlives connections, and fails when the server refuses for good", inWorld(async () => {
  const trades = new Trades(URL_);
  const got = taking(trades);
  latest().open();
  latest().message(trade(1));
  latest().end(1001);
  pass(400);
  latest().open();
  latest().message(trade(2));
  latest().end(1008, "Authentication failed");
  await settled();
  assert.deepEqual(got.items.map(({ price }) => price), [1, 2]);
  assert.equal(got.end, "closed");
}));

test("messages wait from the call of iterate(), up to queueMax, then it fails", inWorld(async () => {
  const trades = new Trades(URL_, { queueMax: 3 });
  latest().open();
  const stream = trades.iterate();
  for (const price of [1, 2, 3]) latest().message(trade(price));
  const got = taking(stream);
  await settled();
  assert.deepEqual(got.items.map(({ price }) => price), [1, 2, 3]);
  for (const price of [4, 5, 6, 7]) latest().message(trade(price));
  await settled();
  assert.deepEqual([got.items.length, got.end], [6, "late"]);
  trades.close();
}));

test("leaving the loop takes the listeners away and leaves the connection", inWorld(async () => {
  const channels = new Channels(URL_);
  latest().open();
  const stream = channels.iterate("data");
  latest().message({ type: "data", seq: 1, channel: "a", data: 1 });
  for await (const { channel } of stream) {
    assert.equal(channel, "a");
    break;
  }
  assert.equal(channels.status, "open");
  channels.close();
}));

test("an abort signal closes the connection, also one that was aborted before", inWorld(async () => {
  const stop = new AbortController();
  const levels = new Levels(URL_, { signal: stop.signal });
  latest().open();
  stop.abort();
  assert.equal(levels.status, "closed");
  assert.deepEqual(latest().closedWith, [1000, ""]);
  pass(1_000_000);
  assert.equal(sockets.length, 1);
  const never = new Trades(URL_, { signal: stop.signal });
  assert.equal(sockets.length, 1);
  assert.equal(never.status, "closed");
  await assert.rejects(never.subscribe("A"), { code: "closed" });
  assert.equal(world.timers.size, 0);
}));

test("an address may come later, and a token that no subprotocol can hold goes into the query", inWorld(async () => {
  const asked = [];
  const channels = new Channels(async () => "http://feed.example/ws?a=1", { token: (about) => (asked.push(about), "a/b=") });
  assert.equal(sockets.length, 0);
  await settled();
  assert.equal(latest().url, "ws://feed.example/ws?a=1&token=a%2Fb%3D");
  assert.deepEqual(latest().protocols, []);
  assert.deepEqual(asked, [{ refused: false }]);
  channels.close();
  const others = { token: () => "abc", protocols: "v1" };
  connect(URL_, others).close();
  assert.deepEqual(latest().protocols, ["bearer", "abc", "v1"]);
  connect(URL_, { ...others, tokenIn: "query" }).close();
  assert.equal(latest().url, `${URL_}?token=abc`);
  assert.deepEqual(latest().protocols, ["v1"]);
}));

test("a response that nobody waits for is no unhandled rejection", inWorld(async () => {
  const unhandled = [];
  const note = (error) => unhandled.push(error);
  process.on("unhandledRejection", note);
  try {
    const trades = new Trades(URL_);
    trades.subscribe("A");
    trades.close();
    await settled();
  } finally {
    process.off("unhandledRejection", note);
  }
  assert.deepEqual(unhandled, []);
}));

test("a handshake that fails with an error event alone is over, too: Node's own WebSocket", inWorld(() => {
  const levels = new Levels(URL_);
  latest().onerror({ message: "Received network error or non-101 status code." });
  assert.equal(levels.status, "waiting");
  assert.equal(levels.lastClose.reason, "Received network error or non-101 status code.");
  pass(600);
  assert.equal(sockets.length, 2);
  latest().open();
  latest().onerror({ message: "once open, the close event says more" });
  assert.equal(levels.status, "open");
  latest().end(1011);
  assert.equal(levels.lastClose.code, 1011);
  levels.close();
}));

test("a listener gets what the option gets", inWorld(() => {
  const told = [];
  const trades = new Trades(URL_, { onTrade: (...args) => told.push(args) });
  trades.addEventListener("trade", ({ detail, timestamp }) => told.push([detail, timestamp]));
  latest().open();
  latest().message(trade(5));
  assert.deepEqual(told[0], [{ symbol: "A", price: 5 }, 1]);
  assert.deepEqual(told[0], told[1]);
  trades.close();
}));

test("a quiet feed is asked when the tab is looked at again", inWorld(() => {
  const trades = new Trades(URL_);
  latest().open();
  pass(1_000);
  world.document.dispatchEvent(new Event("visibilitychange"));
  assert.deepEqual(latest().sent.map(JSON.parse), [{ action: "ping" }]);
  latest().message({ type: "pong", timestamp: 1 });
  pass(5_000);
  assert.equal(sockets.length, 1);
  world.document.dispatchEvent(new Event("visibilitychange"));
  pass(3_000);
  assert.equal(sockets.length, 2, "no pong");
  trades.close();
}));
