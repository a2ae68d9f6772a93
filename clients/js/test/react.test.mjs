// The hook in real React, without a DOM.
import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { test } from "node:test";

import { installed, packages } from "./installed.mjs";

const load = (name) => import(pathToFileURL(join(installed, name)));
const frames = [];
globalThis.requestAnimationFrame = (call) => frames.push(call);
const { useFeed } = await load("react.js");
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
  send() {}
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
