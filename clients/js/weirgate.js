// Options, events, fields and methods: in the .d.ts of each module.

const DEFAULTS = {
  staleMs: 3_000,
  silenceMs: 30_000,
  handshakeMs: 10_000,
  stableMs: 5_000,
  backoffMinMs: 300,
  backoffMaxMs: 15_000,
  requestMs: 10_000,
  queueMax: 10_000,
};

/** An orderly stop of the server: no failure. */
const LEAVES = new Set([1001, 1012]);
/** Another instance reads the bus independently, and may be some milliseconds behind. */
const SETTLE_MS = 100;
/** "Try again later" (1013). */
const LATER_MS = 2_000;
/** Longest wait for a server. */
const RETRY_AFTER_MAX_MS = 300_000;
/** A new attempt would fail again. */
const FINAL = new Set([1002, 1003, 1007, 1008, 1009, 1010]);
/** A refused handshake with status 4xx is final, except for these. */
const PASSING = new Set([408, 425, 429]);
/** With a timer so late, or a clock so far off, the machine was asleep. */
const ASLEEP_MS = 5_000;
const SILENCE_DOUBLINGS_MAX = 4;

export const connect = (url, options) => new Connection(url, options);

export class RequestError extends Error {
  constructor(code, message = code, details = null) {
    super(message);
    Object.assign(this, { name: "RequestError", code, details });
  }
}

export class Connection extends EventTarget {
  status = "connecting";
  lastClose = null;
  reconnects = 0;
  retryAt = 0;
  end;
  parse = JSON.parse;

  #url;
  #socket = null;
  // The current attempt: tokens of older attempts are not used.
  #attempting = null;
  #timer;
  #dueAt = Infinity;
  #clockOffset = 0;
  #attempt = 0;
  // Of the newest attempt.
  #token;
  // The refused token, and the close that refused it.
  #refused = null;
  #lostAt = 0;
  #everOpen = false;
  #startedAt = null;
  #openedAt = null;
  // Times of the last message, and of the last new message.
  #heardAt = 0;
  #freshAt = -Infinity;
  #silences = 0;
  #silenceMs = 0;
  #answerBy = Infinity;
  #isFirst = true;
  #last;

  constructor(url, options) {
    super();
    this.#url = url;
    this.options = { ...DEFAULTS, ...options };
    if (this.options.signal?.aborted) {
      this.status = "closed";
      this.end = null;
      return;
    }
    this.#open();
    this.#watch(true);
  }

