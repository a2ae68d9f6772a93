// Random programs against servers of a few lines, in virtual time: whatever was lost, refused, late or given up in between,
// at the end the server holds what the program wants and may have.
import assert from "node:assert/strict";
import { test } from "node:test";

import { Channels } from "../channels.js";
import { Trades } from "../trades.js";
import { inWorld, latest, pass, seeded, sockets, world } from "./world.mjs";

const SEEDS = 150, STEPS = 60, MOST = 5;
const settled = async () => { for (let n = 0; n < 30; n += 1) await null; };

const LASTS_MS = 20_000;
/** At the end of a program nothing fails any more. */
let isCalm = false;

/** A token, with the letter that forbidden names begin with. */
function tokenOf(letter) {
  const claims = { letter, exp: (world.now + LASTS_MS) / 1_000 };
  return `e30.${Buffer.from(JSON.stringify(claims)).toString("base64url")}.sig`;
}

/** Each name that begins with X is forbidden; a client that holds `MOST` names is granted none, not even a held name. */
class ChannelsServer {
  held = new Set();
  forbidden = "X";
  answer({ action, channels = [], requestId }) {
    if (action === "ping") return { type: "pong", requestId, seq: 1 };
    if (action === "unsubscribe") {
      channels.forEach((name) => this.held.delete(name));
      return { type: "unsubscribed", channels, requestId, seq: 1 };
    }
    const granted = [], errors = [];
    for (const name of channels) {
      if (this.held.size >= MOST) {
        errors.push(`Max channels exceeded (${MOST})`);
        break;
      }
      if (name.startsWith(this.forbidden)) errors.push(`Access denied to channel: ${name}`);
      else granted.push(name), this.held.add(name);
    }
    return { type: "subscribed", channels: granted, errors, requestId, seq: 1 };
  }
}

/** The same with tokens: a new token may forbid other names, or be refused. */
class TokensServer extends ChannelsServer {
  constructor({ protocols }) {
    super();
    this.admit(protocols[1]);
  }
  admit(token) {
    const { letter, exp } = JSON.parse(Buffer.from(token.split(".")[1], "base64url"));
    this.forbidden = letter;
    this.endsAt = exp * 1_000;
    return { timestamp: new Date(world.now).toISOString(), seq: 1 };
  }
  welcome() {
    return { type: "connected", timestamp: new Date(world.now).toISOString(), seq: 1 };
  }
  answer(message) {
    const { action, requestId, token } = message;
    if (action !== "authenticate") return super.answer(message);
    const why = { 1: "Too many new tokens", 2: "Authentication failed" }[Math.floor(world.now) % 10];
    if (why && !isCalm) return { type: "error", error: why, requestId, seq: 1 };
    const admitted = this.admit(token), revoked = [...this.held].filter((name) => name.startsWith(this.forbidden));
    revoked.forEach((name) => this.held.delete(name));
    return { ...admitted, type: "authenticated", revoked, requestId };
  }
}

/** The same rules, a request as a whole. Responses name no request, so none is lost or late. */
class TradesServer {
  isPrompt = true;
  held = new Set();
  forbidden = "X";
  answer({ action, symbols = [] }) {
    if (action === "ping") return { type: "pong", timestamp: 1 };
    const error = (message) => ({ type: "error", message, timestamp: 1 });
    const done = (data) => ({ type: "success", message: "", data: { ...data, currentSubscriptions: [...this.held] }, timestamp: 1 });
    if (action === "unsubscribe") {
      const gone = symbols.filter((name) => this.held.delete(name));
      return done({ unsubscribed: gone });
    }
    if (symbols.length > 5) return error("symbols has more than 5 entries");
    if (symbols.some((name) => name.startsWith("X"))) return error("Invalid subscribe message: symbols[0]");
    const more = symbols.filter((name) => !this.held.has(name));
    if (this.held.size + more.length > MOST) return error(`Cannot subscribe: would exceed maximum of ${MOST} symbols per connection.`);
    more.forEach((name) => this.held.add(name));
    return done({ subscribed: more });
  }
}

const NAMES = ["A", "B", "C", "D", "E", "F", "G", "H", "X1", "X2"];

