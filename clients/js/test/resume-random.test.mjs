// Random programs on a feed with a history, in virtual time, with cuts in every place: what `recovered: true` promises is
// there, message by message, whatever was refused, late, given up or asked for in several requests in between.
import assert from "node:assert/strict";
import { test } from "node:test";

import { Channels } from "../channels.js";
import { Trades } from "../trades.js";
import { inWorld, latest, pass, seeded, world } from "./world.mjs";

const SEEDS = 50, STEPS = 120, NAMES = [..."ABCDEFGHIJKL"], KEPT = 60;
const settled = async () => { for (let n = 0; n < 30; n += 1) await null; };

/** The messages of a bus, which all servers read. A position is the number of the newest message before a client goes on. */
class Feed {
  messages = [];
  floor = 0;
  publish(name) {
    this.messages.push(name);
    return this.messages.length;
  }
  /** Why the names cannot go on from a position. */
  why(since) {
    const at = parseInt(since, 10);
    if (!(at >= 0)) return "bad";
    if (at < this.floor) return "gap";
    return at < this.messages.length - KEPT ? "window" : undefined;
  }
  between(first, last, name) {
    return this.messages.slice(first, last).some((one) => one === name);
  }
}

/** A connection: frames wait until the network delivers them. `how`: with a history, without, or from before histories. */
class Server {
  held = new Set();
  frames = [];
  read = 0;
  constructor(feed, how, random) {
    Object.assign(this, { feed, how, random });
  }
  get pos() {
    return this.how === "kept" ? { pos: `${this.feed.messages.length}` } : {};
  }
  publish(name, at) {
    if (this.held.has(name)) this.frames.push({ ...this.message(name, at), ...this.pos });
  }
  status() {
    if (this.how === "kept") this.frames.push({ type: "status", seq: 0, bus: "up", ...(this.held.size && this.pos) });
  }
  serve(message) {
    const { action, since } = message, names = message.symbols ?? message.channels;
    if (action === "ping") return this.frames.push({ type: "pong", requestId: message.requestId, seq: 0 });
    if (action === "unsubscribe") {
      names.forEach((name) => this.held.delete(name));
      return this.frames.push(this.left(message, names));
    }
    const granted = this.granted(message, names);
    if (!granted) return;
    const why = this.how === "kept" ? (granted.some((name) => this.held.has(name)) ? "off" : this.feed.why(since)) : "off";
    const isAsked = since !== undefined && this.how !== "old", isRecovered = isAsked && !why;
    const answer = this.answer(message, granted, isAsked ? { isRecovered, why } : {});
    this.frames.push({ ...answer, head: this.feed.messages.length, ...(!isRecovered && this.pos) });
    granted.forEach((name) => this.held.add(name));
    if (!isRecovered) return;
    this.feed.messages.forEach((name, n) => {
      if (n >= Number(since) && granted.includes(name)) this.frames.push({ ...this.message(name, n + 1), pos: `${n + 1}` });
    });
  }
}

class TradesServer extends Server {
  message(symbol, price) {
    return { type: "trade", data: { symbol, price }, timestamp: 1 };
  }
  granted(_, names) {
    if (this.random() > 0.15) return names;
    this.frames.push({ type: "error", message: "Not now", timestamp: 1 });
  }
  success(data) {
    return { type: "success", message: "", data: { ...data, currentSubscriptions: [...this.held, ...data.subscribed ?? []] }, timestamp: 1 };
  }
  left(_, unsubscribed) {
    return this.success({ unsubscribed });
  }
  answer(_, subscribed, { isRecovered, why }) {
    return this.success({ subscribed, recovered: isRecovered, why });
  }
}

