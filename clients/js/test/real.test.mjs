// The clients in Node, on the package `ws`, against the program itself.
import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer } from "node:http";
import { connect as connectSocket, createServer as createLink } from "node:net";
import { test } from "node:test";

import { Channels } from "../channels.js";
import { Devices } from "../events.js";
import { latencyOf } from "../latency.js";
import { statusOf } from "../status.js";
import { Trades } from "../trades.js";
import { connect, Levels } from "../weirgate.js";
import { freePort, jwt, ready, SECRET, startRedis, startWeirgate, until, WebSocket } from "./programs.mjs";

test("states come, a frozen server is stale within 3 s, a killed one is back within 5 s of its start", async () => {
  const port = freePort();
  const startDemo = () => startWeirgate(["demo", "--port", `${port}`, "--rate-hz", "10", "--close-retry-after-ms", "2500"]);
  let server = startDemo();
  const spots = new Set();
  const feed = connect(`http://127.0.0.1:${port}/ws/stream`, {
    WebSocket,
    onState: ({ levels }) => { if (levels) spots.add(levels.es.spot); },
  });
  try {
    await until(() => spots.size > 2, 20_000, "three prices");
    assert.equal(feed.status, "open");

    server.kill("SIGSTOP");
    await until(() => feed.status === "stale", 4_000, "stale");
    server.kill("SIGCONT");
    await until(() => feed.status === "open", 4_000, "fresh again");

    server.kill("SIGKILL");
    await until(() => feed.status !== "open", 2_000, "the loss is noticed");
    assert.equal(feed.lastClose.code, 1006);
    spots.clear();
    server = startDemo();
    await until(() => feed.status === "open" && spots.size > 1, 5_000, "fresh prices");

    server.kill("SIGTERM");
    await until(() => feed.lastClose.code === 1012, 5_000, "the stop's close code");
    assert.equal(feed.lastClose.retryAfterMs, 2_500);
    assert.ok(feed.retryAt - performance.now() > 1_500, "it waits as long as the server asked");
    feed.close();
    assert.equal(feed.status, "closed");
  } finally {
    feed.close();
  }
});

test("a refused handshake says why, and is final where it would happen again", async () => {
  const port = freePort();
  startWeirgate(["demo", "--port", `${port}`]);
  const early = new Levels(`ws://127.0.0.1:${port}/ws/stream`, { WebSocket });
  await until(() => early.lastClose?.error === "ECONNREFUSED" || early.status === "open", 5_000, "nobody there yet");
  await ready(port);
  early.close();
  const wrong = new Levels(`ws://127.0.0.1:${port}/wrong`, { WebSocket });
  await until(() => wrong.status === "closed", 5_000, "the refusal");
  const { code, reason, opened, status } = wrong.lastClose;
  assert.deepEqual({ code, reason, opened, status }, { code: 1006, reason: "HTTP status 403", opened: false, status: 403 });
});

test("trades: acknowledged, refused, and subscribed again after a restart, with a new token", async () => {
  const [redis, port] = [await startRedis(), freePort()];
  const env = { WS_PORT: `${port}`, REDIS_URL: redis.url, REQUIRE_AUTH: "true", JWT_SECRET: SECRET };
  let server = startWeirgate(["trades"], env);
  await ready(port);
  const asked = [], prices = [];
  const trades = new Trades(`ws://127.0.0.1:${port}`, {
    WebSocket,
    token: async ({ refused }) => {
      asked.push(refused);
      return refused ? jwt({ sub: "ann", exp: Math.floor(Date.now() / 1000) + 600 }) : "nonsense";
    },
    onTrade: ({ price }) => prices.push(price),
  });
  try {
    assert.deepEqual(await trades.subscribe(["aapl", "GOOGL"]), { granted: ["AAPL", "GOOGL"], refused: {} });
    assert.deepEqual(asked, [false, true]);
    await redis.publish("channel:trade:AAPL", { symbol: "AAPL", price: 1 });
    await until(() => prices.length === 1, 5_000, "a trade");
    const more = trades.subscribe(["A", "B", "C", "D"]);
    const { granted, refused } = await more;
    assert.deepEqual([granted, Object.keys(refused)], [["A", "B", "C"], ["D"]]);
    assert.match(refused.D, /maximum of 5/);
    more.unsubscribe();
    assert.ok((await trades.ping()).timestamp > 0);
    server.kill("SIGTERM");
    await once(server, "exit");
    server = startWeirgate(["trades"], env);
    await until(() => trades.reconnects > 1 && trades.status === "open", 10_000, "back");
    await until(() => trades.subscriptions.size === 2, 5_000, "both symbols");
    await until(async () => {
      await redis.publish("channel:trade:GOOGL", { symbol: "GOOGL", price: 2 });
      return prices.at(-1) === 2;
    }, 5_000, "a trade of the old subscription");
  } finally {
    trades.close();
  }
});

