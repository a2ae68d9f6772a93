// A WebSocket that stays: it comes back by itself, and says when its data is old.
//
// Never: keeps a message for later (the newest state comes first on every connection), sends what
// nobody asked for, or retries a connection that the server refused for good. Runs in browsers,
// workers and Node; needs nothing. What each option and field means is in weirgate.d.ts.

/** @typedef {import("./weirgate.d.ts").Options} Options */
/** @typedef {import("./weirgate.d.ts").Close} Close */

const DEFAULTS = {
  staleMs: 3_000,
  silenceMs: 30_000,
  handshakeMs: 10_000,
  stableMs: 5_000,
  backoffMinMs: 300,
  backoffMaxMs: 15_000,
};

/** The server leaves in good order: no failure, and another one or the next is there already. */
const LEAVES = new Set([1001, 1012]);
/** The other one reads the bus on its own, and may be some milliseconds behind. */
const SETTLE_MS = 100;
/** "Try again later" (1013). */
const LATER_MS = 2_000;
/** Would only happen again: this client broke a rule, or may not be here. */
const FINAL = new Set([1002, 1003, 1007, 1008, 1009, 1010]);
/** A timer so late, or a clock so far off, that the machine was asleep. */
const ASLEEP_MS = 5_000;
/** A feed that stays silent is asked at most this many times less often. */
const SILENCE_DOUBLINGS_MAX = 4;

/**
 * Connects, and stays connected until `close()`.
 * @param {string | URL | (() => string | URL)} url
 * @param {Options} [options]
 */
export function connect(url, options) {
  return new Connection(url, options);
}

export class Connection {
  /** @type {import("./weirgate.d.ts").Status} */
  status = "connecting";
  /** @type {Close | null} */
  lastClose = null;
  reconnects = 0;
  retryAt = 0;

  #url;
  /** @type {typeof DEFAULTS & Options} */
  #options;
  /** @type {WebSocket | null} */
  #socket = null;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;
  #dueAt = Infinity;
  #clockOffset = 0;
  #attempt = 0;
  #lostAt = 0;
  #everOpen = false;
  /** @type {number | null} */
  #startedAt = null;
  /** @type {number | null} */
  #openedAt = null;
  // When anything came, and when something new did: a repeated state makes nothing fresh.
  #heardAt = 0;
  #freshAt = -Infinity;
  #silences = 0;
  #silenceMs = 0;
  #answerBy = Infinity;
  #isFirst = true;
  /** @type {unknown} */
  #last;

  /**
   * @param {string | URL | (() => string | URL)} url
   * @param {Options} [options]
   */
  constructor(url, options) {
    this.#url = url;
    this.#options = { ...DEFAULTS, ...options };
    this.#open();
    this.#watch(true);
  }