class ChannelsServer extends Server {
  message(channel, data) {
    return { type: "data", seq: 0, channel, pattern: null, data };
  }
  granted({ requestId }, names) {
    if (this.random() > 0.1) return names.filter(() => this.random() > 0.1);
    this.frames.push({ type: "error", seq: 0, error: "Invalid", requestId });
  }
  left({ requestId }, channels) {
    return { type: "unsubscribed", seq: 0, channels, requestId };
  }
  answer({ requestId, channels: asked }, channels, { isRecovered, why }) {
    const errors = asked.filter((name) => !channels.includes(name)).map((name) => `Access denied to channel: ${name}`);
    const each = (value) => value !== undefined && Object.fromEntries(channels.map((name) => [name, value]));
    return { type: "subscribed", seq: 0, channels, errors, requestId, ...(isRecovered !== undefined && { recovered: each(isRecovered) }), ...(why && { why: each(why) }) };
  }
}

/** The first names come from the beginning, page by page, with the messages of others between. */
const ALL = NAMES.slice(0, 6);

class AllServer extends ChannelsServer {
  // By name, how far it has come.
  coming = new Map();
  serve(message) {
    const { action, channels, since, last, requestId } = message;
    if (action === "unsubscribe") channels.forEach((name) => this.coming.delete(name));
    if (last !== "all") return super.serve(message);
    const granted = this.granted(message, channels);
    if (!granted) return;
    this.frames.push({ ...this.answer(message, granted, since ? { isRecovered: true } : {}), head: this.feed.messages.length, ...(this.held.size && this.pos) });
    for (const name of granted) {
      if (this.held.has(name)) this.frames.push({ type: "last", seq: 0, channel: name, count: 0, cut: "off", requestId });
      else if (!this.coming.has(name)) this.coming.set(name, Number(since ?? 0));
    }
  }
  page() {
    for (const [name, since] of this.coming) {
      const { messages } = this.feed, end = Math.min(messages.length, since + Math.floor(this.random() * 40));
      for (let at = since + 1; at <= end; at += 1) if (messages[at - 1] === name) this.frames.push({ ...this.message(name, at), pos: `${at}` });
      this.coming.set(name, end);
      if (end < messages.length) continue;
      this.coming.delete(name);
      this.held.add(name);
      this.frames.push({ type: "last", seq: 0, channel: name, count: 0, ...this.pos });
    }
  }
}

/** Checks that each message of a name comes once, from the first on. */
function whole(feed, name, counts) {
  counts.last[name] = 0;
  return (at) => {
    const next = feed.messages.indexOf(name, counts.last[name]) + 1;
    // What a handler throws does not end the test.
    if (at !== next) counts.wrong ??= `${name}: ${at} after ${counts.last[name]}, not ${next}`;
    counts.last[name] = at;
    counts.whole += 1;
  };
}

/** Checks that no message is missing between two that came, unless the client has told a loss. */
class Program {
  // The newest message of each name, or the head of the feed at the last grant without the missed messages.
  at = new Map();
  // Names that the client holds on servers with a history: now, and before this connection.
  held = new Set();
  before = new Set();
  checked = 0;
  constructor(make, feed) {
    this.feed = feed;
    this.client = make({
      onTrade: ({ symbol, price }) => this.got(symbol, price),
      onData: ({ channel, data }) => this.got(channel, data),
      onSubscribed: ({ subscribed, channels = subscribed, recovered }) => {
        if (this.how !== "kept") for (const names of [this.held, this.before]) names.clear();
        for (const name of channels) {
          const isRecovered = recovered?.[name] ?? recovered;
          if (this.wholes?.has(name)) continue;
          assert.ok(isRecovered !== undefined || !this.before.delete(name), `${name}: neither asked for nor reported`);
          this.before.delete(name);
          if (!isRecovered) this.at.set(name, this.head);
          // Otherwise the name was given up meanwhile.
          if (this.how === "kept" && this.client.subscriptions.has(name)) this.held.add(name);
        }
      },
      onError: ({ details }) => Object.keys(details ?? {}).forEach((name) => this.gaveUp(name)),
    });
  }
  gaveUp(name) {
    this.at.delete(name);
    this.held.delete(name);
    this.before.delete(name);
  }
  got(name, at) {
    if (this.wholes?.has(name)) return;
    const last = this.at.get(name);
    if (last !== undefined) {
      assert.ok(!this.feed.between(last, at - 1, name), `${name}: missing between ${last} and ${at}`);
      this.checked += 1;
    }
    this.at.set(name, Math.max(at, last ?? 0));
  }
}

