// The hook in real React, without a DOM.
import assert from "node:assert/strict";
import { cpSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { test } from "node:test";

import { installed, packages } from "./installed.mjs";

const load = (name) => import(pathToFileURL(join(installed, name)));
const frames = [];
globalThis.requestAnimationFrame = (call) => frames.push(call);
const { useChannel, useFeed, useRows, useStatus } = await load("react.js");
const { Channels } = await load("channels.js");
const { Levels } = await load("weirgate.js");
const { Trades } = await load("trades.js");
const require = createRequire(packages);
const { createElement, StrictMode } = require("react");
const { act, create } = require("react-test-renderer");
globalThis.IS_REACT_ACT_ENVIRONMENT = true;
const { error } = console;
console.error = (text, ...more) => String(text).includes("react-test-renderer is deprecated") || error(text, ...more);

/** A WebSocket under control of the test. */
class Socket {
  static all = [];
  readyState = 0;
  constructor() { Socket.all.push(this); }
  open() { this.readyState = 1; this.onopen?.({}); }
  message(value) { this.onmessage?.({ data: JSON.stringify(value) }); }
  sent = [];
  send(text) { this.sent.push(JSON.parse(text)); }
  close() { this.readyState = 2; }
}
const frame = () => act(() => { for (const call of frames.splice(0)) call(); });

/** A component that records the results of the hook, and counts renders. */
function shown(useIt) {
  const seen = { renders: 0 };
  const Shown = () => {
    seen.renders += 1;
    seen.feed = useIt();
    return null;
  };
  return [Shown, seen];
}

test("it shows the newest value once a frame, and closes what it made", () => {
  const [Shown, seen] = shown(() => useFeed(() => new Levels("ws://feed.example/", { WebSocket: Socket }), []));
  let root;
  act(() => { root = create(createElement(Shown)); });
  const socket = Socket.all.at(-1);
  assert.equal(seen.feed.status, "connecting");
  socket.open();
  const before = seen.renders;
  for (let flow = 1; flow <= 10; flow += 1) socket.message({ flow });
  assert.equal(seen.renders, before);
  frame();
  assert.equal(seen.renders, before + 1);
  assert.equal(seen.feed.status, "open");
  assert.deepEqual(seen.feed.value, { flow: 10 });
  assert.deepEqual(seen.feed.client.state, { flow: 10 });
  const { client } = seen.feed;
  socket.message({ flow: 11 });
  act(() => root.unmount());
  assert.equal(client.status, "closed");
  assert.equal(socket.readyState, 2);
  frame();
});

test("in strict mode the first client is closed and a second one made", () => {
  const first = Socket.all.length;
  const [Shown, seen] = shown(() => useFeed(() => new Levels("ws://feed.example/", { WebSocket: Socket }), []));
  let root;
  act(() => { root = create(createElement(StrictMode, null, createElement(Shown)), { unstable_strictMode: true }); });
  const mine = Socket.all.slice(first);
  assert.ok(mine.length >= 1);
  assert.deepEqual(mine.map(({ readyState }) => readyState), [...Array(mine.length - 1).fill(2), 0]);
  mine.at(-1).open();
  frame();
  assert.equal(seen.feed.status, "open");
  act(() => root.unmount());
});

test("a component that was hidden and is shown again does not show the value of before as live", async () => {
  // `<Activity>` of React 19.2 ends and repeats the subscriptions of what it hides, which the renderer here cannot: a React of
  // two hooks, whose subscription the test holds.
  const held = mkdtempSync(join(tmpdir(), "weirgate-activity-"));
  cpSync(installed, join(held, "weirgate"), { recursive: true });
  mkdirSync(join(held, "node_modules", "react"), { recursive: true });
  writeFileSync(join(held, "node_modules", "react", "index.js"),
    "exports.useMemo = (make) => make(); exports.useSyncExternalStore = (subscribe, read) => ({ subscribe, read });");
  const hooks = await import(pathToFileURL(join(held, "weirgate", "react.js")));
  rmSync(held, { recursive: true });
  const client = Object.assign(new EventTarget(), { kind: "price", status: "open" });
  const store = hooks.useFeed(client);
  const hide = store.subscribe(() => {});
  client.dispatchEvent(new CustomEvent("price", { detail: { price: 100 } }));
  assert.deepEqual(store.read().value, { price: 100 });
  hide();
  const leave = store.subscribe(() => {});
  assert.deepEqual([store.read().status, store.read().value], ["open", undefined]);
  leave();
});

test("other dependencies make another client, the same ones keep it", () => {
  const made = [];
  const Shown = ({ url }) => {
    useFeed(() => {
      made.push(url);
      return new Levels(url, { WebSocket: Socket });
    }, [url]);
    return null;
  };
  let root;
  act(() => { root = create(createElement(Shown, { url: "ws://a.example/" })); });
  act(() => root.update(createElement(Shown, { url: "ws://a.example/" })));
  act(() => root.update(createElement(Shown, { url: "ws://b.example/" })));
  assert.deepEqual(made, ["ws://a.example/", "ws://b.example/"]);
  act(() => root.unmount());
});

test("a client that others share is watched and left open", () => {
  const trades = new Trades("ws://feed.example/", { WebSocket: Socket });
  const [Shown, seen] = shown(() => useFeed(trades));
  let root;
  act(() => { root = create(createElement(Shown)); });
  Socket.all.at(-1).open();
  Socket.all.at(-1).message({ type: "trade", data: { symbol: "AAPL", price: 1 }, timestamp: 1 });
  frame();
  assert.deepEqual(seen.feed.value, { symbol: "AAPL", price: 1 });
  act(() => root.unmount());
  assert.equal(trades.status, "open");
  trades.close();
});

/** Runs what waits for the end of a tick. */
const tick = () => act(async () => {});
const data = (channel, value, pattern = null) => ({ type: "data", seq: 1, channel, pattern, data: value });
const grant = (socket) => {
  for (const { action, channels, requestId } of socket.sent.splice(0)) {
    if (action === "subscribe") socket.message({ type: "subscribed", channels, errors: [], requestId, seq: 1 });
  }
};

test("three components on one client: each draws its own name, and renders for no other", async () => {
  const channels = new Channels("ws://feed.example/", { WebSocket: Socket }), socket = Socket.all.at(-1);
  const shows = ["a", "b", "c:*"].map((name) => shown(() => useChannel(channels, name)));
  let root;
  await act(async () => { root = create(createElement("p", null, shows.map(([Shown], key) => createElement(Shown, { key })))); });
  socket.open();
  await tick();
  assert.deepEqual(socket.sent.map(({ channels }) => channels), [["a", "b", "c:*"]]);
  grant(socket);
  await tick();
  frame();
  const [a, b, c] = shows.map(([, seen]) => seen), before = [a, b, c].map(({ renders }) => renders);
  for (let n = 0; n < 20; n += 1) {
    socket.message(data("a", n));
    socket.message(data("b", 100 + n));
  }
  socket.message(data("c:1", 5, "c:*"));
  frame();
  assert.deepEqual([a, b, c].map(({ feed }) => [feed.status, feed.value]), [["open", 19], ["open", 119], ["open", 5]]);
  assert.equal(c.feed.message.channel, "c:1");
  socket.message(data("a", 20));
  frame();
  assert.deepEqual([a, b, c].map(({ renders }, at) => renders - before[at]), [2, 1, 1]);
  await act(async () => root.unmount());
  assert.deepEqual(socket.sent.map(({ action, channels }) => [action, channels]), [["unsubscribe", ["a", "b", "c:*"]]]);
  assert.equal(channels.status, "open");
  channels.close();
});

test("components share a name, strict mode asks once, and the name is given up with the last component", async () => {
  const channels = new Channels("ws://feed.example/", { WebSocket: Socket }), socket = Socket.all.at(-1);
  const [One, one] = shown(() => useChannel(channels, "x")), [Two, two] = shown(() => useChannel(channels, "x"));
  const tree = (...shows) => createElement(StrictMode, null, shows.map((Shown, key) => createElement(Shown, { key })));
  socket.open();
  let root;
  await act(async () => { root = create(tree(One, Two), { unstable_strictMode: true }); });
  assert.deepEqual(socket.sent.map(({ action, channels }) => [action, channels]), [["subscribe", ["x"]]]);
  grant(socket);
  await act(async () => root.update(tree(One)));
  assert.deepEqual(socket.sent, []);
  socket.message(data("x", 1));
  frame();
  assert.deepEqual([one.feed.value, two.feed.value], [1, undefined]);
  await act(async () => root.update(tree()));
  assert.deepEqual(socket.sent.map(({ action, channels }) => [action, channels]), [["unsubscribe", ["x"]]]);
  channels.close();
});

test("a component that replaces another one in the same tick gets the last value; the names of a list may change", async () => {
  const channels = new Channels("ws://feed.example/", { WebSocket: Socket }), socket = Socket.all.at(-1);
  const [Old, old] = shown(() => useChannel(channels, "x")), [New, fresh] = shown(() => useChannel(channels, "x"));
  const seen = {};
  const List = ({ names }) => {
    seen.list = useRows(channels, names);
    return null;
  };
  const tree = (Shown, names) => createElement(StrictMode, null, createElement(Shown), createElement(List, { names }));
  const answer = () => {
    for (const { action, channels: names, requestId } of socket.sent.splice(0)) {
      assert.equal(action, "subscribe");
      const brings = Object.fromEntries(names.map((name) => [name, { from: "retained" }]));
      socket.message({ type: "subscribed", channels: names, errors: [], requestId, seq: 1, brings });
      for (const name of names) socket.message({ ...data(name.replace("*", name[0]), 5, name.endsWith("*") ? name : null), retained: true });
      for (const channel of names) socket.message({ type: "retained", seq: 1, channel, count: 1 });
    }
  };
  socket.open();
  let root;
  await act(async () => { root = create(tree(Old, ["a.*"]), { unstable_strictMode: true }); });
  answer();
  await tick();
  frame();
  assert.deepEqual([old.feed.value, [...seen.list.rows.keys()]], [5, ["a"]]);
  await act(async () => root.update(tree(New, ["a.*", "b.*"])));
  assert.equal(fresh.feed.value, undefined);
  answer();
  await tick();
  frame();
  assert.equal(fresh.feed.value, 5);
  assert.deepEqual([...seen.list.rows].map(([id, { value }]) => [id, value]), [["a", 5], ["b", 5]]);
  await act(async () => root.unmount());
  channels.close();
});

test("a component without a client waits; another name begins without the old value; a refusal is shown", async () => {
  const channels = new Channels("ws://feed.example/", { WebSocket: Socket }), socket = Socket.all.at(-1);
  const seen = {};
  const Shown = ({ client, name }) => {
    seen.feed = useChannel(client, name);
    return null;
  };
  let root;
  await act(async () => { root = create(createElement(Shown, { client: null, name: "x" })); });
  assert.deepEqual([seen.feed.status, seen.feed.value], ["connecting", undefined]);
  await act(async () => root.update(createElement(Shown, { client: channels, name: "x" })));
  socket.open();
  await tick();
  grant(socket);
  socket.message(data("x", 1));
  frame();
  assert.deepEqual([seen.feed.status, seen.feed.value, seen.feed.error], ["open", 1, undefined]);
  await act(async () => root.update(createElement(Shown, { client: channels, name: "secret" })));
  assert.equal(seen.feed.value, undefined);
  assert.deepEqual(socket.sent.map(({ action, channels }) => [action, channels]), [["unsubscribe", ["x"]], ["subscribe", ["secret"]]]);
  const { requestId } = socket.sent[1];
  socket.message({ type: "subscribed", channels: [], errors: ["Access denied to channel: secret"], requestId, seq: 1 });
  await tick();
  frame();
  assert.equal(seen.feed.error, "Access denied to channel: secret");
  await act(async () => root.unmount());
  channels.close();
});

test("trades: the newest trade of a symbol, and whether the gateway gets any", async () => {
  const trades = new Trades("ws://feed.example/", { WebSocket: Socket }), socket = Socket.all.at(-1);
  const [Shown, seen] = shown(() => useChannel(trades, "aapl"));
  let root;
  await act(async () => { root = create(createElement(Shown)); });
  socket.open();
  socket.message({ type: "trade", data: { symbol: "MSFT", price: 1 }, timestamp: 1 });
  socket.message({ type: "trade", data: { symbol: "AAPL", price: 2 }, timestamp: 7 });
  frame();
  assert.deepEqual([seen.feed.value, seen.feed.message], [{ symbol: "AAPL", price: 2 }, 7]);
  socket.message({ type: "status", bus: "away", timestamp: 8 });
  frame();
  assert.equal(seen.feed.bus, "away");
  await act(async () => root.unmount());
  trades.close();
});

test("a dead bus, a loss and a resume are shown", async () => {
  const channels = new Channels("ws://feed.example/", { WebSocket: Socket }), socket = Socket.all.at(-1);
  const [Shown, seen] = shown(() => useChannel(channels, "a"));
  let root;
  await act(async () => { root = create(createElement(Shown)); });
  socket.open();
  await tick();
  const [{ requestId, status }] = socket.sent.splice(0);
  assert.equal(status, true);
  socket.message({ type: "subscribed", channels: ["a"], errors: [], requestId, seq: 1, recovered: { a: false }, why: { a: "gap" } });
  frame();
  const now = () => [seen.feed.status, seen.feed.bus, seen.feed.stale, seen.feed.lost, seen.feed.recovered];
  assert.deepEqual(now(), ["open", undefined, false, 0, false]);
  socket.message({ type: "status", seq: 2, bus: "away" });
  socket.message({ type: "pong", seq: 3, requestId: null });
  frame();
  assert.deepEqual(now(), ["stale", "away", true, 0, false]);
  socket.message({ type: "status", seq: 4, bus: "up", lost: true });
  frame();
  assert.deepEqual(now(), ["open", "up", false, 1, false]);
  socket.onclose({ code: 1006, reason: "" });
  frame();
  assert.deepEqual(now().slice(0, 3), ["waiting", "up", true], "an old value over a lost connection");
  act(() => root.unmount());
  channels.close();
});

test("a resume is shown for its own name, whatever the gateway answers for others", async () => {
  const channels = new Channels("ws://feed.example/", { WebSocket: Socket }), socket = Socket.all.at(-1);
  const shows = ["a", "b", "constructor"].map((name) => shown(() => useChannel(channels, name))), now = () => shows.map(([, seen]) => seen.feed.recovered);
  let root;
  await act(async () => { root = create(createElement("p", null, shows.map(([Shown], key) => createElement(Shown, { key })))); });
  socket.open();
  const answer = (names, more) => {
    socket.message({ type: "subscribed", channels: names, errors: [], requestId: null, seq: 1, ...more });
    frame();
  };
  answer(["a"], { recovered: { a: false } });
  assert.deepEqual(now(), [false, undefined, undefined]);
  answer(["b"], { recovered: { b: true } });
  assert.deepEqual(now(), [false, true, undefined]);
  answer(["a", "b", "constructor"], {});
  assert.deepEqual(now(), [false, true, undefined], "names that are asked for again are no resume");
  answer(["a"], { recovered: { a: true } });
  assert.deepEqual(now(), [true, true, undefined]);
  act(() => root.unmount());
  channels.close();

  const trades = new Trades("ws://feed.example/", { WebSocket: Socket }), other = Socket.all.at(-1), symbols = ["a", "F"];
  shows.splice(0, 3, ...symbols.map((name) => shown(() => useChannel(trades, name))));
  await act(async () => { root = create(createElement("p", null, shows.map(([Shown], key) => createElement(Shown, { key })))); });
  other.open();
  for (const [subscribed, recovered] of [[["A", "B"], false], [["F"], true]]) other.message({ type: "success", message: "m", data: { subscribed, currentSubscriptions: [], recovered }, timestamp: 1 });
  frame();
  assert.deepEqual(now(), [false, true]);
  act(() => root.unmount());
  trades.close();
});

test("rows of several names and the status, once a frame; the names may be written anew at each render", () => {
  const channels = new Channels("ws://feed.example/", { WebSocket: Socket });
  const [Shown, seen] = shown(() => ({ ...useRows(channels, ["a.*", "b.*"]), status: useStatus(channels) }));
  const [Nothing, none] = shown(() => ({ ...useRows(null, "a"), status: useStatus(null) }));
  let root;
  act(() => { root = create([createElement(Shown, { key: 1 }), createElement(Nothing, { key: 2 })]); });
  const socket = Socket.all.at(-1);
  assert.deepEqual([seen.feed.status.state, none.feed.rows.size, none.feed.status.cause], ["connecting", 0, "Connecting."]);
  socket.open();
  socket.message({ type: "connected", seq: 1 });
  return Promise.resolve().then(() => {
    const asked = socket.sent.filter(({ action }) => action === "subscribe");
    assert.deepEqual(asked.map((one) => one.channels), [["a.*", "b.*"]]);
    socket.message({ type: "subscribed", seq: 2, channels: ["a.*"], errors: ["no b"], requestId: asked[0].requestId });
    frame();
    const before = seen.renders;
    for (let n = 3; n < 203; n += 1) socket.message({ type: "data", seq: n, channel: `a.${n % 100}`, pattern: "a.*", data: n });
    assert.equal(seen.renders, before);
    frame();
    assert.equal(seen.renders, before + 1);
    assert.equal(seen.feed.rows.size, 100);
    assert.equal(seen.feed.rows.get("2").value, 202);
    assert.deepEqual(seen.feed.refused, { "b.*": "no b" });
    assert.deepEqual([seen.feed.status.state, seen.feed.status.cause], ["refused", "The server refuses b.* (no b)."]);
    act(() => root.unmount());
    channels.close();
  });
});