async function play(seed, makeClient, Server) {
  const random = seeded(seed), pick = (list) => list[Math.floor(random() * list.length)];
  world.random = seeded(seed + 1);
  isCalm = false;
  const client = makeClient(), subs = [];
  let server = null, socket = null, waiting = [], isOpen = false;
  await settled();
  /** Takes what the client has sent; answers some of it, in order. */
  const serve = async (loses) => {
    await settled();
    if (latest() !== socket || latest().readyState > 1) {
      [socket, server, waiting, isOpen] = [latest(), new Server(latest()), [], false];
    }
    if (socket.readyState === 0 && (!loses || random() < 0.7)) socket.open();
    await settled();
    if (socket.readyState === 1 && !isOpen) {
      isOpen = true;
      if (server.welcome) socket.message(server.welcome());
    }
    if (socket.readyState === 1 && server.endsAt <= world.now) return socket.end(1008, "Authentication failed");
    for (const text of socket.sent.splice(0)) if (!loses || server.isPrompt || random() < 0.9) waiting.push(JSON.parse(text));
    for (; waiting.length && socket.readyState === 1 && (!loses || random() < 0.6); await settled()) socket.message(server.answer(waiting.shift()));
  };
  const steps = [
    () => subs.push({ names: [pick(NAMES)], sub: null }),
    () => subs.push({ names: [pick(NAMES), pick(NAMES)], sub: null }),
    () => subs.splice(Math.floor(random() * subs.length), 1).forEach(({ sub }) => sub.unsubscribe()),
    () => subs.splice(Math.floor(random() * subs.length), 1).forEach(({ sub }) => sub.unsubscribe()),
    () => serve(true),
    () => serve(true),
    () => pass(random() * 100),
    async () => {
      if (random() > 0.2) return;
      if (server?.isPrompt) for (let n = 0; n < 20; n += 1) await serve(false);
      pass(11_000);
    },
    () => random() < 0.4 && latest().readyState < 2 && latest().end(1006),
    () => random() < 0.1 && client.reconnect(),
  ];
  for (let n = 0; n < STEPS; n += 1) {
    await pick(steps)();
    for (const one of subs) one.sub ??= client.subscribe(one.names);
    if (random() < 0.5) await settled();
  }
  // From here on nothing is lost.
  isCalm = true;
  for (let n = 0; n < 100; n += 1) {
    await serve(false);
    pass(500);
  }
  const wanted = new Set(subs.flatMap(({ names }) => names)), may = [...wanted].filter((name) => !name.startsWith(server.forbidden));
  assert.equal(client.status, "open");
  assert.deepEqual([...client.subscriptions].sort(), [...server.held].sort(), `seed ${seed}: the client knows what the server holds`);
  assert.ok([...server.held].every((name) => wanted.has(name)), `seed ${seed}: nothing is held in vain`);
  assert.equal(server.held.size, Math.min(MOST, may.length), `seed ${seed}: of ${may} held ${[...server.held]}`);
  for (const { names, sub } of subs) {
    assert.deepEqual([...new Set([...sub.granted, ...Object.keys(sub.refused)])].sort(), [...new Set(names)].sort(), `seed ${seed}: each name is live or refused`);
  }
  client.close();
  await settled();
  assert.equal(world.timers.size, 0, `seed ${seed}: no timer is left`);
  sockets.length = 0;
}

/** A client with a function for tokens that, on an open connection, may fail, be slow, or have no new token. */
function withTokens() {
  let last;
  const token = async () => {
    // The client is there after its first question.
    await null;
    const how = world.random(), isRenewal = client.status === "open" && !isCalm;
    if (isRenewal && how < 0.1) throw new Error("offline");
    if (isRenewal && how < 0.2) return last;
    if (isRenewal && how < 0.3) return null;
    if (isRenewal && how < 0.4) await new Promise(() => {});
    return (last = tokenOf(how < 0.7 ? "X" : how < 0.85 ? "A" : "B"));
  };
  const client = new Channels("ws://feed.example/ws", { token });
  return client;
}

for (const [name, make, Server] of [
  ["channels", () => new Channels("ws://feed.example/ws"), ChannelsServer],
  ["channels with tokens", withTokens, TokensServer],
  ["trades", () => new Trades("ws://feed.example/"), TradesServer],
]) {
  test(`${name}: ${SEEDS} random programs end with what they want`, inWorld(async () => {
    for (let seed = 1; seed <= SEEDS; seed += 1) await play(seed, make, Server);
  }));
}
