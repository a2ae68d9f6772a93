// A world under control of the test: virtual time, chosen random numbers, sockets that a test opens, feeds and breaks, and
// the events of a browser's window and document.

import { settled } from "./expectations.mjs";

export const sockets = [];

class FakeSocket {
  readyState = 0;
  sent = [];
  constructor(url, protocols) {
    Object.assign(this, { url, protocols, at: world.now });
    sockets.push(this);
  }
  /** Like the package ws: the HTTP response of a refused handshake. */
  on(name, call) {
    this.heard = { ...this.heard, [name]: call };
  }
  refuse(statusCode, headers = {}) {
    this.heard["unexpected-response"]({}, { statusCode, headers });
  }
  open() {
    this.readyState = 1;
    this.onopen?.({});
  }
  message(data) {
    this.onmessage?.({ data: typeof data === "string" || data instanceof ArrayBuffer ? data : JSON.stringify(data) });
  }
  /** The server or the network ends the connection, or the handshake fails. */
  end(code = 1006, reason = "", fault = {}) {
    this.readyState = 3;
    this.onerror?.(fault);
    this.onclose?.({ code, reason });
  }
  send(data) {
    this.sent.push(data);
  }
  close(code, reason) {
    this.readyState = 2;
    this.closedWith = [code, reason];
  }
}

/** The window or the document. Node's EventTarget compares a new listener with all others, which takes a crowd of clients minutes. */
class FakeTarget {
  #listeners = new Map();
  addEventListener(name, call) {
    if (!this.#listeners.has(name)) this.#listeners.set(name, new Set());
    this.#listeners.get(name).add(call);
  }
  removeEventListener(name, call) {
    this.#listeners.get(name)?.delete(call);
  }
  dispatchEvent(event) {
    for (const call of [...(this.#listeners.get(event.type) ?? [])]) call(event);
  }
}

export const world = {
  now: 0,
  /** Advance of the monotonic clock at each read, and how much too early timers fire. */
  readMs: 0,
  earlyMs: 0,
  /** Lead of Date.now() over the monotonic clock. */
  wallOffset: 1.7e12,
  /** The next random numbers, the last repeated; or a function. */
  random: 0.5,
  timers: new Map(),
  window: null,
  document: null,
};

/** Runs `test` inside the world; the real globals are back afterwards. An async test may await promises, not time. */
export function inWorld(test) {
  return () => {
    const leave = enter();
    let running;
    try {
      running = test();
    } catch (error) {
      leave();
      throw error;
    }
    if (running) return running.finally(leave);
    leave();
  };
}

function enter() {
  Object.assign(world, { now: 1000, readMs: 0, earlyMs: 0, wallOffset: 1.7e12, random: 0.5, timers: new Map(), window: new FakeTarget() });
  world.document = Object.assign(new FakeTarget(), { hidden: false });
  sockets.length = 0;
  let made = 0;
  const fakes = {
    performance: { now: () => (world.now += world.readMs) },
    setTimeout: (call, ms) => {
      made += 1;
      world.timers.set(made, { at: world.now + Math.max(0, ms - world.earlyMs), call });
      return made;
    },
    clearTimeout: (id) => world.timers.delete(id),
    document: world.document,
    addEventListener: (...args) => world.window.addEventListener(...args),
    removeEventListener: (...args) => world.window.removeEventListener(...args),
    WebSocket: FakeSocket,
  };
  const real = Object.keys(fakes).map((name) => [name, Object.getOwnPropertyDescriptor(globalThis, name)]);
  const { now } = Date, { random } = Math;
  for (const [name, value] of Object.entries(fakes)) Object.defineProperty(globalThis, name, { value, configurable: true, writable: true });
  Date.now = () => world.now + world.wallOffset;
  Math.random = () => {
    if (typeof world.random === "function") return world.random();
    return Array.isArray(world.random) ? (world.random.length > 1 ? world.random.shift() : world.random[0]) : world.random;
  };
  return () => {
    Object.assign(Date, { now });
    Object.assign(Math, { random });
    for (const [name, was] of real) {
      if (was) Object.defineProperty(globalThis, name, was);
      else delete globalThis[name];
    }
  };
}

/** Lets time pass; due timers fire in order. */
export function pass(ms) {
  const end = world.now + ms;
  for (;;) {
    const due = [...world.timers].filter(([, timer]) => timer.at <= end).sort((a, b) => a[1].at - b[1].at)[0];
    if (!due) break;
    const [id, { at, call }] = due;
    world.timers.delete(id);
    world.now = Math.max(world.now, at);
    call();
  }
  world.now = end;
}

/** Lets time pass; after each timer, all due promises run. */
export async function passSettled(ms) {
  const end = world.now + ms;
  for (;;) {
    const due = Math.min(...[...world.timers.values()].map(({ at }) => at));
    pass(Math.max(0, Math.min(due, end) - world.now));
    await settled();
    if (!(due <= end)) return;
  }
}

/** Lets time pass for thousands of timers: in steps of a millisecond, each with a check of all timers. */
export function passInSteps(ms) {
  for (const end = world.now + ms; world.now < end; world.now += 1) {
    const due = [];
    for (const [id, { at }] of world.timers) if (at <= world.now) due.push(id);
    for (const id of due) {
      const call = world.timers.get(id)?.call;
      world.timers.delete(id);
      call?.();
    }
  }
}

/** Lets time pass until the next socket is made; returns the time in ms. */
export function nextAttempt() {
  const { length } = sockets, since = world.now;
  for (let ms = 0; ms < 10_000_000 && sockets.length === length; ms += 50) pass(50);
  return latest().at - since;
}

/** The machine sleeps: no timer fires meanwhile. Some systems' monotonic clocks stand still in sleep. */
export function sleep(ms, clockStands) {
  if (clockStands) {
    world.wallOffset += ms;
  } else {
    world.now += ms;
  }
}

export const latest = () => sockets[sockets.length - 1];

/** The same numbers in each run (mulberry32). */
export function seeded(seed) {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}