for (const [kind, make, Kind] of [
  ["trades", (options) => new Trades("ws://feed.example/", options), TradesServer],
  ["channels", (options) => new Channels("ws://feed.example/", options), ChannelsServer],
  ["channels, some from the beginning", (options) => new Channels("ws://feed.example/", options), AllServer],
]) {
  test(`${kind}: nothing is missing behind "recovered"`, inWorld(async () => {
    let checked = 0, resumed = 0;
    const counts = { whole: 0, ends: 0, last: {} }, isAll = Kind === AllServer;
    for (let seed = 0; seed < SEEDS; seed += 1) {
      const random = seeded(seed), feed = new Feed(), pick = (of) => of[Math.floor(random() * of.length)], isMixed = !isAll && seed % 2 === 1;
      world.random = random;
      const program = new Program(make, feed), { client } = program, subs = new Map();
      const subscribe = (name) => {
        const how = isAll && ALL.includes(name) ? [whole(feed, name, counts), { last: "all" }] : [];
        subs.set(name, client.subscribe(name, ...how));
      };
      if (isAll) program.wholes = new Set(ALL);
      client.addEventListener("last", () => (counts.ends += 1));
      let server = null;
      const open = () => {
        server = new Kind(feed, isMixed ? pick(["kept", "kept", "kept", "off", "old"]) : "kept", random);
        Object.assign(program, { how: server.how, before: new Set(program.held) });
        latest().open();
      };
      const read = () => {
        const { sent } = latest();
        while (server && server.read < sent.length) server.serve(JSON.parse(sent[(server.read += 1) - 1]));
        server?.page?.();
      };
      const deliver = async (most) => {
        for (let n = 0; server?.frames.length && n < most; n += 1) {
          const { head, ...frame } = server.frames.shift();
          if (head !== undefined) program.head = head;
          if (JSON.stringify(frame).includes(":true")) resumed += 1;
          latest().message(frame);
          // Some platforms deliver several messages in a tick.
          if (random() < 0.5) await settled();
        }
        await settled();
      };
      const publish = () => {
        const name = pick(NAMES), at = feed.publish(name);
        server?.publish(name, at);
      };
      const step = async () => {
        if (client.status === "waiting") pass(500), await settled();
        if (client.status === "connecting" && latest().readyState === 0) open();
        const name = pick(NAMES), dice = Math.floor(random() * 12);
        if (dice < 4) for (let n = Math.floor(random() * 8); n >= 0; n -= 1) publish();
        else if (dice < 7) read(), await deliver(random() * 12);
        else if (dice === 7 && !subs.has(name)) subscribe(name);
        else if (dice === 8) {
          program.gaveUp(name);
          subs.get(name)?.unsubscribe();
          subs.delete(name);
        } else if (dice === 9) server?.status();
        else if (dice === 10 && server) {
          server = null;
          latest().end(1006);
          if (random() < 0.1) feed.floor = feed.messages.length;
        } else if (dice === 11) pass(random() < 0.1 && kind === "channels" ? 11_000 : random() * 500);
        await settled();
      };
      for (const name of NAMES.slice(0, 8)) subscribe(name);
      try {
        for (let n = 0; n < STEPS; n += 1) await step();
        for (let n = 0; n < 20; n += 1) {
          publish();
          read();
          await deliver(Infinity);
        }
        assert.equal(counts.wrong, undefined);
        const live = isAll && server ? ALL.filter((name) => client.subscriptions.has(name) && server.held.has(name)) : [];
        for (const name of live) assert.equal(counts.last[name], feed.messages.lastIndexOf(name) + 1, `${name}: the newest`);
      } catch (error) {
        error.message = `seed ${seed}: ${error.message}`;
        throw error;
      }
      checked += program.checked;
      client.close();
      await settled();
    }
    assert.ok(checked > (isAll ? 500 : 1_000) && resumed > 100, `${checked} messages, ${resumed} resumed`);
    assert.ok(!isAll || (counts.whole > 1_000 && counts.ends > 300), JSON.stringify(counts));
  }));
}
