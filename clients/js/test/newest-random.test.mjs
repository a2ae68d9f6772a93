// Random programs on a stream that cannot give the newest messages for a while, in virtual time, with cuts in every place: each handler
// gets each message once and in order from its first one on, and in the end the newest one of each channel.
// clients/python/tests/test_newest_random.py has the same for Python.
import assert from "node:assert/strict";
import { test } from "node:test";

import { Channels } from "../channels.js";
import { settled } from "./expectations.mjs";
import { inWorld, latest, passSettled, seeded, world } from "./world.mjs";

const SEEDS = 40, STEPS = 150;
/** Names, with the channels that they match. */
const NAMES = { A: "A", B: "B", C: "C", R: "STUV", P: "XYZ" };
const REASONS = ["refused", "unreadable", "limit"];

/** A stream of messages, which all servers read. A position is the number of the newest message before a client goes on. */
class Stream {
  messages = [];
  reason = "refused";
  isUp = true;
  // The number of the last message that a server does not have itself.
  history = 0;
  of(name, channel) {
    return this.messages.flatMap((one, n) => (NAMES[name].includes(one) && (!channel || one === channel) ? [n + 1] : []));
  }
  newest(name, last) {
    const why = this.isUp ? this.reason : "away", first = why ? this.history : 0;
    return [[...NAMES[name]].flatMap((channel) => this.of(name, channel).filter((n) => n > first).slice(-last)), why];
  }
}

/**
 * A connection: frames wait until the network delivers them, and answers for the stream, in which names are joined. `last` brings the
 * newest messages of a name that is joined already, too.
 */
class Server {
  held = new Set();
  frames = [];
  answers = [];
  read = 0;
  constructor(stream) {
    this.stream = stream;
  }
  get head() {
    return `${this.stream.messages.length}`;
  }
  publish(channel) {
    for (const name of this.held) if (NAMES[name].includes(channel)) this.frames.push({ ...this.message(name, Number(this.head)), pos: this.head });
  }
  status(more) {
    this.frames.push({ type: "status", bus: this.stream.isUp ? "up" : "away", ...(this.held.size && { pos: this.head }), ...more });
  }
  message(name, n) {
    return { type: "data", channel: this.stream.messages[n - 1], pattern: NAMES[name] === name ? null : name, data: n };
  }
  serve(message) {
    const { action, channels = [], since, last } = message, isNew = action === "subscribe";
    if (action === "unsubscribe") for (const all of [this.held, ...this.answers.map(([, joining]) => joining)]) channels.forEach((name) => all.delete(name));
    if (isNew) assert.ok((last && since === undefined) || !channels.some((name) => this.held.has(name)), `${channels}: held already`);
    this.answers.push([message, new Set(isNew ? channels : [])]);
  }
  /** The next answer. */
  answer() {
    const [{ action, channels, since, last, requestId }, joining] = this.answers.shift(), why = {};
    if (action === "ping") return this.frames.push({ type: "pong", requestId });
    if (action === "unsubscribe") return this.frames.push({ type: "unsubscribed", channels, requestId });
    const found = [...joining].flatMap((name) => {
      if (since !== undefined) return this.stream.of(name).filter((n) => n > Number(since)).map((n) => [n, name]);
      const [newest, reason] = last ? this.stream.newest(name, last) : [[]];
      if (reason) why[name] = reason;
      return newest.map((n) => [n, name]);
    });
    // A cut among the first newest messages of a name leaves some out.
    const isResumed = since !== undefined, isFirst = !isResumed && [...joining].some((name) => !this.held.has(name));
    joining.forEach((name) => this.held.add(name));
    this.frames.push({
      type: "subscribed", channels, errors: [], requestId, ...(Object.keys(why).length && { why }),
      ...(isResumed && { recovered: Object.fromEntries(channels.map((name) => [name, true])) }), ...(!isResumed && !found.length && { pos: this.head }),
    });
    found.sort(([a], [b]) => a - b);
    for (const [n, name] of found) this.frames.push({ ...this.message(name, n), pos: `${n}`, isFirst });
    if (found.length && !isResumed) this.status({ isFirst });
  }
}

/** A program with handlers that check what they get. */
class Program {
  subs = new Map();
  got = [];
  asked = 0;
  server = null;
  isEnding = false;
  names = Object.keys(NAMES);
  channels = Object.values(NAMES).join("");
  stream = new Stream();
  constructor(seed) {
    world.random = this.random = seeded(seed);
    for (let n = this.below(20); n > 0; n -= 1) this.stream.messages.push(this.anyChannel());
    this.stream.history = Math.floor(this.stream.messages.length / 2);
    this.client = new Channels("ws://feed.example/ws", { last: this.random() < 0.5 ? 1 : 3, silenceMs: 0 });
    this.names.forEach((name) => this.subscribe(name));
  }
  below(end) {
    return Math.floor(this.random() * end);
  }
  /** Some are busy, and some have no message for long. */
  anyChannel() {
    return this.channels[Math.floor(this.random() ** 12 * this.channels.length)];
  }