test("candles: the running one at once, closed ones, and subscribed again after a restart", async () => {
  const [redis, port] = [await startRedis(), freePort()];
  const env = { WS_PORT: `${port}`, REDIS_URL: redis.url, WEIRGATE_CANDLES: "true" };
  let server = startWeirgate(["trades"], env);
  await ready(port);
  const closed = [];
  const trades = new Trades(`ws://127.0.0.1:${port}`, { WebSocket, onCandle: (candle) => candle.closed && closed.push(candle) });
  try {
    await redis.publish("channel:trade:AAPL", { price: "1.50", volume: 3, timestamp: Date.now() });
    const running = trades.iterate("candle");
    assert.deepEqual((await trades.subscribeCandles("aapl", "5m")).granted, ["AAPL"]);
    const { value: first } = await running.next();
    assert.deepEqual([first.symbol, first.interval, first.close, first.volume, first.closed], ["AAPL", "5m", 1.5, 3, false]);
    const seconds = trades.subscribeCandles("AAPL", "1s");
    await until(() => closed.some(({ interval }) => interval === "1s"), 5_000, "a closed candle, without another trade");
    server.kill("SIGTERM");
    await once(server, "exit");
    server = startWeirgate(["trades"], env);
    await until(() => trades.reconnects > 0 && trades.status === "open", 10_000, "back");
    closed.length = 0;
    await until(async () => {
      await redis.publish("channel:trade:AAPL", { price: 2 });
      return closed.some(({ interval, close }) => interval === "1s" && close === 2);
    }, 10_000, "a candle of the old subscription");
    seconds.unsubscribe();
    await trades.ping();
    assert.deepEqual([...trades.candles].map(([interval, symbols]) => [interval, symbols.size]), [["1s", 0], ["1m", 0], ["5m", 1]]);
  } finally {
    trades.close();
  }
});

test("opened before the gateway, longer than a request waits: every wanted name is live with the first connection", async () => {
  const [redis, port, tradesPort] = [await startRedis(), freePort(), freePort()];
  const got = [], options = { WebSocket, requestMs: 500 };
  const channels = new Channels(`ws://127.0.0.1:${port}/ws`, options), trades = new Trades(`ws://127.0.0.1:${tradesPort}`, options);
  const tick = channels.subscribe("market:tick", (value) => got.push(["tick", value]));
  channels.subscribe("indicators:*", (value, { channel }) => got.push([channel, value]));
  trades.subscribe("aapl", ({ price }) => got.push(["AAPL", price]));
  try {
    await assert.rejects(tick, { code: "timeout" });
    await new Promise((go) => setTimeout(go, 1_500));
    startWeirgate(["channels"], { REDIS_WS_GATEWAY_PORT: `${port}`, REDIS_URL: redis.url });
    startWeirgate(["trades"], { WS_PORT: `${tradesPort}`, REDIS_URL: redis.url });
    await until(() => channels.subscriptions.size === 2 && trades.subscriptions.size === 1, 20_000, "all names");
    await Promise.all([ready(port), ready(tradesPort)]);
    await redis.publish("market:tick", 1);
    await redis.publish("indicators:a", 2);
    await redis.publish("channel:trade:AAPL", { symbol: "AAPL", price: 3 });
    await until(() => got.length === 3, 5_000, "a message of each name");
    assert.deepEqual(got.sort(), [["AAPL", 3], ["indicators:a", 2], ["tick", 1]]);
    tick.unsubscribe();
    await channels.ping();
    assert.deepEqual([...channels.subscriptions], ["indicators:*"]);
  } finally {
    channels.close();
    trades.close();
  }
});

