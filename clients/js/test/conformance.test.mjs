// The cases of clients/conformance against the JavaScript clients, in virtual time. The README there has the format.
import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { test } from "node:test";

import { Channels } from "../channels.js";
import { Devices } from "../events.js";
import { Trades } from "../trades.js";
import { connect, Levels } from "../weirgate.js";
import { Expectations, settled, textOf } from "./expectations.mjs";
import { inWorld, latest, passSettled, sleep, sockets, world } from "./world.mjs";

const folder = new URL("../../conformance/", import.meta.url);
const CLIENTS = {
  connection: ["ws://feed.example/ws", connect],
  levels: ["ws://feed.example/ws/stream", (...args) => new Levels(...args)],
  trades: ["ws://feed.example/", (...args) => new Trades(...args)],
  channels: ["ws://feed.example/ws", (...args) => new Channels(...args)],
  events: ["ws://feed.example/ws", (...args) => new Devices(...args)],
};

/** The form of an event in a case. */
const TOLD = {
  status: (status) => ["status", status],
  state: (state, kept) => ["state", state, ...(kept ? ["kept"] : [])],
  message: (data, kept) => ["message", data, ...(kept ? ["kept"] : [])],
  bad: () => ["bad"],
  welcome: () => ["welcome"],
  identify: () => ["identify"],
  identified: ({ recovered = null, why }) => ["identified", recovered, ...(why ? [why] : [])],
  error: ({ code }) => ["error", code],
  trade: (trade, timestamp) => ["trade", trade, timestamp],
  candle: ({ symbol, close, closed }) => ["candle", symbol, close, closed],
  data: ({ channel, data }) => ["data", channel, shown(data)],
  subscribed: ({ channels, subscribed = channels, recovered = null, why }) => ["subscribed", subscribed, recovered, ...(why ? [why] : [])],
  bus: (bus, lost) => ["bus", bus, ...(lost ? ["lost"] : [])],
  gap: ({ first, last }) => ["gap", first, last],
  retained: ({ channel, count, cut }) => ["retained", channel, count, ...(cut ? [cut] : [])],
  last: ({ channel, count, cut }) => ["last", channel, count, ...(cut ? [cut] : [])],
  push: ({ event, data }) => ["push", event, data],
};

/** Bytes as base64. */
const shown = (data) => (data instanceof Uint8Array ? { base64: btoa(String.fromCharCode(...data)) } : data);


class Run extends Expectations {
  told = [];
  listened = [];
  sentBefore = new Map();

  constructor({ client, options, token: isAsked }) {
    super();
    const [url, make] = CLIENTS[client];
    const token = (about) => new Promise((resolve, reject) => this.asked.push({ ...about, resolve, reject, at: world.now }));
    const callbacks = {};
    const types = Object.entries(TOLD).filter(([type]) => (client === "connection" ? type !== "state" : type !== "message"));
    for (const [type, told] of types) {
      callbacks[`on${type[0].toUpperCase()}${type.slice(1)}`] = (...args) => this.told.push(told(...args));
    }
    this.client = make(url, { ...options, ...callbacks, ...(isAsked && { token }) });
    // Listeners get the same as options.
    for (const [type, told] of types) {
      this.client.addEventListener(type, ({ detail, kept, timestamp, lost }) => this.listened.push(told(detail, kept ?? timestamp ?? lost)));
    }
  }

  newlySent() {
    const from = this.sentBefore.get(latest()) ?? 0;
    this.sentBefore.set(latest(), latest().sent.length);
    return latest().sent.slice(from);
  }

