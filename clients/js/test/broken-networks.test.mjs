// Networks that treat WebSockets badly: the fallback leads to event streams.
import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer } from "node:http";
import { after, test } from "node:test";

import { networks, networkThat, WAYS } from "../../../tests/node/networks.mjs";
import { Channels } from "../channels.js";
import { withFallback } from "../event-stream.js";
import { Levels } from "../weirgate.js";
import { freePort, ready, startRedis, startWeirgate, until, WebSocket, WebSocketServer } from "./programs.mjs";

const DATA_MS = 20_000;
const open = [];
after(() => open.forEach((one) => one()));

/** A client of each network; `make(url, name)` returns the client, which counts in `seen[name]`. */
async function onEachNetwork(t, port, make) {
  const all = await networks(port), seen = {};
  for (const [name, network] of all) {
    seen[name] = 0;
    const client = make(`ws://127.0.0.1:${network.port}`, () => (seen[name] += 1));
    open.push(() => client.close(), network.close);
  }
  const begin = performance.now();
  await Promise.all([...all].map(([name, network]) => t.test(name, async () => {
    await until(() => seen[name] > 0, DATA_MS, "data");
    await new Promise((go) => setTimeout(go, begin + DATA_MS - performance.now()));
    const before = seen[name], { upgrades } = network;
    await until(() => seen[name] > before + 2, 30_000, "data goes on");
    assert.equal(network.upgrades, upgrades, "neither lost nor tried again");
    // Two, and one more where the client was late on a busy machine.
    assert.ok(upgrades <= 3, `${upgrades} WebSockets`);
  })));
  return all;
}

test("data within 20 s on every network, and for good", { concurrency: true }, (t) => Promise.all([
  t.test("channels", { concurrency: true }, channelsHaveData),
  t.test("levels", { concurrency: true }, levelsHaveData),
]));

async function channelsHaveData(t) {
  const redis = await startRedis(), port = freePort();
  // Pings so short that their loss shows.
  startWeirgate(["channels", "--event-stream", "--ping-interval-ms", "2000", "--pong-timeout-ms", "3000"], { REDIS_URL: redis.url, REDIS_WS_GATEWAY_PORT: `${port}` });
  await ready(port);
  // At the end the server may be gone before its answer.
  const publish = () => redis.publish("market:tick:a", { at: Date.now(), fill: "x".repeat(200) }).catch(() => {});
  const timer = setInterval(publish, 300);
  open.push(() => clearInterval(timer));
  const options = { WebSocket: withFallback(WebSocket) };
  const all = await onEachNetwork(t, port, (url, count) => {
    const channels = new Channels(`${url}/ws`, options);
    channels.subscribe("market:tick:a", count);
    return channels;
  });
  // Another client of the page does not try again.
  const { port: broken, ...before } = all.get("passes nothing down"), again = new Channels(`ws://127.0.0.1:${broken}/ws`, options);
  open.push(() => again.close());
  await again.subscribe("market:tick:a");
  assert.equal(all.get("passes nothing down").upgrades, before.upgrades, "remembered");
}

async function levelsHaveData(t) {
  const port = freePort();
  // The client's first message is the answer to a ping: well before the count, not as it is taken.
  startWeirgate(["demo", "--port", `${port}`, "--rate-hz", "2", "--ping-interval-ms", "2000", "--pong-timeout-ms", "3000"]);
  await ready(port);
  await onEachNetwork(t, port, (url, onState) => new Levels(`${url}/ws/stream`, { WebSocket: withFallback(WebSocket), staleMs: 0, onState }));
}

test("other pieces are no reason for a stream, however late they are", async () => {
  const port = freePort(), timeout = globalThis.setTimeout;
  startWeirgate(["demo", "--port", `${port}`, "--rate-hz", "10"]);
  await ready(port);
  const network = await networkThat(WAYS["cuts into other pieces"], port);
  let seen = 0;
  // How fast this machine brings the pieces says nothing about the network.
  globalThis.setTimeout = (work, ms, ...more) => timeout(work, 20 * ms, ...more);
  try {
    const levels = new Levels(`ws://127.0.0.1:${network.port}/ws/stream`, { WebSocket: withFallback(WebSocket), staleMs: 0, onState: () => (seen += 1) });
    open.push(() => levels.close(), network.close);
    await until(() => seen > 9, DATA_MS, "states");
  } finally {
    globalThis.setTimeout = timeout;
  }
  assert.deepEqual([network.upgrades, network.streams], [1, 0]);
});

test("after an hour on streams a WebSocket is tried again", async () => {
  const port = freePort(), real = performance.now;
  startWeirgate(["demo", "--port", `${port}`]);
  await ready(port);
  const network = await networkThat(WAYS["ends at once"], port), url = `ws://127.0.0.1:${network.port}/ws/stream`;
  open.push(network.close);
  const stateOf = async () => {
    const levels = new Levels(url, { WebSocket: withFallback(WebSocket) });
    await until(() => levels.state, 20_000, "a state");
    levels.close();
    return [network.upgrades, network.streams];
  };
  assert.deepEqual(await stateOf(), [1, 1]);
  network.isGood = true;
  assert.deepEqual(await stateOf(), [1, 2]);
  performance.now = () => real.call(performance) + 3_600_000;
  try {
    assert.deepEqual(await stateOf(), [2, 2]);
    assert.deepEqual(await stateOf(), [3, 2]);
  } finally {
    performance.now = real;
  }
});

test("a quiet server without streams gets its WebSocket back", async () => {
  const asked = [];
  const server = createServer((_, response) => {
    asked.push("stream");
    response.writeHead(404).end();
  });
  new WebSocketServer({ server }).on("connection", () => asked.push("ws"));
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const levels = new Levels(`ws://127.0.0.1:${server.address().port}/ws`, { WebSocket: withFallback(WebSocket) });
  open.push(() => levels.close(), () => server.closeAllConnections(), () => server.close());
  await until(() => asked.length === 3, 15_000, "a WebSocket, a stream, a WebSocket");
  await new Promise((go) => setTimeout(go, 5_000));
  assert.deepEqual(asked, ["ws", "stream", "ws"], "it may be quiet for longer now");
});