test("a refused path or token rejects a subscription with code and reason", async () => {
  const [redis, port] = [await startRedis(), freePort()];
  startWeirgate(["channels"], { REDIS_WS_GATEWAY_PORT: `${port}`, REDIS_URL: redis.url, REQUIRE_AUTH: "true", JWT_SECRET: SECRET });
  await ready(port);
  const path = new Channels(`ws://127.0.0.1:${port}/wrong`, { WebSocket });
  await assert.rejects(path.subscribe("x"), ({ code, message, details }) => code === "closed" && message === "1006 HTTP status 403" && details.status === 403);
  const token = new Channels(`ws://127.0.0.1:${port}/ws`, { WebSocket, token: () => "nonsense" });
  await assert.rejects(token.subscribe("x"), ({ code, message, details }) => code === "closed" && message === "1008 Authentication failed" && details.code === 1008);
});

test("a name that one token does not permit is live with the next", async () => {
  const [redis, port] = [await startRedis(), freePort()];
  startWeirgate(["channels"], { REDIS_WS_GATEWAY_PORT: `${port}`, REDIS_URL: redis.url, REQUIRE_AUTH: "true", JWT_SECRET: SECRET });
  await ready(port);
  let role = "user";
  const told = [];
  const channels = new Channels(`ws://127.0.0.1:${port}/ws`, {
    WebSocket,
    token: () => jwt({ sub: "ann", role, exp: Math.floor(Date.now() / 1000) + 600 }),
    onError: ({ code, details }) => told.push([code, Object.keys(details)]),
  });
  try {
    assert.deepEqual((await channels.subscribe(["market:tick", "engine:signal"])).granted, ["market:tick"]);
    assert.deepEqual(told, [["refused", ["engine:signal"]]]);
    role = "admin";
    channels.reconnect();
    await until(() => channels.subscriptions.size === 2, 5_000, "both names");
  } finally {
    channels.close();
  }
});

test("new tokens replace those that end, without a cut: names come and go with the rights", async () => {
  const [redis, port] = [await startRedis(), freePort()];
  startWeirgate(["channels"], { REDIS_WS_GATEWAY_PORT: `${port}`, REDIS_URL: redis.url, REQUIRE_AUTH: "true", JWT_SECRET: SECRET });
  await ready(port);
  const roles = ["admin", "user"], errors = [], statuses = [], got = [];
  let asked = 0;
  const channels = new Channels(`ws://127.0.0.1:${port}/ws`, {
    WebSocket,
    token: async () => {
      asked += 1;
      return jwt({ sub: "ann", role: roles.shift() ?? "admin", jti: asked, exp: Math.floor(Date.now() / 1000) + 5 });
    },
    onError: ({ code, details }) => errors.push([code, details]),
    onStatus: (status) => statuses.push(status),
  });
  try {
    const names = channels.subscribe(["market:tick", "engine:signal"], (data) => got.push(data));
    assert.deepEqual((await names).granted, ["market:tick", "engine:signal"]);
    await until(() => errors.length, 5_000, "the second token revokes a name");
    assert.deepEqual(errors, [["refused", { "engine:signal": "not granted by the new token" }]]);
    assert.deepEqual(names.granted, ["market:tick"]);
    await until(() => names.granted.length === 2, 5_000, "the third token grants the name again");
    // Longer than any of the tokens lasts.
    await until(() => asked >= 8, 20_000, "further tokens");
    await redis.publish("engine:signal", 7);
    await until(() => got.length, 5_000, "a message");
    assert.deepEqual([statuses, channels.reconnects, errors.length, got], [["open"], 0, 1, [7]]);
  } finally {
    channels.close();
  }
});

test("a token may be a text, and is not replaced", async () => {
  const [redis, port] = [await startRedis(), freePort()];
  startWeirgate(["channels"], { REDIS_WS_GATEWAY_PORT: `${port}`, REDIS_URL: redis.url, REQUIRE_AUTH: "true", JWT_SECRET: SECRET });
  await ready(port);
  const channels = new Channels(`ws://127.0.0.1:${port}/ws`, { WebSocket, token: jwt({ sub: "ann", exp: Math.floor(Date.now() / 1000) + 3 }) });
  try {
    await channels.subscribe("market:tick");
    await until(() => channels.status === "closed", 10_000, "the end of the token");
    assert.deepEqual([channels.lastClose.code, channels.reconnects], [1008, 0]);
  } finally {
    channels.close();
  }
});