  close(code = 1000, reason = "") {
    this.#forget(code, reason);
    clearTimeout(this.#timer);
    this.#watch(false);
    this.end = null;
    this.#become("closed");
  }

  reconnect() {
    this.#attempt = 0;
    this.#refused = null;
    this.#watch(true);
    this.#again();
  }

  send(data) {
    if (this.#openedAt === null || this.#socket?.readyState !== 1) return false;
    this.#socket.send(data);
    return true;
  }

  iterate(type = this.kind, source = this) {
    const inbox = { queue: [] };
    const take = (event) => {
      const { queue } = inbox;
      if (event.type === type) {
        if (type === "state") queue.length = 0;
        inbox.isLate ||= queue.length >= this.options.queueMax;
        if (!inbox.isLate) queue.push(event.detail);
      }
      inbox.wake?.();
    };
    const names = [type, "status"];
    for (const name of names) source.addEventListener(name, take);
    return this.#take(source, inbox, () => names.forEach((name) => source.removeEventListener(name, take)));
  }

  async *#take(source, inbox, off) {
    try {
      for (;;) {
        if (inbox.queue.length) yield inbox.queue.shift();
        else if (inbox.isLate) throw new RequestError("late");
        else if (source.end) throw source.end;
        else if (source.end === null) return;
        else await new Promise((go) => (inbox.wake = go));
      }
    } finally {
      off();
    }
  }

  [Symbol.asyncIterator]() {
    return this.iterate();
  }

  get kind() {
    return "message";
  }
  get query() {
    const { deviceId, maxHz, payload } = this.options;
    return { device_id: deviceId, max_hz: maxHz, payload };
  }
  opened() {}
  changed() {}
  receive(state, kept) {
    this.emit("state", state, { kept });
  }
  probe() {
    return 0;
  }

  emit(type, detail, more = {}) {
    this.options[`on${type[0].toUpperCase()}${type.slice(1)}`]?.(detail, ...Object.values(more));
    this.dispatchEvent(Object.assign(new Event(type), { detail }, more));
  }

  #open() {
    const { token, WebSocket = globalThis.WebSocket } = this.options;
    if (!WebSocket) throw new TypeError("no global WebSocket: pass the one of the package ws as option WebSocket");
    const url = this.#url, isFirst = this.#startedAt === null, mine = (this.#attempting = {});
    const isMine = () => mine === this.#attempting;
    const dial = (parts) => isMine() && this.#dial(WebSocket, ...parts);
    const failed = (error) => isMine() && this.#closed(1006, String(error));
    this.#startedAt = now();
    this.end = undefined;
    try {
      const parts = [valueOf(url), valueOf(token, { refused: !!this.#refused })];
      if (parts.some((part) => part?.then)) Promise.all(parts).then(dial).catch(failed);
      else dial(parts);
    } catch (error) {
      // An error at the start is for the caller.
      if (isFirst) throw error;
      return failed(error);
    }
    if (!isMine()) return;
    this.#become("connecting");
    this.#arm();
  }

  #dial(WebSocket, given, token) {
    // Only a new token may be admitted.
    if (this.#refused && token === this.#refused.token) return this.#finish(this.#refused.close);
    this.#token = token;
    const { protocols = [], tokenIn } = this.options;
    const url = new URL(given, globalThis.location?.href), offered = [protocols].flat();
    url.protocol = url.protocol.replace(/^http/, "ws");
    for (const [name, value] of Object.entries(this.query)) if (value) url.searchParams.set(name, value);
    // A subprotocol stays out of logs, but cannot hold every character.
    if (token && tokenIn !== "query" && /^[\w!#$%&'*+.^`|~-]+$/.test(token)) offered.unshift("bearer", token);
    else if (token) url.searchParams.set("token", token);
    const socket = new WebSocket(url.href, offered);
    let fault;
    this.#socket = socket;
    if (this.options.payload) socket.binaryType = "arraybuffer";
    socket.onopen = () => this.#opened(given, token);
    socket.onmessage = (event) => this.#message(event.data);
    socket.onclose = ({ code, reason }) => {
      const error = fault?.error?.code;
      this.#closed(code, reason || fault?.message || error || "", error && { error });
    };
    // Browsers hide why a handshake failed. Node has the error, the package ws the response.
    socket.onerror = (event) => {
      fault = event;
      // Node's own WebSocket may omit the close event of a failed handshake.
      if (this.#openedAt === null) socket.onclose?.({ code: 1006 });
    };
    socket.on?.("unexpected-response", (_, { statusCode: status, headers }) => {
      const retryAfterMs = 1_000 * headers["retry-after"] || 0;
      if (socket === this.#socket) this.#closed(1006, `HTTP status ${status}`, { status, retryAfterMs });
    });
  }

  #opened(...as) {
    const at = (this.#openedAt = this.#heardAt = now());
    this.#silenceMs = this.options.silenceMs * 2 ** this.#silences * (1 + Math.random());
    this.#answerBy = Infinity;
    this.#isFirst = true;
    if (this.#everOpen) this.reconnects += 1;
    else this.#freshAt = at;
    this.#everOpen = true;
    this.opened(...as);
    this.#become(this.#isStale(at) ? "stale" : "open");
    this.#arm();
    if (this.#socket) this.emit("open", this);
  }

  #message(data) {
    this.#heardAt = now();
    this.#answerBy = Infinity;
    // The first message is the kept state, perhaps the same as before.
    const isKept = this.#isFirst && data === this.#last;
    this.#isFirst = false;
    this.#last = data;
    if (!isKept) {
      this.#freshAt = this.#heardAt;
      this.#silences = 0;
      this.refresh();
    }
    this.emit("message", data, { kept: isKept });
    const isTyped = this.kind !== "message";
    if (!this.#socket || !(isTyped || this.options.onState)) return;
    let state;
    try {
      state = this.parse(data);
      if (isTyped && (Object(state) !== state || Array.isArray(state))) throw new TypeError("not an object");
    } catch (error) {
      return this.emit("bad", error, { data });
    }
    this.receive(state, isKept);
  }

  #closed(code, reason, more) {
    const at = now();
    const opened = this.#openedAt !== null;
    const stood = opened && at - this.#openedAt >= this.options.stableMs;
    if (stood || LEAVES.has(code)) this.#attempt = 0;
    if (stood) this.#refused = null;
    if (this.#attempt === 0) this.#lostAt = at;
    this.#forget();
    const retryAfterMs = Number(/\bretry_after_ms=(\d+)$/.exec(reason)?.[1] ?? 0);
    const close = { code, reason, opened, attempt: this.#attempt, retryAfterMs, ...more };
    this.lastClose = close;
    const wait = this.options.retry?.(close) ?? this.#delay(close);
    if (wait === false) return this.#finish(close);
    this.#attempt += 1;
    this.retryAt = at + wait;
    this.#become("waiting");
    this.#arm();
  }

  /** The end for good. */
  #finish(close) {
    this.#forget();
    this.end = new RequestError("closed", `${close.code} ${close.reason}`, close);
    clearTimeout(this.#timer);
    this.#become("closed");
  }

  /** Full jitter: all clients lost the same server at once. At most the time since the loss: a short loss is over soon. */
  #delay(close) {
    const { code, reason, opened, attempt, status = 0, retryAfterMs = 0 } = close;
    const { backoffMinMs, backoffMaxMs, token } = this.options;
    // An operator has cut the client off, and the new token too.
    const isCut = reason === "revoked" && this.#refused?.close.reason === reason;
    // A new token may be admitted.
    if (typeof token === "function" && !isCut && (code === 1008 || status === 401)) this.#refused = { token: this.#token, close };
    else if (FINAL.has(code) || (status >= 400 && status < 500 && !PASSING.has(status))) return false;
    // A failed handshake may be a 503, hidden from scripts: never retried at once.
    const least = code === 1013 ? LATER_MS : opened ? SETTLE_MS : backoffMinMs;
    const away = Math.max(backoffMinMs, now() - this.#lostAt);
    return Math.max(least, Math.min(retryAfterMs, RETRY_AFTER_MAX_MS)) + Math.random() * Math.min(backoffMaxMs, backoffMinMs * 2 ** attempt, away);
  }

  /** Drops the socket without its close event. */
  #forget(code = 1000, reason = "") {
    const socket = this.#socket;
    this.#socket = this.#openedAt = this.#attempting = null;
    if (!socket) return;
    socket.onopen = socket.onmessage = socket.onclose = null;
    if (socket.readyState < 2) socket.close(code, reason);
  }

  /** A new connection at once; `why`: the fault of the old connection. */
  #again(why) {
    if (why) this.lastClose = { code: 1006, reason: why, opened: true, attempt: this.#attempt };
    this.#forget();
    this.#open();
  }

  #silentAt() {
    return this.#silenceMs > 0 && this.#answerBy === Infinity ? this.#heardAt + this.#silenceMs : Infinity;
  }

  /** A server whose bus is away has nothing new. */
  #isStale(at) {
    const { staleMs } = this.options;
    return this.bus === "away" || (staleMs > 0 && at - this.#freshAt >= staleMs);
  }

  refresh() {
    const status = this.#isStale(now()) ? "stale" : "open";
    if (this.#openedAt === null || status === this.status) return;
    this.#become(status);
    this.#arm();
  }

  /** Sets the timer to the next deadline; if a deadline moved back, the timer fires early and is set again. */
  #arm() {
    clearTimeout(this.#timer);
    if (this.status === "closed") return;
    const at = now();
    const { handshakeMs, staleMs } = this.options;
    if (this.status === "waiting") this.#dueAt = this.retryAt;
    else if (this.#openedAt === null) this.#dueAt = this.#startedAt + handshakeMs;
    else {
      // The status decides, not the clock: the deadline may have passed since the last read.
      const staleAt = staleMs > 0 && this.status === "open" ? this.#freshAt + staleMs : Infinity;
      this.#dueAt = Math.min(staleAt, this.#silentAt(), this.#answerBy);
    }
    this.#clockOffset = Date.now() - at;
    if (this.#dueAt < Infinity) this.#timer = setTimeout(() => this.#step(), Math.max(0, this.#dueAt - at));
  }

  #step() {
    const at = now();
    if (this.status === "waiting") {
      if (at >= this.retryAt) return this.#open();
    } else if (this.#openedAt === null) {
      if (at >= this.#dueAt) return this.#closed(1006, "no answer to the handshake");
    } else {
      if (at >= this.#answerBy) return this.#again("no sign of life");
      if (at >= this.#silentAt()) {
        const probeMs = this.probe();
        if (probeMs) {
          this.#answerBy = at + probeMs;
          return this.#arm();
        }
        this.#silences = Math.min(this.#silences + 1, SILENCE_DOUBLINGS_MAX);
        return this.#again("silent");
      }
      if (this.status === "open" && this.#isStale(at)) this.#become("stale");
      // A clock change looks the same; the next message settles the doubt.
      const drift = Math.abs(Date.now() - at - this.#clockOffset);
      if (Math.max(at - this.#dueAt, drift) > ASLEEP_MS) return this.#check();
    }
    this.#arm();
  }

  /** The tab woke, the network came or went: wait for a sign of life, because a dead link says nothing. */
  #check = (event) => {
    const at = now();
    const { staleMs } = this.options;
    if (this.status === "closed" || (event?.type === "visibilitychange" && document.hidden)) return;
    if (this.status === "waiting" && event?.type !== "offline") return this.#open();
    if (this.#openedAt === null) return this.#arm();
    const probeMs = this.probe();
    if (!probeMs) {
      if (staleMs <= 0) return this.#arm();
      if (at - this.#heardAt >= staleMs) return this.#again("silent");
    }
    this.#answerBy = Math.min(this.#answerBy, at + (probeMs || staleMs));
    this.#arm();
  };

  #abort = () => this.close();

  #watch(on) {
    const change = on ? "addEventListener" : "removeEventListener";
    this.options.signal?.[change]("abort", this.#abort);
    globalThis.document?.[change]?.("visibilitychange", this.#check);
    for (const name of ["online", "offline", "pageshow"]) globalThis[change]?.(name, this.#check);
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

const now = () => performance.now();
const valueOf = (given, ...about) => (typeof given === "function" ? given(...about) : given);