  // ---- Actions
  random(values) { world.random = [...values]; }
  pass(ms) { return passSettled(ms); }
  sleep(ms) { sleep(ms, false); }
  accept(kind) {
    latest().takesTokens = kind !== "event stream";
    latest().open();
  }
  refuse(status, retryAfter) { latest().refuse(status, retryAfter === undefined ? {} : { "retry-after": String(retryAfter) }); }
  unreachable(code) { latest().end(1006, "", { message: `connect ${code}`, error: Object.assign(new Error(), { code }) }); }
  message(value) { latest().message(JSON.stringify(value)); }
  text(text) { latest().message(text); }
  binary(head, base64) {
    assert.equal(latest().binaryType, "arraybuffer");
    const bytes = Uint8Array.from(`${JSON.stringify(head)}\n${atob(base64)}`, (one) => one.charCodeAt(0));
    latest().message(bytes.buffer);
  }
  end(code, reason) { latest().end(code, reason); }
  token(token) { this.asked.at(-1).resolve(textOf(token)); }
  late_token(number, token) { this.asked[number - 1].resolve(textOf(token)); }
  no_token(why) { this.asked.at(-1).reject(new Error(why)); }
  subscribe(label, names, options) { this.wants(label, (handler) => this.client.subscribe(names, handler, options)); }
  subscribe_candles(label, symbols, interval) { this.wants(label, (handler) => this.client.subscribeCandles(symbols, interval, handler)); }
  wants(label, subscribe) {
    const call = { got: [] };
    this.calls.set(label, call);
    call.sub = subscribe((...args) => {
      if (call.fails) throw new Error("the handler fails");
      call.got.push(shown(args[0]));
    });
    call.sub.then((value) => (call.value = value), (error) => (call.error = error));
  }
  unsubscribe(label) { this.calls.get(label).sub.unsubscribe(); }
  fails(label) { this.calls.get(label).fails = true; }
  async together(steps) { for (const [verb, ...args] of steps) this[verb](...args); }
  call(label, method, ...args) {
    const abort = new AbortController(), call = { abort };
    this.calls.set(label, call);
    // Options are the last argument of every request.
    this.client[method](...args, { signal: abort.signal }).then((value) => (call.value = value), (error) => (call.error = error));
  }
  abort(label) { this.calls.get(label).abort.abort(); }
  close(...args) { this.client.close(...args); }
  reconnect() { this.client.reconnect(); }

  // ---- Expectations
  send(data, isSent) { assert.equal(this.client.send(data), isSent); }
  attempts(count) { assert.equal(sockets.length, count); }
  async next_attempt(ms) {
    const { length } = sockets, since = world.now;
    for (let n = 0; sockets.length === length; n += 1) {
      assert.ok(n < 1000, "no timer makes an attempt");
      await this.pass(Math.max(0, Math.min(...[...world.timers.values()].map(({ at }) => at)) - world.now));
    }
    assert.ok(Math.abs(latest().at - since - ms) < 0.01, `${latest().at - since} ms, not ${ms}`);
  }
  dropped(...wanted) { assert.deepEqual(latest().closedWith, wanted); }
  sent(given) {
    const wanted = given.map((one) => (one.token ? { ...one, token: textOf(one.token) } : one));
    assert.deepEqual(this.newlySent().map((text) => (typeof wanted[0] === "string" ? text : JSON.parse(text))), wanted);
  }
  events(wanted) {
    assert.deepEqual(this.told.splice(0), wanted);
    assert.deepEqual(this.listened.splice(0), wanted);
  }
  throws(names) { assert.throws(() => this.client.subscribe(names)); }
  handled(label, wanted) { assert.deepEqual(this.calls.get(label).got.splice(0), wanted); }
  token_used(token) { assert.deepEqual(latest().protocols, ["bearer", textOf(token)]); }
  query(name, wanted) { assert.equal(new URL(latest().url).searchParams.get(name), wanted); }
  device_id(id) { assert.equal(new URL(latest().url).searchParams.get("device_id"), id); }
}

// A failing handler is logged.
console.error = () => {};

for (const file of readdirSync(folder).filter((name) => name.endsWith(".json"))) {
  for (const one of JSON.parse(readFileSync(new URL(file, folder), "utf8")).cases) {
    test(`${file}: ${one.name}`, inWorld(async () => {
      const run = new Run(one);
      await settled();
      for (const [number, [verb, ...args]] of one.steps.entries()) {
        try {
          await run[verb](...args);
          await settled();
        } catch (error) {
          error.message = `step ${number + 1}, ${JSON.stringify([verb, ...args])}: ${error.message}`;
          throw error;
        }
      }
      run.client.close();
      await settled();
      assert.equal(world.timers.size, 0, "no timer is left");
    }));
  }
}
