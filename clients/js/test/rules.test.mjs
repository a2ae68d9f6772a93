// The cases of clients/conformance against the rules alone: a driver of the test, no clock, timer, socket or global of an engine.
import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { readdirSync, readFileSync } from "node:fs";
import { test } from "node:test";

import { Channels } from "../channels.js";
import { Devices } from "../events.js";
import { Trades } from "../trades.js";
import { Connection, Levels } from "../weirgate.js";
import { Expectations, settled, textOf } from "./expectations.mjs";

const folder = new URL("../../conformance/", import.meta.url);
const CLIENTS = { connection: Connection, levels: Levels, trades: Trades, channels: Channels, events: Devices };
/** What the rules may not touch. */
const HOST = [
  "WebSocket", "EventTarget", "Event", "DOMException", "URL", "setTimeout", "clearTimeout", "setInterval", "queueMicrotask", "performance", "document",
  "location", "navigator", "window", "self", "console", "reportError", "fetch", "AbortController", "addEventListener", "removeEventListener", "process", "Buffer",
];

/** Runs a step of the rules, during which each global of an engine fails. */
function pure(step) {
  const trap = (name) => ({ configurable: true, get() { throw new Error(`the rules touch ${name}`); } });
  const real = HOST.map((name) => [name, Object.getOwnPropertyDescriptor(globalThis, name)]);
  const { now } = Date, { random } = Math;
  Date.now = Math.random = () => { throw new Error("the rules have no clock and no chance"); };
  for (const name of HOST) Object.defineProperty(globalThis, name, trap(name));
  try {
    return step();
  } finally {
    for (const [name, was] of real) {
      delete globalThis[name];
      if (was) Object.defineProperty(globalThis, name, was);
    }
    Object.assign(Date, { now });
    Object.assign(Math, { random });
  }
}

const shown = (data) => (data instanceof Uint8Array ? { base64: Buffer.from(data).toString("base64") } : data);

const TOLD = {
  status: (status) => ["status", status],
  state: (state, { kept }) => ["state", state, ...(kept ? ["kept"] : [])],
  message: (data, { kept }) => ["message", data, ...(kept ? ["kept"] : [])],
  bad: () => ["bad"],
  welcome: () => ["welcome"],
  identify: () => ["identify"],
  identified: ({ recovered = null, why }) => ["identified", recovered, ...(why ? [why] : [])],
  error: ({ code }) => ["error", code],
  trade: (trade, { timestamp }) => ["trade", trade, timestamp],
  candle: ({ symbol, close, closed }) => ["candle", symbol, close, closed],
  data: ({ channel, data }) => ["data", channel, shown(data)],
  subscribed: ({ channels, subscribed = channels, recovered = null, why }) => ["subscribed", subscribed, recovered, ...(why ? [why] : [])],
  bus: (bus, { lost }) => ["bus", bus, ...(lost ? ["lost"] : [])],
  gap: ({ first, last }) => ["gap", first, last],
  retained: ({ channel, count, cut }) => ["retained", channel, count, ...(cut ? [cut] : [])],
  last: ({ channel, count, cut }) => ["last", channel, count, ...(cut ? [cut] : [])],
  push: ({ event, data }) => ["push", event, data],
};

class Run extends Expectations {
  now = 1000;
  numbers = [0.5];
  dueAt = Infinity;
  attempts = 0;
  sentTexts = [];
  told = [];
  used = [];
  alarms = new Map();

  constructor({ client, options, token: isAsked }) {
    super();
    this.hidden = client === "connection" ? "state" : "message";
    this.isAsked = isAsked;
    const token = isAsked && ((about) => new Promise((resolve, reject) => this.asked.push({ ...about, isRenewal: true, resolve, reject, at: this.now })));
    this.client = pure(() => new CLIENTS[client]("ws://feed.example/", { ...options, ...(token && { token }) }, () => this.driver()));
  }

  driver() {
    return {
      now: () => this.now,
      random: () => (this.numbers.length > 1 ? this.numbers.shift() : this.numbers[0]),
      isReady: () => true,
      arm: (dueAt) => (this.dueAt = dueAt),
      after: (ms, call) => {
        const alarm = {};
        this.alarms.set(alarm, { at: this.now + ms, call });
        return alarm;
      },
      cancel: (alarm) => this.alarms.delete(alarm),
      dial: ({ refused }) => {
        this.asked.push({ refused, at: this.now });
        if (!this.isAsked) this.dialed(undefined, this.client?.input);
      },
      send: (text) => this.sentTexts.push(text),
      drop: (code = 1000, reason = "") => {
        this.dropped_ = [code, reason];
        if (this.asked.length) this.asked.at(-1).isOver = true;
      },
      emit: (type, detail, more) => {
        if (TOLD[type] && type !== this.hidden) this.told.push(TOLD[type](detail, more));
        this.client.dispatchEvent({ type, detail, ...more });
      },
      report: (error) => { throw error; },
      log: () => {},
      warn: () => {},
      attempt: (call, failed) => { try { call(); } catch (error) { failed?.(error); } },
    };
  }