  subscribe(name) {
    const mine = { name, newest: new Map() };
    mine.sub = this.client.subscribe(name, (data, { channel }) => this.take(mine, channel, data));
    this.subs.set(name, mine);
    this.got.push(mine);
  }
  take({ name, newest }, channel, n) {
    const before = newest.get(channel), wanted = before === undefined ? n : this.stream.of(name, channel).find((one) => one > before);
    // What a handler throws does not end the test.
    if (n !== wanted) this.wrong ??= `${name}, ${channel}: ${n} after ${before}, not ${wanted}`;
    newest.set(channel, n);
    this.count = (this.count ?? 0) + 1;
  }

  publish() {
    if (!this.stream.isUp) return;
    const channel = this.anyChannel();
    this.stream.messages.push(channel);
    this.server?.publish(channel);
  }
  /** The server reads and answers some requests, and the network delivers some frames. */
  async deliver(most) {
    const { server } = this, { sent } = latest();
    for (; server && server === this.server && most > 0; most -= 1) {
      if (server.read < sent.length && this.random() < 0.5) {
        const message = JSON.parse(sent[(server.read += 1) - 1]);
        if (message.channels?.some((name) => server.held.has(name)) && message.action === "subscribe") this.asked += 1;
        server.serve(message);
      } else if (server.answers.length && this.random() < 0.5) server.answer();
      else if (server.frames.length) {
        latest().message({ ...server.frames.shift(), isFirst: undefined });
        await settled();
      }
      if (!this.isEnding && this.random() < 0.02) this.publish();
    }
  }
  async open() {
    if (this.client.status === "waiting") await passSettled(500);
    if (this.client.status !== "connecting" || latest().readyState !== 0) return;
    this.server = new Server(this.stream);
    latest().open();
    await settled();
  }

  async step() {
    await this.open();
    const { server, stream } = this, name = this.names[this.below(this.names.length)], dice = this.below(15);
    if (dice < 3) this.publish();
    else if (dice < 7) await this.deliver(this.below(40));
    else if (dice === 7 && !this.subs.has(name) && !(server && (server.read < latest().sent.length || server.answers.length || server.frames.length))) this.subscribe(name);
    else if (dice === 8 && this.subs.has(name) && this.random() < 0.3) {
      this.subs.get(name).sub.unsubscribe();
      this.subs.delete(name);
    } else if (dice === 9 && server) {
      stream.isUp = this.random() < 0.7;
      server.status();
    } else if (dice === 10 && server && this.random() < 0.3 && !server.frames.some(({ isFirst }) => isFirst)) {
      this.server = null;
      latest().end(1006);
    } else if (dice === 11) {
      stream.reason = ["", ...REASONS][this.below(4)];
      stream.history = this.below(stream.messages.length + 1);
    } else if (dice > 11) {
      await passSettled(this.random() * 6_000);
      await this.deliver(400);
    }
    await settled();
  }

  /** The stream gives all: each handler has the newest message of each channel, and nothing is asked for any more. */
  async end() {
    Object.assign(this.stream, { reason: "", isUp: true });
    this.isEnding = true;
    for (let n = 0; n < 250; n += 1) {
      await this.open();
      if (this.server && !this.server.frames.length && this.random() < 0.1) this.server.status();
      await this.deliver(60);
      await passSettled(1_000);
    }
    assert.equal(this.wrong, undefined);
    assert.deepEqual(this.client.cuts, {});
    for (const { name, newest } of this.subs.values()) {
      for (const channel of NAMES[name]) assert.equal(newest.get(channel), this.stream.of(name, channel).at(-1), `${name}, ${channel}`);
    }
    const { length } = latest().sent;
    await passSettled(200_000);
    assert.equal(latest().sent.length, length);
  }
}

test("each handler gets each message once, and the newest of each channel", inWorld(async () => {
  let count = 0, asked = 0;
  for (let seed = 0; seed < SEEDS; seed += 1) {
    const program = new Program(seed);
    try {
      await settled();
      for (let n = 0; n < STEPS; n += 1) await program.step();
      await program.end();
    } catch (error) {
      error.message = `seed ${seed}: ${error.message}`;
      throw error;
    }
    count += program.count ?? 0;
    asked += program.asked;
    program.client.close();
    await settled();
  }
  assert.ok(count > 1_000 && asked > 70, `${count} messages, ${asked} requests`);
}));