/** A way to the port that can be cut; connections through a cut way fail. */
async function linkTo(port) {
  const ends = new Set(), server = createLink((near) => {
    if (link.isCut) return near.destroy();
    const far = connectSocket(port, "127.0.0.1");
    for (const [from, to] of [[near, far], [far, near]]) {
      ends.add(from);
      from.on("error", () => {}).on("close", () => to.destroy()).pipe(to);
    }
  });
  const link = { isCut: false, close: () => server.close(), cut() {
    link.isCut = true;
    for (const end of ends) end.destroy();
  } };
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  return Object.assign(link, { port: server.address().port });
}

/** A payload that is no text, and its number. */
const bytesOf = (n) => Buffer.of(n, 10, 0, 255), numberOf = (bytes) => (Buffer.compare(bytes, bytesOf(bytes[0])) === 0 ? bytes[0] : bytes);

for (const [kind, Client, name, names, recovered, payload] of [
  ["channels", Channels, "market:tick", ["--history-names", "market:*"], { "market:tick": true }],
  ["channels", Channels, "market:tick", ["--history-names", "market:*"], { "market:tick": true }, "binary"],
  ["trades", Trades, "AAPL", [], true],
]) {
  test(`${kind}${payload ? `, ${payload}` : ""}: what was missed while the network was away comes when it is back, and over a restart of the program`, async () => {
    const [redis, port] = [await startRedis(), freePort()];
    startWeirgate([kind, "--history-ms", "60000", ...names], { REDIS_WS_GATEWAY_PORT: `${port}`, WS_PORT: `${port}`, REDIS_URL: redis.url });
    await ready(port);
    const link = await linkTo(port), got = [], told = [], gaps = [];
    const publish = (n) => (kind === "trades" ? redis.publish(`channel:trade:${name}`, { symbol: name, price: n }) : redis.publish(name, payload ? bytesOf(n) : n));
    const made = (since) => new Client(`ws://127.0.0.1:${link.port}/${kind === "trades" ? "" : "ws"}`, {
      WebSocket,
      since,
      payload,
      onTrade: ({ price }) => got.push(price),
      onData: ({ data }) => got.push(payload ? numberOf(data) : data),
      onSubscribed: (answer) => told.push(answer.recovered),
      onGap: (gap) => gaps.push(gap),
    });
    let client = made();
    try {
      await client.subscribe(name);
      await publish(0);
      await until(() => got.length === 1, 5_000, "the first message");
      link.cut();
      for (let n = 1; n <= 50; n += 1) await publish(n);
      link.isCut = false;
      await until(() => got.length === 51, 10_000, "what was missed");
      client.close();
      for (let n = 51; n <= 60; n += 1) await publish(n);
      client = made(client.position);
      client.subscribe(name);
      await until(() => got.length === 61, 5_000, "what was missed by the second client");
      assert.deepEqual([got, told, gaps], [Array.from({ length: 61 }, (_, n) => n), [undefined, recovered, recovered], []]);
    } finally {
      client.close();
      link.close();
    }
  });
}

test("devices: pushes while the network was away come when it is back, and over a restart of the program", async () => {
  const port = freePort();
  startWeirgate(["events", "--history-ms", "60000"], { GATEWAY_PORT: `${port}`, INTERNAL_AUTH_TOKEN: "t" });
  await ready(port);
  const link = await linkTo(port), got = [], told = [];
  const push = (n) => fetch(`http://127.0.0.1:${port}/internal/broadcast`, {
    method: "POST",
    headers: { "Content-Type": "application/json", "X-Internal-Token": "t" },
    body: JSON.stringify({ event: "e", data: { n }, targets: { device_ids: ["d1"] } }),
  });
  const made = (options) => new Devices(`ws://127.0.0.1:${link.port}/ws`, {
    WebSocket,
    onPush: ({ data }) => got.push(data.n),
    onIdentified: ({ recovered }) => told.push(recovered),
    ...options,
  });
  let device = made({ deviceId: "d1" });
  try {
    await until(() => device.position, 5_000, "a position before the first push");
    link.cut();
    for (let n = 0; n < 20; n += 1) await push(n);
    link.isCut = false;
    await until(() => got.length === 20, 10_000, "the missed pushes");
    device.close();
    for (let n = 20; n < 30; n += 1) await push(n);
    device = made({ since: device.position });
    assert.deepEqual(await device.identify("d1"), { device_id: "d1", recovered: true });
    await until(() => got.length === 30, 5_000, "the pushes that the second client missed");
    assert.deepEqual([got, told], [Array.from({ length: 30 }, (_, n) => n), [undefined, true, true]]);
  } finally {
    device.close();
    link.close();
  }
});