  input(...event) {
    return pure(() => this.client.input(...event));
  }
  dialed(token) {
    this.attempts += 1;
    this.sentTexts = [];
    this.used.push(token);
  }
  async rest() {
    await settled();
  }
  nextAt() {
    return Math.min(this.dueAt, ...[...this.alarms.values()].map(({ at }) => at));
  }
  async advance(end) {
    await this.rest();
    for (let at; (at = this.nextAt()) <= end; await this.rest()) {
      this.now = Math.max(this.now, at);
      for (const [alarm, { at, call }] of this.alarms) if (at <= this.now && this.alarms.delete(alarm)) this.input("run", call);
      if (this.dueAt <= this.now) this.input("timer", this.now - this.dueAt);
    }
    this.now = Math.max(this.now, end);
  }

  // ---- Actions
  random(values) { this.numbers = [...values]; }
  pass(ms) { return this.advance(this.now + ms); }
  sleep(ms) { this.now += ms; }
  accept(kind) { this.input("connected", "ws://feed.example/", this.used.at(-1), kind !== "event stream"); }
  refuse(status, after = 0) { this.input("closed", 1006, `HTTP status ${status}`, { status, retryAfterMs: 1_000 * after }); }
  unreachable(error) { this.input("closed", 1006, `connect ${error}`, { error }); }
  message(value) { this.input("received", JSON.stringify(value)); }
  text(text) { this.input("received", text); }
  binary(head, base64) { this.input("received", new Uint8Array([...Buffer.from(`${JSON.stringify(head)}\n`), ...Buffer.from(base64, "base64")]).buffer); }
  end(code, reason = "") { this.input("closed", code, reason); }
  token(token) {
    const one = this.asked.at(-1);
    if (one.isRenewal) one.resolve(textOf(token));
    else if (!one.isOver && this.input("dialed", textOf(token))) this.dialed(textOf(token));
  }
  late_token(number, token) { this.asked[number - 1].resolve?.(textOf(token)); }
  no_token(why) {
    const one = this.asked.at(-1);
    if (one.isRenewal) one.reject(new Error(why));
    else this.input("closed", 1006, why);
  }
  subscribe(label, names, options) { this.wants(label, (handler) => this.client.subscribe(names, handler, options)); }
  subscribe_candles(label, symbols, interval) { this.wants(label, (handler) => this.client.subscribeCandles(symbols, interval, handler)); }
  wants(label, subscribe) {
    const call = { got: [] };
    this.calls.set(label, call);
    call.sub = pure(() => subscribe((...args) => {
      if (call.fails) throw new Error("the handler fails");
      call.got.push(args[0]);
    }));
    call.sub.then((value) => (call.value = value), (error) => (call.error = error));
  }
  unsubscribe(label) { pure(() => this.calls.get(label).sub.unsubscribe()); }
  fails(label) { this.calls.get(label).fails = true; }
  together(steps) { for (const [verb, ...args] of steps) this[verb](...args); }
  call(label, method, ...args) {
    const abort = new AbortController(), call = { abort };
    this.calls.set(label, call);
    pure(() => this.client[method](...args, { signal: abort.signal })).then((value) => (call.value = value), (error) => (call.error = error));
  }
  abort(label) { this.calls.get(label).abort.abort(); }
  close(...args) { pure(() => this.client.close(...args)); }
  reconnect() { pure(() => this.client.reconnect()); }

  // ---- Expectations
  send(data, isSent) { assert.equal(pure(() => this.client.send(data)), isSent); }
  attempts_(count) { assert.equal(this.attempts, count); }
  async next_attempt(ms) {
    const { attempts } = this, since = this.now;
    for (let n = 0; this.attempts === attempts; n += 1) {
      assert.ok(n < 1000 && this.nextAt() < Infinity, "no timer makes an attempt");
      await this.advance(Math.max(this.now, this.nextAt()));
    }
    assert.ok(Math.abs(this.asked.at(-1).at - since - ms) < 0.01, `${this.now - since} ms, not ${ms}`);
  }
  dropped(...wanted) { assert.deepEqual(this.dropped_, wanted); }
  sent(given) {
    const wanted = given.map((one) => (one.token ? { ...one, token: textOf(one.token) } : one));
    assert.deepEqual(this.sentTexts.splice(0).map((text) => (typeof wanted[0] === "string" ? text : JSON.parse(text))), wanted);
  }
  events(wanted) { assert.deepEqual(this.told.splice(0), wanted); }
  throws(names) { assert.throws(() => pure(() => this.client.subscribe(names))); }
  handled(label, wanted) { assert.deepEqual(this.calls.get(label).got.splice(0).map(shown), wanted); }
  token_used(token) { assert.equal(this.used.at(-1), textOf(token)); }
  query(name, wanted) { assert.equal(this.client.query[name]?.toString() ?? null, wanted?.toString() ?? null); }
  device_id(id) { assert.equal(this.client.query.device_id ?? null, id); }
}

for (const file of readdirSync(folder).filter((name) => name.endsWith(".json"))) {
  for (const one of JSON.parse(readFileSync(new URL(file, folder), "utf8")).cases) {
    test(`${file}: ${one.name}`, async () => {
      const run = new Run(one);
      await run.rest();
      for (const [number, [verb, ...args]] of one.steps.entries()) {
        try {
          await run[verb === "attempts" ? "attempts_" : verb](...args);
          await run.rest();
          if (verb !== "sleep") await run.advance(run.now);
        } catch (error) {
          error.message = `step ${number + 1}, ${JSON.stringify([verb, ...args])}: ${error.message}`;
          throw error;
        }
      }
      run.close();
      assert.equal(run.nextAt(), Infinity, "no timer is left");
    });
  }
}
