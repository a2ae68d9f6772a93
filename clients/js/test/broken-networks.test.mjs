// Networks that let a WebSocket open and then break it: the fallback leads to event streams.
import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer } from "node:http";
import { connect as dial, createServer as createTcpServer } from "node:net";
import { after, test } from "node:test";

import { Channels } from "../channels.js";
import { withFallback } from "../event-stream.js";
import { Levels } from "../weirgate.js";
import { freePort, ready, startRedis, startWeirgate, until, WebSocket, WebSocketServer } from "./programs.mjs";

const open = [];
after(() => open.forEach((one) => one()));

/** A network that lets a WebSocket open and then breaks it; event streams pass. `breaks(client, upstream)` is called at the upgrade. */
async function networkThat(breaks, port) {
  const network = { upgrades: 0, streams: 0, isGood: false };
  const server = createTcpServer((client) => {
    client.on("error", () => {});
    const upstream = dial(port, "127.0.0.1");
    upstream.on("error", () => client.destroy()).on("close", () => client.destroy());
    client.on("close", () => upstream.destroy());
    client.once("data", (head) => {
      upstream.write(head);
      if (!/\r\nupgrade: websocket/i.test(head)) network.streams += 1;
      else {
        network.upgrades += 1;
        if (!network.isGood) {
          // The response to the handshake passes.
          upstream.once("data", (data) => {
            const at = data.indexOf("\r\n\r\n") + 4;
            client.write(data.subarray(0, at));
            breaks(client, upstream, data.subarray(at));
          });
          return;
        }
      }
      client.pipe(upstream).pipe(client);
    });
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  open.push(() => server.close());
  return Object.assign(network, { port: server.address().port });
}

const passesAll = (client, upstream, first) => {
  client.write(first);
  client.pipe(upstream).pipe(client);
};
const BREAKS = {
  "passes nothing down": [1, (client, upstream) => client.pipe(upstream) && upstream.resume()],
  "passes nothing at all": [1, (client, upstream) => client.resume() && upstream.resume()],
  "holds bytes back": [1, (client, upstream) => client.pipe(upstream) && upstream.pause()],
  "ends it at once": [1, (client) => client.end()],
  "resets it at once": [1, (client) => client.resetAndDestroy()],
  "resets it at the first message": [2, (client, upstream, first) => {
    client.write(first);
    upstream.pipe(client);
    client.once("data", () => client.resetAndDestroy());
  }],
  "resets it after two seconds": [2, (client, upstream, first) => {
    passesAll(client, upstream, first);
    setTimeout(() => client.resetAndDestroy(), 2_000);
  }],
};

test("on a network that breaks open WebSockets a stream is next, and stays", async (t) => {
  const redis = await startRedis(), port = freePort();
  startWeirgate(["channels", "--event-stream"], { REDIS_URL: redis.url, REDIS_WS_GATEWAY_PORT: `${port}` });
  await ready(port);
  await Promise.all(Object.entries(BREAKS).map(([name, [most, breaks]]) => t.test(name, async () => {
    const network = await networkThat(breaks, port), url = `ws://127.0.0.1:${network.port}/ws`, options = { WebSocket: withFallback(WebSocket) };
    const channels = new Channels(url, options);
    open.push(() => channels.close());
    channels.subscribe("market:tick:a");
    await until(() => channels.status === "open" && network.streams > 0 && channels.subscriptions.size === 1, 20_000, "a stream");
    assert.ok(network.upgrades <= most, `${network.upgrades} WebSockets`);
    const again = new Channels(url, options), { upgrades } = network;
    open.push(() => again.close());
    await again.subscribe("market:tick:a");
    assert.equal(network.upgrades, upgrades, "remembered");
  })));
});

test("after an hour on streams a WebSocket is tried again", async () => {
  const port = freePort(), real = performance.now;
  startWeirgate(["demo", "--port", `${port}`]);
  await ready(port);
  const network = await networkThat((client) => client.end(), port), url = `ws://127.0.0.1:${network.port}/ws/stream`;
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
