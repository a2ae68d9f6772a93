// Options, events, fields and methods: in the .d.ts of each module.

import { within } from "./wait.js";

/** A timer so late: the machine slept, or a long task blocked the event loop. */
const ASLEEP_MS = 5_000;
/** Until the socket's events of such a time have come. */
const CATCH_UP_MS = 500;

/** A program may throw what has no text. */
const textOf = (given) => {
  try {
    return String(given);
  } catch {
    return "an error without text";
  }
};

export class RequestError extends Error {
  constructor(code, message = code, details = null) {
    super(textOf(message));
    Object.assign(this, { name: "RequestError", code, details });
  }
}

/**
 * The rules, pure: no clock, timer, socket or global. A driver reports what happens with `input`, and carries out the outputs
 * behind the step: what the program does then, or throws, can break nothing.
 */
export class Connection {
  status = "connecting";
  lastClose = null;
  reconnects = 0;
  retryAt = 0;
  end;

  #listeners = [];
  #outputs = [];
  #isBusy = false;
  // The connection or the attempt: when it opened, when a message came, and what ends the wait for another.
  #link = null;
  #attempt = 0;
  // Of the newest attempt; then the refused token, and the close that refused it.
  #token;
  #refused = null;
  #lostAt = 0;
  // Time of the last new message.
  #freshAt = -Infinity;
  #silences = 0;
  #last;

  constructor(url, options, makeDriver = drive) {
    this.options = {
      staleMs: 3_000,
      silenceMs: 30_000,
      handshakeMs: 10_000,
      stableMs: 5_000,
      backoffMinMs: 300,
      backoffMaxMs: 15_000,
      queueMax: 10_000,
      ...options,
    };
    this.driver = makeDriver(this, url);
    if (!this.options.signal?.aborted) this.input("again");
    else Object.assign(this, { status: "closed", end: null });
  }