  /** Ends it for good; `reconnect()` would start it again. */
  close(code = 1000, reason = "") {
    this.#forget(code, reason);
    clearTimeout(this.#timer);
    this.#watch(false);
    this.#become("closed");
  }

  /** A new connection at once, whatever the state of the old one. */
  reconnect() {
    this.#attempt = 0;
    this.#watch(true);
    this.#again();
  }

  /**
   * Sends now, or returns false where there is no open connection: nothing is kept for later.
   * @param {Parameters<WebSocket["send"]>[0]} data
   */
  send(data) {
    if (this.#openedAt === null || this.#socket?.readyState !== 1) return false;
    this.#socket.send(data);
    return true;
  }

  #open() {
    const { WebSocket = globalThis.WebSocket, protocols = [] } = this.#options;
    const isFirst = this.#startedAt === null;
    this.#startedAt = now();
    /** @type {WebSocket} */
    let socket;
    try {
      socket = new WebSocket(address(this.#url), protocols);
    } catch (error) {
      // What is wrong from the start is the caller's to see.
      if (isFirst) throw error;
      return this.#closed(1006, String(error));
    }
    this.#socket = socket;
    socket.onopen = () => this.#opened();
    socket.onmessage = (event) => this.#message(event.data);
    socket.onclose = (event) => this.#closed(event.code, event.reason);
    // The close that follows says all there is to say.
    socket.onerror = () => {};
    this.#become("connecting");
    this.#arm();
  }

  #opened() {
    const at = (this.#openedAt = this.#heardAt = now());
    this.#silenceMs = this.#options.silenceMs * 2 ** this.#silences * (1 + Math.random());
    this.#answerBy = Infinity;
    this.#isFirst = true;
    if (this.#everOpen) this.reconnects += 1;
    else this.#freshAt = at;
    this.#everOpen = true;
    this.#become(this.#isStale(at) ? "stale" : "open");
    this.#arm();
    if (this.#socket) this.#options.onOpen?.(this);
  }

  /** @param {any} data */
  #message(data) {
    this.#heardAt = now();
    this.#answerBy = Infinity;
    // A newcomer gets the kept state: when it is the one from before, nothing new has come.
    const isKept = this.#isFirst && data === this.#last;
    this.#isFirst = false;
    this.#last = data;
    if (!isKept) {
      this.#freshAt = this.#heardAt;
      this.#silences = 0;
      if (this.status === "stale") {
        this.#become("open");
        this.#arm();
      }
    }
    const { onMessage, onState, onBad } = this.#options;
    onMessage?.(data, isKept);
    if (!onState || !this.#socket) return;
    let state;
    try {
      state = JSON.parse(data);
    } catch (error) {
      onBad?.(error, data);
      return;
    }
    onState(state, isKept);
  }

  /**
   * @param {number} code
   * @param {string} reason
   */
  #closed(code, reason) {
    const at = now();
    const opened = this.#openedAt !== null;
    const stood = opened && at - /** @type {number} */ (this.#openedAt) >= this.#options.stableMs;
    if (stood || LEAVES.has(code)) this.#attempt = 0;
    if (this.#attempt === 0) this.#lostAt = at;
    this.#forget();
    const close = { code, reason, opened, attempt: this.#attempt };
    this.lastClose = close;
    const wait = this.#options.retry?.(close) ?? this.#delay(close);
    if (wait === false) {
      clearTimeout(this.#timer);
      this.#become("closed");
      return;
    }
    this.#attempt += 1;
    this.retryAt = at + wait;
    this.#become("waiting");
    this.#arm();
  }

  /**
   * Full jitter: everybody lost the same server in the same moment. No longer than it has been away already, so
   * that whatever was short is over soon after its end.
   * @param {Close} close
   */
  #delay({ code, opened, attempt }) {
    if (FINAL.has(code)) return false;
    const { backoffMinMs, backoffMaxMs } = this.#options;
    // A handshake that failed may have been a 503, which scripts are not told: never at once again.
    const least = code === 1013 ? LATER_MS : opened ? SETTLE_MS : backoffMinMs;
    const away = Math.max(backoffMinMs, now() - this.#lostAt);
    return least + Math.random() * Math.min(backoffMaxMs, backoffMinMs * 2 ** attempt, away);
  }

  /** Lets go of the socket without hearing of its end. */
  #forget(code = 1000, reason = "") {
    const socket = this.#socket;
    this.#socket = this.#openedAt = null;
    if (!socket) return;
    socket.onopen = socket.onmessage = socket.onclose = null;
    if (socket.readyState < 2) socket.close(code, reason);
  }

  /** @param {string} [why] it is the old connection's fault */
  #again(why) {
    if (why) this.lastClose = { code: 1006, reason: why, opened: true, attempt: this.#attempt };
    this.#forget();
    this.#open();
  }

  /** @param {number} at */
  #isStale(at) {
    const { staleMs } = this.#options;
    return staleMs > 0 && at - this.#freshAt >= staleMs;
  }

  /** One timer for whatever is due next; what moved back is found early and armed again. */
  #arm() {
    clearTimeout(this.#timer);
    if (this.status === "closed") return;
    const at = now();
    const { handshakeMs, staleMs } = this.#options;
    if (!this.#socket) this.#dueAt = this.retryAt;
    else if (this.#openedAt === null) this.#dueAt = Number(this.#startedAt) + handshakeMs;
    else {
      // The status decides, not the clock, which may have passed the end since it was last read.
      const staleAt = staleMs > 0 && this.status === "open" ? this.#freshAt + staleMs : Infinity;
      const silentAt = this.#silenceMs > 0 ? this.#heardAt + this.#silenceMs : Infinity;
      this.#dueAt = Math.min(staleAt, silentAt, this.#answerBy);
    }
    this.#clockOffset = Date.now() - at;
    if (this.#dueAt < Infinity) this.#timer = setTimeout(() => this.#step(), Math.max(0, this.#dueAt - at));
  }

  #step() {
    const at = now();
    if (!this.#socket) {
      if (at >= this.retryAt) return this.#open();
    } else if (this.#openedAt === null) {
      if (at >= this.#dueAt) return this.#closed(1006, "no answer to the handshake");
    } else {
      if (at >= this.#answerBy) return this.#again("no sign of life");
      if (this.#silenceMs > 0 && at >= this.#heardAt + this.#silenceMs) {
        this.#silences = Math.min(this.#silences + 1, SILENCE_DOUBLINGS_MAX);
        return this.#again("silent");
      }
      if (this.status === "open" && this.#isStale(at)) this.#become("stale");
      // A clock that somebody set looks the same; then the next message settles it.
      const drift = Math.abs(Date.now() - at - this.#clockOffset);
      if (Math.max(at - this.#dueAt, drift) > ASLEEP_MS) return this.#check();
    }
    this.#arm();
  }

  /**
   * The tab woke, the network came or went: a dead link says nothing by itself, so wait for a sign of life.
   * @param {Event} [event]
   */
  #check = (event) => {
    const at = now();
    const { staleMs } = this.#options;
    if (this.status === "closed" || (event?.type === "visibilitychange" && document.hidden)) return;
    if (!this.#socket && event?.type !== "offline") return this.#open();
    if (this.#openedAt === null || staleMs <= 0) return this.#arm();
    if (at - this.#heardAt >= staleMs) return this.#again("silent");
    this.#answerBy = Math.min(this.#answerBy, at + staleMs);
    this.#arm();
  };

  /** @param {boolean} on */
  #watch(on) {
    const change = on ? "addEventListener" : "removeEventListener";
    globalThis.document?.[change]?.("visibilitychange", this.#check);
    for (const name of ["online", "offline", "pageshow"]) globalThis[change]?.(name, this.#check);
  }

  /** @param {import("./weirgate.d.ts").Status} status */
  #become(status) {
    if (status === this.status) return;
    this.status = status;
    this.#options.onStatus?.(status, this);
  }
}

const now = () => performance.now();

/** @param {string | URL | (() => string | URL)} url */
function address(url) {
  const given = typeof url === "function" ? url() : url;
  const whole = new URL(given, globalThis.location?.href);
  whole.protocol = whole.protocol.replace(/^http/, "ws");
  return whole.href;
}