test("channels: granted in part, counted, and what was shed is a gap", async () => {
  const [redis, port] = [await startRedis(), freePort()];
  startWeirgate(["channels"], { REDIS_WS_GATEWAY_PORT: `${port}`, REDIS_URL: redis.url, MAX_MESSAGES_PER_SECOND: "5" });
  await ready(port);
  const gaps = [];
  const channels = new Channels(`ws://127.0.0.1:${port}/ws`, { WebSocket, onGap: (gap) => gaps.push(gap) });
  try {
    const sub = channels.subscribe(["market:tick:*", "engine:signal"]);
    assert.deepEqual(await sub, { granted: ["market:tick:*"], refused: { "engine:signal": "Access denied to channel: engine:signal" } });
    await assert.rejects(channels.subscribe("engine:signal"), { code: "refused", message: /Access denied/ });
    const stream = channels.iterate();
    await Promise.all(Array.from({ length: 40 }, (_, n) => redis.publish("market:tick:A", n)));
    for (let n = 0; n < 5; n += 1) assert.equal((await stream.next()).value.channel, "market:tick:A");
    await channels.ping();
    assert.ok(gaps.length > 0 && gaps[0].last >= gaps[0].first);
    sub.unsubscribe();
    await channels.ping();
    assert.equal(channels.subscriptions.size, 0);
  } finally {
    channels.close();
  }
});

test("devices with tokens: the user of the token is the device, and a refused token is replaced by a new one", async () => {
  const port = freePort(), asked = [];
  startWeirgate(["events"], { GATEWAY_PORT: `${port}`, INTERNAL_AUTH_TOKEN: "t", REQUIRE_AUTH: "true", JWT_SECRET: SECRET });
  await ready(port);
  const url = `ws://127.0.0.1:${port}/ws`, livesS = (seconds) => jwt({ sub: "ann", exp: Math.floor(Date.now() / 1000) + seconds });
  const token = ({ refused }) => {
    asked.push(refused);
    return refused ? livesS(600) : livesS(-600);
  };
  const device = new Devices(url, { WebSocket, token }), without = new Devices(url, { WebSocket, deviceId: "ann" });
  const other = new Devices(url, { WebSocket, deviceId: "bob", token: livesS(600) });
  try {
    await until(() => device.status === "open" && asked.length === 2, 10_000, "the second token");
    const pushes = device.iterate(), headers = { "Content-Type": "application/json", "X-Internal-Token": "t" };
    const body = JSON.stringify({ event: "e", data: { n: 1 }, targets: { device_ids: ["ann"] } });
    const push = async () => (await fetch(`http://127.0.0.1:${port}/internal/broadcast`, { method: "POST", headers, body })).json();
    await until(async () => (await push()).sent === 1, 5_000, "the device of the token");
    assert.deepEqual((await pushes.next()).value, { event: "e", data: { n: 1 } });
    for (const refused of [without, other]) {
      await until(() => refused.status === "closed", 5_000, "the refusal");
      assert.deepEqual([refused.lastClose.code, refused.lastClose.reason], [1008, "Authentication failed"]);
    }
    assert.deepEqual(asked, [false, true]);
  } finally {
    for (const one of [device, without, other]) one.close();
  }
});

for (const auth of ["true", "false"]) {
  test(`devices with tokens, REQUIRE_AUTH=${auth}: missed pushes come after a reload of the page, and pushes of another user after a login`, async () => {
    const port = freePort(), got = [];
    startWeirgate(["events", "--history-ms", "60000"], { GATEWAY_PORT: `${port}`, INTERNAL_AUTH_TOKEN: "t", REQUIRE_AUTH: auth, JWT_SECRET: SECRET });
    await ready(port);
    const headers = { "Content-Type": "application/json", "X-Internal-Token": "t" };
    const push = (n, user) => fetch(`http://127.0.0.1:${port}/internal/broadcast`, {
      method: "POST", headers, body: JSON.stringify({ event: "e", data: { n: `${user} ${n}` }, targets: { device_ids: [user] } }),
    });
    let user = "ann";
    const token = () => jwt({ sub: user, exp: Math.floor(Date.now() / 1000) + 600 });
    const made = (since) => new Devices(`ws://127.0.0.1:${port}/ws`, { WebSocket, token, since, onPush: ({ data }) => got.push(data.n) });
    let device = made();
    try {
      await until(() => device.position, 5_000, "a position");
      device.close();
      await push(1, "ann");
      device = made(device.position);
      await until(() => got.length, 5_000, "the missed push");
      assert.equal(device.recovered, true);
      user = "bob";
      device.reconnect();
      await until(() => device.reconnects, 5_000, "the connection of the other user");
      for (const to of ["ann", "bob"]) await push(2, to);
      await until(() => got.includes("bob 2"), 5_000, "the push to the other user");
      assert.deepEqual([got, device.status], [["ann 1", "bob 2"], "open"]);
    } finally {
      device.close();
    }
  });
}

