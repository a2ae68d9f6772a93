// Event streams in place of WebSockets: the messages of each request, and the fallback behind a proxy that refuses upgrades.
import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer } from "node:http";
import { connect as dial, createServer as createTcpServer } from "node:net";
import { after, test } from "node:test";

import { Channels } from "../channels.js";
import { Devices } from "../events.js";
import { EventStream, withFallback } from "../event-stream.js";
import { statusOf } from "../status.js";
import { Trades } from "../trades.js";
import { Levels } from "../weirgate.js";
import { freePort, jwt, ready, SECRET, startRedis, startWeirgate, until, WebSocket, WebSocketServer } from "./programs.mjs";

const open = [];
after(() => open.forEach((one) => one()));

/** A server of streams; records the path, messages, headers and response of each request. */
async function streams(answer = (response) => response.writeHead(200, { "Content-Type": "text/event-stream" }).write(":\n\n")) {
  const asked = [];
  const server = createServer((request, response) => {
    const url = new URL(request.url, "http://a");
    asked.push({ sent: url.searchParams.getAll("send"), url, headers: request.headers, response });
    answer(response);
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  open.push(() => server.closeAllConnections(), () => server.close());
  return { asked, url: `ws://127.0.0.1:${server.address().port}/ws?a=1` };
}

/** A proxy that refuses upgrades with 403 and passes everything else on; counts the refusals. */
async function proxyWithoutUpgrades(port) {
  const counts = { refused: 0 };
  const server = createTcpServer((client) => {
    client.on("error", () => {});
    client.once("data", (head) => {
      if (/\r\nupgrade: websocket/i.test(head)) {
        counts.refused += 1;
        client.end("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        return;
      }
      const upstream = dial(port, "127.0.0.1");
      upstream.on("error", () => client.destroy()).on("close", () => client.destroy());
      client.on("close", () => upstream.destroy());
      upstream.write(head);
      client.pipe(upstream).pipe(client);
    });
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  open.push(() => server.close());
  return Object.assign(counts, { port: server.address().port });
}

function streamOf(url, protocols) {
  const stream = new EventStream(url, protocols), got = [], closes = [];
  stream.onmessage = ({ data }) => got.push(data);
  stream.onclose = ({ code, reason }) => closes.push([code, reason]);
  open.push(() => stream.close());
  return { stream, got, closes };
}

const subscribe = (...channels) => ({ action: "subscribe", channels });
const unsubscribe = (...channels) => ({ action: "unsubscribe", channels });

test("events become messages, of any cut, and the close event closes", async () => {
  const { asked, url } = await streams();
  const { stream, got, closes } = streamOf(url, ["bearer", "secret"]);
  await until(() => stream.readyState === 1, 5_000, "open");
  const [{ headers, response, url: target }] = asked;
  assert.equal(target.href, "http://a/ws?a=1");
  assert.equal(headers.accept, "text/event-stream");
  assert.equal(headers.authorization, "Bearer secret");
  for (const byte of Buffer.from('retry: 5\n\ndata: {"é":1}\n\n:\n\ndata: a\ndata: b\n\ndata:\n\n')) {
    response.write(Buffer.of(byte));
    await new Promise((go) => setImmediate(go));
  }
  response.write("data: AAr/\nevent: binary\n\n");
  await until(() => got.length === 4, 5_000, "four messages");
  assert.deepEqual(got.slice(0, 3), ['{"é":1}', "a\nb", ""]);
  assert.deepEqual([...new Uint8Array(got[3])], [0, 10, 255]);
  response.write('event: close\ndata: {"code":1012,"reason":"bye"}\n\ndata: late\n\n');
  await until(() => stream.readyState === 3, 5_000, "closed");
  assert.deepEqual([closes, got.length], [[[1012, "bye"]], 4]);
});

test("a lost stream, and an answer that is no stream, close with 1006; too much to send with 1009", async () => {
  const { asked, url } = await streams();
  const lost = streamOf(url);
  await until(() => lost.stream.readyState === 1, 5_000, "open");
  asked[0].response.destroy();
  await until(() => lost.closes.length, 5_000, "the loss");
  assert.equal(lost.closes[0][0], 1006);

  const page = await streams((response) => response.writeHead(200, { "Content-Type": "text/html" }).end("<p>"));
  const wrong = streamOf(page.url);
  await until(() => wrong.closes.length, 5_000, "no stream");
  assert.deepEqual(wrong.closes, [[1006, "HTTP status 200"]]);

  let status = 200;
  const strict = await streams((response) => response.writeHead(status, { "Content-Type": "text/event-stream" }).write(":\n\n"));
  const much = streamOf(strict.url);
  await until(() => much.stream.readyState === 1, 5_000, "open");
  status = 414;
  much.stream.send("x".repeat(100));
  await until(() => much.closes.length, 5_000, "the refusal");
  assert.equal(much.closes[0][0], 1009);
});

test("a stream with a length is a refusal: not open, and back no sooner than it says", async () => {
  const body = "retry: 1234\n\n", headers = { "Content-Type": "text/event-stream", "Content-Length": body.length };
  let isFull = true;
  const { asked, url } = await streams((response) => {
    if (isFull) response.writeHead(200, headers).end(body);
    else response.writeHead(200, { "Content-Type": "text/event-stream" }).write("retry: 1234\n\n");
  });
  const { stream, closes } = streamOf(url);
  let isOpen = false;
  stream.onopen = () => { isOpen = true; };
  await until(() => closes.length, 5_000, "the refusal");
  assert.deepEqual([isOpen, closes], [false, [[1006, "retry_after_ms=1234"]]]);

  const feed = new Levels(url, { WebSocket: EventStream });
  open.push(() => feed.close());
  await until(() => feed.lastClose, 5_000, "the refusal");
  assert.deepEqual([feed.lastClose.opened, feed.lastClose.retryAfterMs], [false, 1_234]);
  const refusedAt = performance.now();
  isFull = false;
  await until(() => feed.status === "open", 10_000, "the next attempt");
  assert.ok(performance.now() - refusedAt > 1_000, "it waits");
  assert.equal(asked.length, 3);
});

test("messages of a tick go together, subscriptions again with each later one, others once", async () => {
  const { asked, url } = await streams();
  const { stream } = streamOf(url);
  assert.throws(() => stream.send("early"), { name: "InvalidStateError" });
  await until(() => stream.readyState === 1, 5_000, "open");
  const send = async (...messages) => {
    const { length } = asked;
    for (const message of messages) stream.send(JSON.stringify(message));
    await until(() => asked.length > length, 5_000, "another stream");
    assert.equal(asked.length, length + 1);
    const { sent, url: { pathname, searchParams } } = asked[length];
    assert.deepEqual([pathname, searchParams.get("a")], ["/ws", "1"]);
    return sent.map((text) => JSON.parse(text));
  };
  const once = { event: "lobby.create", data: {} };
  assert.deepEqual(await send(subscribe("a", "b"), once), [subscribe("a", "b"), once]);
  // The response to the new subscription comes first.
  assert.deepEqual(await send(subscribe("c")), [subscribe("c"), subscribe("a", "b")]);
  assert.deepEqual(await send(unsubscribe("a")), [subscribe("a", "b"), subscribe("c"), unsubscribe("a")]);
  assert.deepEqual(await send(unsubscribe("c")), [subscribe("b"), subscribe("c"), unsubscribe("c")]);
  const candles = { action: "subscribe_candles", symbols: ["A"], interval: "1m" };
  assert.deepEqual(await send(candles), [candles, subscribe("b")]);
  assert.deepEqual(await send({ action: "unsubscribe", symbols: ["A"] }), [subscribe("b"), candles, { action: "unsubscribe", symbols: ["A"] }]);
  assert.deepEqual(await send(once), [subscribe("b"), candles, once]);
});

/** Another stream for these messages: the messages of the query, and the header with the position. */
async function reopened({ asked, stream }, ...messages) {
  const { length } = asked;
  for (const message of messages) stream.send(JSON.stringify(message));
  await until(() => asked.length > length, 5_000, "another stream");
  const { sent, headers, url } = asked.at(-1);
  return [sent.map((text) => JSON.parse(text)), headers["last-event-id"], url.searchParams.get("since")];
}

test("a stream goes on from the newest position, and old positions are not sent again", async () => {
  const { asked, url } = await streams();
  const { stream, got } = streamOf(url), here = { asked, stream };
  const write = async (...events) => {
    const { length } = got;
    for (const [message, id] of events) asked.at(-1).response.write(`${message ? `data: ${JSON.stringify(message)}\n` : ""}${id ? `id: ${id}\n` : ""}\n`);
    await until(() => got.length === length + events.filter(([message]) => message).length, 5_000, "the messages");
    return got.slice(length).map((text) => JSON.parse(text).pos);
  };
  const answer = { type: "subscribed", recovered: {} }, push = (pos) => [{ type: "data", pos }, pos];
  await until(() => stream.readyState === 1, 5_000, "open");
  assert.equal(asked[0].headers["last-event-id"], undefined);
  assert.deepEqual(await reopened(here, { ...subscribe("a"), since: "s1" }), [[{ ...subscribe("a"), since: "s1" }], "s1", null]);
  // What came before the response may be newer than what was missed.
  assert.deepEqual(await write([{ type: "connected" }], push("p9")), [undefined, "s1"]);
  assert.deepEqual(await reopened(here, subscribe("b")), [[subscribe("b"), subscribe("a")], "s1", null]);
  assert.deepEqual(await write([answer], push("p3")), [undefined, "s1"], "a is not answered");
  assert.deepEqual(await reopened(here, subscribe("c")), [[subscribe("c"), subscribe("a"), subscribe("b")], "s1", null]);
  assert.deepEqual(await write([answer], [answer], [{ ...answer, pos: "p4" }, "p4"], push("p5")), [undefined, undefined, "p4", "p5"]);
  assert.deepEqual(await reopened(here, unsubscribe("b", "c")), [[subscribe("a"), subscribe("b"), subscribe("c"), unsubscribe("b", "c")], "p5", null]);
  assert.deepEqual(await write([answer], [answer], push("p6"), [answer], push("p7"), [undefined, "p8"], [{ type: "pong" }]), [undefined, undefined, "p5", undefined, "p7", undefined]);
  assert.equal((await reopened(here, subscribe("d")))[1], "p8", "an id alone counts");
});

test("a binary message is its lines and the bytes of its base64; the position in the head waits for the answers too", async () => {
  const { asked, url } = await streams();
  const { stream, got } = streamOf(`${url}&payload=binary`), here = { asked, stream };
  const write = async (head, bytes, id) => {
    const { length } = got;
    asked.at(-1).response.write(`event: binary\ndata: ${JSON.stringify(head)}\ndata: ${Buffer.from(bytes).toString("base64")}\nid: ${id}\n\n`);
    await until(() => got.length > length, 5_000, "the message");
    assert.ok(got[length] instanceof ArrayBuffer);
    return Buffer.from(got[length]).toString("latin1");
  };
  await until(() => stream.readyState === 1, 5_000, "open");
  assert.equal(asked[0].url.searchParams.get("payload"), "binary");
  await reopened(here, { ...subscribe("é"), since: "s1" });
  const head = (pos) => ({ type: "data", channel: "a", pos }), shown = (pos, bytes) => `${JSON.stringify(head(pos))}\n${bytes}`;
  const tricky = '\n,"pos":"p0"}';
  assert.equal(await write(head("p1"), tricky, "p1"), shown("s1", tricky), "not answered yet");
  assert.equal(await write(head("p2"), "", "p2"), shown("s1", ""));
  asked.at(-1).response.write('data: {"type":"subscribed"}\n\n');
  await until(() => got.length === 3, 5_000, "the answer");
  assert.equal(await write(head("p3"), [0, 255, 10, 128], "p3"), shown("p3", "\0\xff\n\x80"));
  assert.equal((await reopened(here, subscribe("b")))[1], "p3");
});

test("a device: the position in the address goes with the first id, and only an identify has a position", async () => {
  const { asked, url } = await streams();
  const { stream } = streamOf(`${url}&since=s1`), here = { asked, stream };
  await until(() => stream.readyState === 1, 5_000, "open");
  const lobby = { event: "lobby.create", data: { since: 2020 } }, identify = { event: "identify", data: { device_id: "d1" } };
  assert.deepEqual(await reopened(here, lobby), [[lobby], undefined, "s1"]);
  const first = { ...identify, data: { device_id: "d1", since: "s2" } };
  assert.deepEqual(await reopened(here, first), [[first], "s2", null]);
  assert.deepEqual(await reopened(here, lobby), [[identify, lobby], "s2", null]);
});

test("a ping, and an identify of a known device, are answered without a request, as the gateway would", async () => {
  const { asked, url } = await streams();
  const { stream, got } = streamOf(`${url}&device_id=d1`);
  await until(() => stream.readyState === 1, 5_000, "open");
  stream.send(JSON.stringify({ action: "ping", requestId: "7" }));
  stream.send(JSON.stringify({ event: "identify", request_id: "8", data: { device_id: "d1" } }));
  stream.send(JSON.stringify({ event: "identify", request_id: "9", data: {} }));
  await until(() => got.length === 3, 5_000, "three answers");
  const [pong, ...known] = got.map((text) => JSON.parse(text));
  assert.deepEqual([pong.type, pong.requestId], ["pong", "7"]);
  assert.deepEqual(known.map(({ type, event, request_id, error }) => [type, event, request_id, error.code]), ["8", "9"].map((id) => ["error", "identify", id, "unknown_event"]));
  assert.equal(asked.length, 1);
});

test("a new token is not sent: queries are in logs", async () => {
  const { asked, url } = await streams();
  const { stream, got } = streamOf(url, ["bearer", "old"]);
  await until(() => stream.readyState === 1, 5_000, "open");
  stream.send(JSON.stringify({ action: "authenticate", token: "new", requestId: "7" }));
  await until(() => got.length, 5_000, "an answer");
  assert.deepEqual(got.map((text) => JSON.parse(text)), [{ type: "error", error: "Unknown action: authenticate", requestId: "7" }]);
  assert.equal(asked.length, 1);
});

test("a token that ends on a stream is replaced with the next connection, and nothing has failed", async () => {
  const port = freePort(), redis = await startRedis();
  startWeirgate(["channels", "--event-stream", "--port", `${port}`, "--redis-url", redis.url], { JWT_SECRET: SECRET, REQUIRE_AUTH: "1" });
  await ready(port);
  const proxy = await proxyWithoutUpgrades(port), errors = [], states = new Set(), asked = [];
  const channels = new Channels(`ws://127.0.0.1:${proxy.port}/ws`, {
    WebSocket: withFallback(WebSocket),
    // A WebSocket would have a new token after a second.
    token: ({ refused }) => asked.push(refused) && jwt({ sub: "ann", exp: Math.ceil(Date.now() / 1_000) + 5 }),
    onError: (error) => errors.push(error),
  });
  open.push(() => channels.close(), statusOf(channels, ({ state }) => states.add(state)));
  await until(() => channels.lastClose?.reason === "Authentication failed", 20_000, "the end of the token");
  await until(() => channels.status === "open", 10_000, "the next stream");
  assert.deepEqual([errors, states.has("failed"), asked.at(-1)], [[], false, true]);
});

test("all kept messages are refused for now: the stream has one position for all names", async () => {
  const { asked, url } = await streams();
  const { stream, got } = streamOf(url);
  await until(() => stream.readyState === 1, 5_000, "open");
  stream.send(JSON.stringify({ action: "subscribe", channels: ["a"], last: "all", requestId: "7" }));
  await until(() => got.length, 5_000, "an answer");
  const error = "Cannot subscribe to all kept messages on an event stream";
  assert.deepEqual(got.map((text) => JSON.parse(text)), [{ type: "error", error, requestId: "7" }]);
  assert.equal(asked.length, 1);
});

test("levels: behind a proxy that refuses upgrades states come all the same, also after a restart", async () => {
  const port = freePort();
  const startDemo = () => startWeirgate(["demo", "--port", `${port}`, "--rate-hz", "10"]);
  let server = startDemo();
  await ready(port);
  const proxy = await proxyWithoutUpgrades(port), spots = new Set();
  const feed = new Levels(`ws://127.0.0.1:${proxy.port}/ws/stream`, {
    WebSocket: withFallback(WebSocket),
    onState: ({ levels }) => { if (levels) spots.add(levels.es.spot); },
  });
  open.push(() => feed.close());
  await until(() => spots.size > 2, 20_000, "three prices");
  assert.deepEqual([feed.status, proxy.refused], ["open", 1]);
  server.kill("SIGTERM");
  await until(() => feed.lastClose?.code === 1012, 5_000, "the stop's close code");
  await until(() => server.exitCode !== null, 5_000, "its end");
  server = startDemo();
  spots.clear();
  await until(() => feed.status === "open" && spots.size > 1, 10_000, "fresh prices");
  const direct = new Levels(`ws://127.0.0.1:${port}/ws/stream`, { WebSocket: withFallback(WebSocket) });
  open.push(() => direct.close());
  await until(() => direct.status === "open", 5_000, "a WebSocket where nobody refuses one");
  const metrics = await (await fetch(`http://127.0.0.1:${port}/metrics`)).text();
  assert.match(metrics, /^weirgate_clients 2$/m);
  assert.match(metrics, /^weirgate_event_stream_clients 1$/m);
});

/** A server of both shapes; records each request as `ws` or `stream`. Can be away (503), or refuse upgrades like a proxy. */
async function serverOfBoth() {
  const server = createServer((_, response) => {
    served.asked.push("stream");
    if (served.isAway) response.writeHead(503).end();
    else response.writeHead(200, { "Content-Type": "text/event-stream" }).write(":\n\n");
  });
  const sockets = new WebSocketServer({ noServer: true });
  server.on("upgrade", (request, socket, head) => {
    served.asked.push("ws");
    if (served.isAway || served.refusesUpgrades) socket.end("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    else sockets.handleUpgrade(request, socket, head, () => {});
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  open.push(() => server.closeAllConnections(), () => server.close());
  const served = { asked: [], isAway: false, refusesUpgrades: false, url: `ws://127.0.0.1:${server.address().port}/ws` };
  return served;
}

test("each attempt of a fallback is one request, of a stream where WebSockets do not get through", async () => {
  const served = await serverOfBoth(), Fallback = withFallback(WebSocket);
  /** The requests of `number` attempts, with a `!` for each open connection. */
  const attempts = async (number) => {
    for (let n = 0; n < number; n += 1) {
      const socket = new Fallback(served.url);
      const isOpen = await new Promise((done) => {
        socket.onopen = () => done(true);
        socket.onclose = () => done(false);
      });
      if (isOpen) served.asked.push(`${served.asked.pop()}!`);
      socket.close();
    }
    return served.asked.splice(0).join(" ");
  };
  served.isAway = true;
  assert.equal(await attempts(4), "ws stream ws stream", "nobody knows what gets through");
  served.isAway = false;
  assert.equal(await attempts(2), "ws! ws!");
  served.isAway = true;
  assert.equal(await attempts(5), "ws ws ws stream ws", "WebSockets have stood");
  served.isAway = false;
  assert.equal(await attempts(1), "ws!");
  served.refusesUpgrades = true;
  assert.equal(await attempts(4), "ws ws ws stream!", "into another network");
  assert.equal(await attempts(4), "ws stream! stream! stream!", "WebSockets are tried once more");
  served.isAway = true;
  assert.equal(await attempts(3), "stream ws stream");
  served.isAway = served.refusesUpgrades = false;
  assert.equal(await attempts(2), "ws! ws!");
});

test("channels and trades: subscribed, acknowledged, unsubscribed", async () => {
  const redis = await startRedis(), ports = [freePort(), freePort()];
  startWeirgate(["channels", "--event-stream"], { REDIS_URL: redis.url, REDIS_WS_GATEWAY_PORT: `${ports[0]}` });
  startWeirgate(["trades", "--event-stream"], { REDIS_URL: redis.url, WS_PORT: `${ports[1]}` });
  await Promise.all(ports.map(ready));
  const got = [], options = { WebSocket: EventStream };
  const channels = new Channels(`ws://127.0.0.1:${ports[0]}/ws`, { ...options, onData: ({ channel }) => got.push(channel) });
  const trades = new Trades(`ws://127.0.0.1:${ports[1]}`, { ...options, onTrade: ({ symbol }) => got.push(symbol) });
  open.push(() => channels.close(), () => trades.close());
  const tick = channels.subscribe("market:tick:a"), apple = trades.subscribe("AAPL");
  assert.deepEqual([(await tick).granted, (await apple).granted], [["market:tick:a"], ["AAPL"]]);
  assert.deepEqual((await channels.subscribe("market:tick:b")).granted, ["market:tick:b"]);
  assert.deepEqual((await trades.subscribe("MSFT")).granted, ["MSFT"]);
  for (const name of ["market:tick:a", "market:tick:b"]) await redis.publish(name, { n: 1 });
  for (const name of ["AAPL", "MSFT"]) await redis.publish(`channel:trade:${name}`, { symbol: name, price: 1 });
  await until(() => got.length === 4, 5_000, "a message of each");
  assert.deepEqual(got.sort(), ["AAPL", "MSFT", "market:tick:a", "market:tick:b"]);
  tick.unsubscribe();
  apple.unsubscribe();
  got.length = 0;
  await until(async () => {
    for (const name of ["market:tick:a", "market:tick:b"]) await redis.publish(name, { n: 2 });
    for (const name of ["AAPL", "MSFT"]) await redis.publish(`channel:trade:${name}`, { symbol: name, price: 2 });
    const newest = got.slice(-8);
    return newest.length === 8 && newest.every((name) => ["market:tick:b", "MSFT"].includes(name));
  }, 10_000, "only what is wanted");
  assert.deepEqual([...channels.subscriptions, ...trades.subscriptions], ["market:tick:b", "MSFT"]);
});

/** A link to the gateway that can be cut, and that can hold back what the client sends. */
async function linkTo(port) {
  const link = { waitMs: 0 }, sockets = new Set();
  const server = createTcpServer((client) => {
    const upstream = dial(port, "127.0.0.1");
    sockets.add(client);
    client.on("error", () => {}).on("close", () => upstream.destroy() && sockets.delete(client));
    upstream.on("error", () => {}).on("close", () => client.destroy());
    client.on("data", (data) => setTimeout(() => upstream.write(data), link.waitMs));
    upstream.pipe(client);
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  open.push(() => server.close(), () => link.cut());
  return Object.assign(link, { port: server.address().port, cut: () => sockets.forEach((socket) => socket.destroy()) });
}

/** A payload that is no text, and its number. */
const bytesOf = (n) => Buffer.of(n, 10, 0, 255), numberOf = (bytes) => (Buffer.compare(bytes, bytesOf(bytes[0])) === 0 ? bytes[0] : bytes);

for (const payload of [undefined, "binary"]) {
  test(`channels with a history, ${payload ?? "JSON"}: nothing twice and nothing lost while a stream is cut, or opened anew for another name`, async () => {
    const redis = await startRedis(), port = freePort();
    const flags = ["--event-stream", "--history-ms", "60000", "--history-names", "market:*"];
    startWeirgate(["channels", ...flags], { REDIS_URL: redis.url, REDIS_WS_GATEWAY_PORT: `${port}` });
    await ready(port);
    const link = await linkTo(port), got = [], gaps = [];
    const channels = new Channels(`ws://127.0.0.1:${link.port}/ws`, {
      WebSocket: EventStream, backoffMinMs: 50, backoffMaxMs: 100, payload, onData: ({ data }) => got.push(payload ? numberOf(data) : data), onGap: (gap) => gaps.push(gap),
    });
    open.push(() => channels.close());
    let published = 0;
    const publish = async (count) => {
      for (; count > 0; count -= 1) {
        published += 1;
        await redis.publish("market:tick:a", payload ? bytesOf(published) : published);
      }
    };
    const all = (what) => until(() => got.length >= published, 10_000, what);
    await channels.subscribe("market:tick:a");
    await publish(5);
    await all("live");
    link.waitMs = 300;
    link.cut();
    await publish(2);
    await all("what was missed after a cut");
    await publish(3);
    await all("live again");
    // The stream is opened anew, with the position of now and not that of the first resume.
    for (const name of ["market:tick:b", "market:tick:c"]) {
      link.waitMs = name.endsWith("c") ? 1_000 : 0;
      const more = channels.subscribe(name);
      await publish(2);
      await more;
      await publish(1);
      await all(`while the stream was opened for ${name}`);
    }
    await new Promise((go) => setTimeout(go, 300));
    assert.deepEqual(got, Array.from({ length: published }, (_, n) => n + 1));
    assert.deepEqual(gaps, []);
  });
}

test("events: a device identifies and has its answers", async () => {
  const lobby = createServer((request, response) => {
    let body = "";
    request.on("data", (part) => (body += part)).on("end", () => {
      const { client } = JSON.parse(body);
      response.writeHead(200, { "Content-Type": "application/json" }).end(JSON.stringify({ result: { device: client.device_id } }));
    });
  }).listen(0, "127.0.0.1");
  await once(lobby, "listening");
  open.push(() => lobby.closeAllConnections(), () => lobby.close());
  const port = freePort();
  startWeirgate(["events", "--event-stream", "--lobby-url", `http://127.0.0.1:${lobby.address().port}`], { GATEWAY_PORT: `${port}` });
  await ready(port);
  const device = new Devices(`ws://127.0.0.1:${port}/ws`, { WebSocket: EventStream });
  open.push(() => device.close());
  assert.equal((await device.identify("d1")).device_id, "d1");
  assert.ok(await device.request("lobby.create", { n: 1 }));
  assert.ok(await device.request("lobby.create", { n: 2 }), "identified by what was kept");
});