  input(what, ...args) {
    const { driver } = this;
    this.now = driver.now();
    if (this.#isBusy) return this[what](...args);
    this.#isBusy = true;
    try {
      const result = this[what](...args);
      for (let output; (output = this.#outputs.shift()); ) driver[output[0]](...output.slice(1));
      driver.arm(this.#dueAt);
      return result;
    } finally {
      this.#isBusy = false;
    }
  }

  close(...how) {
    // No event of before follows the end.
    this.#outputs = this.#outputs.filter(([kind]) => kind !== "emit" && kind !== "attempt");
    this.input("finish", null, ...how);
  }

  reconnect() {
    this.#attempt = 0;
    this.#refused = null;
    this.input("again");
  }

  send(data) {
    return this.isOpen && this.driver.isReady() && this.input("put", "send", data);
  }

  addEventListener(type, listener, { once, signal } = {}) {
    const off = () => this.removeEventListener(type, listener);
    off();
    signal?.addEventListener("abort", off);
    if (listener && !signal?.aborted) this.#listeners = this.#listeners.concat({ type, listener, off: once && off });
  }

  removeEventListener(type, listener) {
    this.#listeners = this.#listeners.filter((one) => one.type !== type || one.listener !== listener);
  }

  hears(type) {
    return this.#listeners.some((one) => one.type === type);
  }

  dispatchEvent(event) {
    for (const one of this.#listeners) {
      const { type, listener, off } = one;
      // A listener before it may have removed this one.
      if (type !== event.type || !this.#listeners.includes(one)) continue;
      off?.();
      this.driver.attempt(() => (listener.handleEvent ?? listener).call(listener, event));
    }
    return true;
  }

  iterate(type = this.kind, source = this) {
    const queue = [];
    let wake, late;
    const take = (event) => {
      if (event.type === type && "detail" in event) {
        if (type === "state") queue.length = 0;
        if (queue.length >= this.options.queueMax) late = new RequestError("late");
        if (!late) queue.push(event.detail);
      }
      wake?.();
    };
    const watch = (change) => {
      for (const name of [type, "status"]) this[change](name, take);
    };
    watch("addEventListener");
    return (async function* () {
      try {
        let end;
        while (queue.length || (end = late ?? source.end) === undefined) {
          if (queue.length) yield queue.shift();
          else await new Promise((go) => (wake = go));
        }
        if (end) throw end;
      } finally {
        watch("removeEventListener");
      }
    })();
  }

  [Symbol.asyncIterator]() {
    return this.iterate();
  }

  // For typed clients.
  get kind() {
    return "message";
  }
  get query() {
    return { max_hz: this.options.maxHz };
  }
  get isOpen() {
    return this.#link?.openedAt >= 0;
  }
  opened() {}
  changed() {}
  parse(data) {
    return JSON.parse(data);
  }
  receive(state, kept) {
    this.emit("state", state, { kept });
  }
  probe() {
    return 0;
  }
  run(call, ...args) {
    return call(...args);
  }
  within(ms, call) {
    return within(ms, call, this.driver);
  }
  put(...output) {
    return this.#outputs.push(output) > 0;
  }
  emit(type, detail, more) {
    this.put("emit", type, detail, more);
  }
  /** A server whose bus is away has nothing new. */
  refresh() {
    if (this.isOpen) this.#become(this.bus === "away" || this.now >= this.#staleAt ? "stale" : "open");
  }

  // Inputs.
  /** The token of an attempt; false if there is nothing to attempt. */
  dialed(token) {
    this.#token = token;
    // Only a new token may be admitted.
    if (this.#refused && token === this.#refused.token) this.finish(this.#refused.close);
    return !!this.#link;
  }

  /** With this address and token, and whether the connection takes new tokens. */
  connected(...as) {
    const { now, options, driver } = this, silenceMs = options.silenceMs * 2 ** this.#silences * (1 + driver.random());
    Object.assign(this.#link, { openedAt: now, heardAt: now, silenceMs });
    this.#answered();
    if (this.#freshAt < 0) this.#freshAt = now;
    else this.reconnects += 1;
    this.opened(...as);
    this.refresh();
    this.emit("open");
  }

  received(data) {
    const { now } = this, link = this.#link, isTyped = this.kind !== "message", kept = link.isFirst && data === this.#last;
    // The first message is the kept state, perhaps the same as before.
    link.heardAt = now;
    this.#answered();
    link.isFirst = false;
    this.#last = data;
    if (!kept) {
      this.#freshAt = now;
      this.#silences = 0;
      this.refresh();
    }
    this.emit("message", data, { kept });
    if (!isTyped && !this.options.onState) return;
    try {
      const state = this.parse(data);
      if (isTyped && (Object(state) !== state || Array.isArray(state))) throw new TypeError("not an object");
      this.receive(state, kept);
    } catch (error) {
      this.emit("bad", error, { data });
    }
  }

  closed(code, reason, more) {
    // A function of the program has closed the client, and then failed.
    if (!this.#link) return;
    const { now, isOpen: opened } = this, stood = now - this.#link.openedAt >= this.options.stableMs;
    // An orderly stop of the server is no failure.
    if (stood || code === 1001 || code === 1012) this.#attempt = 0;
    if (stood) this.#refused = null;
    if (!this.#attempt) this.#lostAt = now;
    this.#forget();
    const retryAfterMs = +/\bretry_after_ms=(\d+)$|$/.exec(reason)[1] || 0;
    const close = (this.lastClose = { code, reason, opened, attempt: this.#attempt, retryAfterMs, ...more });
    let given;
    try {
      given = this.options.retry?.(close);
    } catch (error) {
      this.put("report", error);
    }
    // A promise is no wait, and may fail.
    if (given?.then) this.put("attempt", () => given);
    // `retry` has called `close` or `reconnect`.
    if (this.#link || this.status === "closed") return;
    const wait = given === false || (typeof given === "number" && !isNaN(given)) ? given : this.#delay(close);
    if (wait === false) return this.finish(close);
    this.#attempt += 1;
    this.retryAt = now + Math.max(0, wait);
    this.#become("waiting");
  }

  timer(lateMs) {
    const { now } = this, isLate = lateMs > ASLEEP_MS;
    if (now >= this.#dueAt) {
      if (!this.#link) return this.again();
      if (now >= this.#silentAt && !isLate) {
        const probeMs = this.probe();
        if (!probeMs) {
          this.#silences = Math.min(this.#silences + 1, 4);
          return this.again("silent");
        }
        this.#await(probeMs);
      }
      this.refresh();
    }
    // A clock change looks the same; the next message settles the doubt.
    if (this.isOpen && isLate) this.check(true, isLate);
  }

  /** The tab woke, the network came or went: wait for a sign of life, because a dead link says nothing. */
  check(isOffline, isLate = this.now - this.#dueAt > ASLEEP_MS) {
    if (this.status === "waiting" && !isOffline) this.again();
    else if (this.isOpen) {
      const probeMs = this.probe(), waitMs = probeMs || this.options.staleMs;
      const isSilent = !probeMs && this.now - this.#link.heardAt >= waitMs;
      if (!(waitMs > 0)) return;
      // What has come in such a time is not read yet.
      if (isSilent && !isLate) this.again("silent");
      else this.#await(isSilent ? CATCH_UP_MS : waitMs);
    }
  }

  /** A new connection at once; `why`: the fault of the old connection. */
  again(why) {
    if (why) this.lastClose = { code: 1006, reason: why, opened: true, attempt: this.#attempt };
    this.#forget();
    this.#link = { isFirst: true };
    this.#await(this.options.handshakeMs);
    this.end = undefined;
    this.put("dial", { refused: !!this.#refused });
    this.#become("connecting");
  }

  /** The end for good; with the close of a refusal. */
  finish(close, ...how) {
    this.#forget(...how);
    this.end = close && new RequestError("closed", `${close.code} ${close.reason}`, close);
    this.#become("closed");
  }

  /** The answer to the handshake, or a sign of life. */
  #await(ms) {
    const over = () => (this.isOpen ? this.again("no sign of life") : this.closed(1006, "no answer to the handshake"));
    this.#link.answered ??= this.within(ms, over);
  }

  #answered() {
    this.#link.answered?.();
    this.#link.answered = undefined;
  }

  #forget(...how) {
    if (this.#link) {
      this.#answered();
      this.put("drop", ...how);
    }
    this.#link = null;
  }

  get #dueAt() {
    const { status } = this;
    if (!this.#link) return status === "waiting" ? this.retryAt : Infinity;
    return Math.min(this.#silentAt, status === "open" ? this.#staleAt : Infinity);
  }

  get #staleAt() {
    const { staleMs } = this.options;
    return staleMs > 0 ? this.#freshAt + staleMs : Infinity;
  }

  get #silentAt() {
    const { silenceMs, answered, heardAt } = this.#link;
    return silenceMs > 0 && !answered ? heardAt + silenceMs : Infinity;
  }

  /** Full jitter: all clients lost the same server at once. At most the time since the loss: a short loss is over soon. */
  #delay(close) {
    const { code, reason, opened, attempt, status, retryAfterMs } = close, { backoffMinMs, backoffMaxMs, token } = this.options;
    // An operator has cut the client off, and the new token too.
    const isCut = reason === "revoked" && this.#refused?.close.reason === reason;
    // A new token may be admitted; anything else would fail again.
    if (typeof token === "function" && !isCut && (code === 1008 || status === 401)) this.#refused = { token: this.#token, close };
    else if (/^10(0[23789]|10)$/.test(code) || /^4(?!08|25|29)/.test(status)) return false;
    // "Try again later" (1013). Another instance may be some milliseconds behind. A failed handshake may be a hidden 503.
    const least = code === 1013 ? 2_000 : opened ? 100 : backoffMinMs;
    const window = Math.min(backoffMaxMs, backoffMinMs * 2 ** attempt, Math.max(backoffMinMs, this.now - this.#lostAt));
    return Math.max(least, Math.min(retryAfterMs, 300_000)) + this.driver.random() * window;
  }

  #become(status) {
    if (status === this.status) return;
    this.status = status;
    this.changed(status);
    this.emit("status", status, { connection: this });
  }
}

export class Levels extends Connection {
  state = null;
  #seq;

  get kind() {
    return "state";
  }
  opened() {
    this.#seq = undefined;
  }
  receive(state, kept) {
    const first = this.#seq + 1, { seq } = state;
    if (seq > first) this.emit("gap", { first, last: seq - 1 });
    this.#seq = seq;
    this.state = state;
    super.receive(state, kept);
  }
}

export const connect = (url, options) => new Connection(url, options);

/** Clock, timers and WebSocket of the engine. */
function drive(client, url) {
  const { options } = client;
  // The newest attempt, with its socket.
  let current, alarm, armedAt = Infinity, isStart = true;

  const look = ({ type }) => {
    if (type === "abort") client.close();
    else if (type !== "visibilitychange" || !document.hidden) client.input("check", type === "offline");
  };
  const watch = (change) => {
    options.signal?.[change]("abort", look);
    globalThis.document?.[change]?.("visibilitychange", look);
    for (const name of ["online", "offline", "pageshow"]) globalThis[change]?.(name, look);
  };
  const open = (mine, given, token) => {
    const tell = (...event) => mine === current && client.input(...event);
    const { protocols = [], tokenIn, WebSocket = globalThis.WebSocket } = options, offered = [protocols].flat();
    if (!WebSocket) throw new TypeError("pass the package ws as option WebSocket");
    if (!client.input("dialed", token)) return;
    // A subprotocol stays out of logs, but cannot hold every character.
    const isOffered = token && tokenIn !== "query" && /^[\w!#$%&'*+.^`|~-]+$/.test(token);
    if (isOffered) offered.unshift("bearer", token);
    const socket = (mine.socket = new WebSocket(addressOf(given, { ...client.query, token: !isOffered && token }), offered));
    let fault;
    socket.binaryType = "arraybuffer";
    socket.onopen = () => tell("connected", given, token, socket.takesTokens);
    socket.onmessage = ({ data }) => tell("received", data);
    socket.onclose = ({ code, reason }) => {
      const error = fault?.error?.code;
      tell("closed", code, reason || fault?.message || error || "", error && { error });
    };
    // Browsers hide why a handshake failed. Node has the error, the package ws the response.
    socket.onerror = (event) => {
      fault = event;
      // Node's own WebSocket may omit the close event of a failed handshake.
      if (!client.isOpen) socket.onclose({ code: 1006 });
    };
    socket.on?.("unexpected-response", (_, { statusCode: status, headers }) => {
      tell("closed", 1006, `HTTP status ${status}`, { status, retryAfterMs: 1_000 * headers["retry-after"] || 0 });
    });
  };
  const callback = (type) => options[`on${type[0].toUpperCase()}${type.slice(1)}`];
  const driver = {
    now,
    random: Math.random,
    isReady: () => current?.socket?.readyState === 1,
    dial(about) {
      const { token } = options, isFirst = isStart, mine = (current = {});
      isStart = false;
      // Tokens of older attempts are not used.
      const use = (parts) => mine === current && open(mine, ...parts);
      const failed = (error) => {
        if (mine !== current) return;
        const why = textOf(error);
        // Perhaps of the program, and no network. Once in a row.
        if (why !== client.lastClose?.reason) driver.log(error);
        client.input("closed", 1006, why);
      };
      try {
        const parts = [typeof url === "function" ? url() : url, typeof token === "function" ? token(about) : token];
        if (parts.some((part) => part?.then)) Promise.all(parts).then(use).catch(failed);
        else use(parts);
      } catch (error) {
        // An error at the start is for the caller.
        if (isFirst) {
          client.close();
          throw error;
        }
        failed(error);
      }
      watch("addEventListener");
    },
    /** Without a close event. */
    drop(code = 1000, reason = "") {
      const { socket } = current;
      current = {};
      const failed = (error) => {
        driver.report(error);
        // No code or reason of a WebSocket.
        driver.attempt(() => socket.close(), () => {});
      };
      if (socket?.readyState < 2) driver.attempt(() => socket.close(code, reason), failed);
    },
    send: (data) => driver.attempt(() => current.socket?.send(data)),
    emit(type, detail = client, more = {}) {
      driver.attempt(() => callback(type)?.call(options, detail, ...Object.values(more)));
      client.dispatchEvent({ type, target: client, detail, ...more });
    },
    log: (error) => console.error(error),
    /** What nobody may have heard of. */
    warn: (text, type = "error") => callback(type) || client.hears(type) || console.warn(text),
    // Deno and Bun, which have a process as Node has, would end it.
    report: (error) => (globalThis.reportError && !globalThis.process ? reportError(error) : driver.log(error)),
    /** Calls a function of the program: a failure changes nothing. */
    attempt(call, failed = driver.report) {
      try {
        const result = call();
        if (result instanceof Promise) result.catch(failed);
      } catch (error) {
        failed(error);
      }
    },
    // A longer timer would fire at once.
    after: (ms, call) => setTimeout(() => client.input("run", call), Math.min(ms, 2e9)),
    cancel: (alarm) => clearTimeout(alarm),
    arm(dueAt) {
      // If the deadline moves back, the timer fires early and is set again.
      if (armedAt <= dueAt && dueAt < Infinity) return;
      clearTimeout(alarm);
      armedAt = dueAt;
      const ms = Math.max(0, dueAt - now()), begin = Date.now();
      const fire = () => {
        armedAt = Infinity;
        client.timer(Date.now() - begin - ms);
      };
      if (ms < Infinity) alarm = driver.after(ms, fire);
      else if (client.status === "closed") watch("removeEventListener");
    },
  };
  return driver;
}

/** As text: not every engine has the whole of `URL`. */
function addressOf(given, query) {
  const page = globalThis.location?.href;
  let url = (page ? new URL(given, page).href : `${given}`).replace(/^http/i, "ws").replace(/#.*/, "");
  // In a page, 127.0.0.1:80 would be the name of a file.
  if (!/^wss?:/i.test(url) || /^[\d[][^/?]*:/.test(given)) throw new TypeError(`no ws:// in ${given}`);
  for (const [name, value] of Object.entries(query)) {
    if (value) url = `${url.replace(RegExp(`([?&])${name}=[^&]*&?`), "$1")}${url.includes("?") ? "&" : "?"}${name}=${encodeURIComponent(value)}`;
  }
  return url;
}

const now = () => globalThis.performance?.now() ?? Date.now();
