// A long task blocks the event loop: neither the connection is given up, nor do WebSockets count as broken.
import assert from "node:assert/strict";
import { once } from "node:events";
import { after, test } from "node:test";

import { Channels } from "../channels.js";
import { withFallback } from "../event-stream.js";
import { Levels } from "../weirgate.js";
import { freePort, ready, startRedis, startWeirgate, until, WebSocket, WebSocketServer } from "./programs.mjs";

/** Longer than each wait for a WebSocket. */
const TASK_MS = 6_000;
const open = [];
after(() => open.forEach((one) => one()));

function block(ms = TASK_MS) {
  const end = performance.now() + ms;
  while (performance.now() < end);
}

async function startDemo(...flags) {
  const port = freePort();
  startWeirgate(["demo", "--port", `${port}`, "--rate-hz", "10", ...flags]);
  await ready(port);
  return port;
}

/** The clients of a gateway: WebSockets and streams, and streams. */
async function clientsOf(port) {
  const metrics = await (await fetch(`http://127.0.0.1:${port}/metrics`)).text();
  return ["clients", "event_stream_clients"].map((name) => +new RegExp(`^weirgate_${name} (\\d+)$`, "m").exec(metrics)[1]);
}

function levelsOf(url, options) {
  const levels = new Levels(url, { WebSocket: withFallback(WebSocket), ...options });
  open.push(() => levels.close());
  return levels;
}

test("while a WebSocket opens", async () => {
  const port = await startDemo(), levels = levelsOf(`ws://127.0.0.1:${port}/ws/stream`);
  block();
  await until(() => levels.state, 10_000, "a state");
  assert.deepEqual([levels.reconnects, levels.lastClose, await clientsOf(port)], [0, null, [1, 0]]);
});

test("several times while a WebSocket opens", async () => {
  const port = await startDemo(), levels = levelsOf(`ws://127.0.0.1:${port}/ws/stream`);
  // The connection needs several turns of the loop.
  for (let n = 0; n < 2; n += 1) {
    block(4_500);
    await new Promise((go) => setTimeout(go));
  }
  await until(() => levels.state, 10_000, "a state");
  assert.deepEqual([levels.lastClose, await clientsOf(port)], [null, [1, 0]]);
});

test("before the first message", async () => {
  const server = new WebSocketServer({ port: 0, host: "127.0.0.1" });
  server.on("connection", (socket) => setTimeout(() => socket.send("{}"), 300));
  await once(server, "listening");
  open.push(() => server.close());
  const levels = levelsOf(`ws://127.0.0.1:${server.address().port}/ws`, { onOpen: () => block() });
  await until(() => levels.state, 10_000, "a state");
  assert.equal(levels.lastClose, null);
});

test("while messages come", async () => {
  const port = await startDemo(), levels = levelsOf(`ws://127.0.0.1:${port}/ws/stream`);
  await until(() => levels.state, 10_000, "a state");
  // Behind the next timers, as a task of a page.
  setTimeout(() => block(9_000), 500);
  await new Promise((go) => setTimeout(go, 11_000));
  await until(() => levels.status === "open", 5_000, "a fresh state");
  assert.deepEqual([levels.lastClose, await clientsOf(port)], [null, [1, 0]]);
});

test("before the answer to a ping", async () => {
  const redis = await startRedis(), port = freePort();
  startWeirgate(["channels", "--event-stream", "--port", `${port}`, "--redis-url", redis.url]);
  await ready(port);
  let pings = 0;
  class Busy extends WebSocket {
    send(text) {
      super.send(text);
      if (JSON.parse(text).action !== "ping") return;
      pings += 1;
      if (pings === 1) block();
    }
  }
  const channels = new Channels(`ws://127.0.0.1:${port}/ws`, { WebSocket: withFallback(Busy), silenceMs: 500 });
  open.push(() => channels.close());
  await until(() => pings > 1, 20_000, "another ping");
  assert.deepEqual([channels.lastClose, await clientsOf(port)], [null, [1, 0]]);
});

test("so long that the gateway gives up: twice, and the next is a WebSocket again", async () => {
  const port = await startDemo("--ping-interval-ms", "1000", "--pong-timeout-ms", "2000"), levels = levelsOf(`ws://127.0.0.1:${port}/ws/stream`);
  for (let n = 0; n < 2; n += 1) {
    await until(() => levels.reconnects === n && levels.status === "open", 10_000, "a connection");
    block();
  }
  await until(() => levels.reconnects === 2 && levels.status === "open", 10_000, "the next connection");
  assert.deepEqual(await clientsOf(port), [1, 0]);
});