test("devices: requests, refusals and pushes", async () => {
  const port = freePort();
  const service = createServer(async (request, response) => {
    const chunks = await request.toArray();
    const { client, message } = JSON.parse(Buffer.concat(chunks));
    const status = message.event === "lobby.join" ? 404 : 200;
    response.writeHead(status, { "Content-Type": "application/json" });
    response.end(JSON.stringify(status === 200 ? { device: client.device_id, ...message.data } : { detail: "Lobby not found" }));
  }).listen(0, "127.0.0.1");
  await once(service, "listening");
  const lobby = `http://127.0.0.1:${service.address().port}`;
  startWeirgate(["events", "--lobby-url", lobby], { GATEWAY_PORT: `${port}`, INTERNAL_AUTH_TOKEN: "t" });
  await ready(port);
  const device = new Devices(`ws://127.0.0.1:${port}/ws`, { WebSocket, deviceId: "d 1" });
  const other = new Devices(`ws://127.0.0.1:${port}/ws`, { WebSocket });
  try {
    const pushes = device.iterate();
    assert.deepEqual(await device.request("lobby.create", { name: "x" }), { device: "d 1", name: "x" });
    await assert.rejects(device.request("lobby.join"), { code: "upstream_error", message: /Lobby not found/ });
    const body = JSON.stringify({ event: "lobby.updated", data: { n: 1 }, targets: { device_ids: ["d 1"] } });
    const headers = { "Content-Type": "application/json", "X-Internal-Token": "t" };
    const pushed = await fetch(`http://127.0.0.1:${port}/internal/broadcast`, { method: "POST", headers, body });
    assert.deepEqual(await pushed.json(), { sent: 1 });
    assert.deepEqual((await pushes.next()).value, { event: "lobby.updated", data: { n: 1 } });
    await assert.rejects(other.request("lobby.create"), { code: "unauthenticated" });
    assert.deepEqual(await other.identify("d2"), { device_id: "d2" });
    assert.deepEqual(await other.request("lobby.create"), { device: "d2" });
  } finally {
    device.close();
    other.close();
    service.close();
  }
});

test("the offset of the clock is that of this machine, and the status follows names, messages and the server", async () => {
  const [redis, port] = [await startRedis(), freePort()];
  const server = startWeirgate(["channels", "--stamp"], { REDIS_WS_GATEWAY_PORT: `${port}`, REDIS_URL: redis.url, DEFAULT_ROLE: "user" });
  await ready(port);
  const channels = new Channels(`ws://127.0.0.1:${port}/ws`, { WebSocket }), latency = latencyOf(channels), states = [], got = [];
  const end = statusOf(channels, (now) => states.push(now), { latency });
  try {
    const denied = channels.subscribe("engine:signal");
    await channels.subscribe("market:tick", (_, message) => got.push(message));
    await until(() => latency.serverNow(), 10_000, "a round trip");
    assert.ok(Math.abs(latency.serverNow() - Date.now()) <= latency.errorMs + 2, `${latency.serverNow() - Date.now()} ± ${latency.errorMs}`);
    const begin = Date.now();
    await redis.publish("market:tick", 1);
    await until(() => latency.ms !== undefined, 10_000, "a message");
    assert.ok(latency.ms >= 0 && latency.ms <= Date.now() - begin + latency.errorMs + 1);
    assert.ok(latency.ageOf(got[0]) <= Date.now() - begin + latency.errorMs + 2);
    assert.equal(states.at(-1).cause, "The server refuses engine:signal (Access denied to channel: engine:signal).");
    denied.unsubscribe();
    await until(() => states.at(-1).state !== "refused", 10_000, "nothing is refused any more");
    server.kill("SIGKILL");
    await until(() => ["waiting", "connecting"].includes(states.at(-1).state), 10_000, "the loss");
    assert.equal(latency.serverNow(), undefined);
  } finally {
    end();
    latency.end();
    channels.close();
  }
});
