// Server-Sent Events in the shape of a WebSocket, for networks that break WebSockets.
//
// event-stream.d.ts describes each export.

import { within } from "./wait.js";

/** Longest wait for a WebSocket to open; a stream gets twice as long. */
const WEBSOCKET_MS = 4_000;
/** Failures before a stream is tried, if a WebSocket was open before: an outage is more likely than a bad network. */
const FAILURES_MAX = 3;
/** Longest wait for the first message of an open WebSocket: every gateway speaks first. */
const FIRST_MS = 4_000;
/** A WebSocket that brought messages for so long is not broken by the network. Two that broke before, or one without a message, lead to a stream. */
const STANDS_MS = 60_000;
const BROKEN_MAX = 2;
/** A client that gives up after such a silence, with or without a request in it, has found the WebSocket dead. */
const UNANSWERED_MS = 2_500;
const SILENT_MS = 25_000;
/** Between two looks at the clock, and a time between two looks after which the event loop was blocked, or the machine slept. */
const LOOK_MS = 1_000;
const ASLEEP_MS = 3_000;
/** A WebSocket is tried again. */
const BACK_MS = 3_600_000;
/** Between two reopenings: time for the responses to sent messages. */
const REOPEN_MS = 300;
/** The gateway sends a comment every 20 s: a stream with data in this time is alive. */
const ALIVE_MS = 45_000;
/** Too much for a request: a repetition would fail too. */
const TOO_MUCH = [400, 414, 431];
/** The types of responses. */
const ANSWERS = ["success", "subscribed", "unsubscribed", "pong", "response", "error"];

/** By origin: whether a WebSocket opened last, and the failures since; what broke open WebSockets; since when there are streams. */
const origins = new Map();

const now = () => globalThis.performance?.now() ?? Date.now();

const clock = { now, after: (ms, call) => setTimeout(call, ms), cancel: (alarm) => clearTimeout(alarm) };

const soon = (call) => Promise.resolve().then(call);

let isTold = false;

/** An engine without what event streams need, which is no fault of the network: said once, and in `lastClose`. */
function lacks(what) {
  const text = `event streams need ${what}; in React Native from a polyfill, such as expo/fetch or react-native-fetch-api`;
  if (!isTold) console.error(`weirgate: ${text}`);
  isTold = true;
  return new TypeError(text);
}

class Shape {
  onopen = null;
  onmessage = null;
  onclose = null;
  onerror = null;
  protocol = "";
  extensions = "";
  bufferedAmount = 0;
  binaryType = "arraybuffer";
}

export class EventStream extends Shape {
  readyState = 0;
  // A token in the query would be in logs. The next connection has a new token.
  takesTokens = false;

  #url;
  #headers = { Accept: "text/event-stream" };
  #abort = null;
  // Messages sent again at each reopening.
  #kept = [];
  // Messages of this tick.
  #batch = [];
  #timer;
  #openedAt = -Infinity;
  #heardAt = 0;
  // The newest position, and the number of responses until another position counts: a stream that is cut before has not
  // brought all missed messages.
  #id;
  #due = 0;

  static credentials = "same-origin";

  constructor(url, protocols = []) {
    super();
    const missing = ["fetch", "URL", "AbortController", "TextDecoder"].find((name) => !globalThis[name]);
    // The fetch of React Native is made of XMLHttpRequest, and waits for the end of the response.
    if (missing || fetch.polyfill) {
      soon(() => this.readyState || this.#ended(null, 1006, String(lacks(missing ?? "a fetch with streams"))));
      return;
    }
    this.#url = new URL(url, globalThis.location?.href);
    this.#url.protocol = this.#url.protocol.replace(/^ws/, "http");
    const [scheme, token] = [protocols].flat();
    // A header stays out of logs, as the subprotocol does.
    if (scheme === "bearer" && token) this.#headers.Authorization = `Bearer ${token}`;
    this.#run([]);
  }

  send(data) {
    if (this.readyState === 0) throw Object.assign(Error(), { name: "InvalidStateError" });
    if (this.readyState !== 1) return;
    const text = String(data), message = parsed(text);
    const answer = this.#ownAnswer(message);
    if (answer) {
      soon(() => this.readyState === 1 && this.onmessage?.({ data: JSON.stringify(answer) }));
      return;
    }
    // The old stream is ignored: old responses would be taken for responses to this message.
    this.#abort?.abort();
    this.#abort = null;
    if (isKept(message)) this.#id = message.since ?? message.data?.since ?? this.#id;
    this.#batch.push({ text, message });
    this.#timer ??= setTimeout(() => this.#reopen(), Math.max(0, this.#openedAt + REOPEN_MS - now()));
  }

  close(code = 1000, reason = "") {
    if (this.readyState > 1) return;
    this.readyState = 2;
    this.#stop();
    soon(() => this.#closed(code, reason, true));
  }

  /** A local response to a new token, or to a request for a sign of life if the stream is alive. */
  #ownAnswer(message) {
    const { action, event, last, requestId, request_id, data } = message;
    if (action === "authenticate") return { type: "error", error: "Unknown action: authenticate", requestId };
    // A stream has one position for all of its names.
    if (last === "all") return { type: "error", error: "Cannot subscribe to all kept messages on an event stream", requestId };
    if (!this.#abort || now() - this.#heardAt > ALIVE_MS) return undefined;
    // Without a time: it would be the time of this machine, and not of the server.
    if (action === "ping") return { type: "pong", requestId };
    if (event !== "identify") return undefined;
    // Without an id it is a probe: a token may have named the device.
    const id = data?.device_id;
    const isKnown = !id || this.#url.searchParams.get("device_id") === id || this.#kept.some((one) => one.message.data?.device_id === id);
    return isKnown ? { type: "error", event, request_id, data: null, error: { code: "unknown_event", message: "Unknown event 'identify'", details: null } } : undefined;
  }

  #reopen() {
    this.#timer = undefined;
    const batch = this.#batch.splice(0), kept = [...this.#kept];
    for (const one of batch) this.#keep(one);
    // The order of subscriptions does not matter: the responses to new messages come first.
    const adds = batch.every(({ message }) => isOf(message, "subscribe")), all = adds ? [...batch, ...kept] : [...kept, ...batch];
    this.#due = this.#id ? 1 + all.findLastIndex((one) => isKept(one.message)) : 0;
    this.#run(all.map(({ text }) => text));
  }

  /** Keeps subscriptions and `identify` for reopenings; any other message is sent once. */
  #keep(one) {
    const { message } = one;
    // A name that is asked for again is asked for once.
    const isNew = isOf(message, "subscribe"), gone = new Set(isNew || isOf(message, "unsubscribe") ? names(message) : []);
    if (gone.size) this.#kept = this.#kept.flatMap((other) => {
      if (!isOf(other.message, "subscribe") || other.message.interval !== message.interval) return [other];
      const left = names(other.message).filter((name) => !gone.has(name));
      const key = "symbols" in other.message ? "symbols" : "channels";
      const changed = { ...other.message, [key]: left };
      return left.length ? [{ text: JSON.stringify(changed), message: changed }] : [];
    });
    if (isKept(message)) this.#kept.push(withoutSince(one));
  }

  async #run(messages) {
    const abort = (this.#abort = new AbortController()), url = new URL(this.#url), asked = { ...this.#headers };
    if (this.#id) {
      asked["Last-Event-ID"] = this.#id;
      // An older position.
      url.searchParams.delete("since");
    }
    for (const message of messages) url.searchParams.append("send", message);
    try {
      const response = await fetch(url, { headers: asked, signal: abort.signal, cache: "no-store", credentials: EventStream.credentials });
      const { headers, ok, status } = response;
      if (!ok || !headers.get("content-type")?.startsWith("text/event-stream")) {
        abort.abort();
        const isFinal = messages.length > 0 && TOO_MUCH.includes(status);
        return this.#ended(abort, isFinal ? 1009 : 1006, `HTTP status ${status}`);
      }
      // With a length the response is a wait, not a stream.
      if (headers.has("content-length")) return this.#ended(abort, 1006, `retry_after_ms=${/\d+/.exec(await response.text())}`);
      if (!response.body) throw lacks("a fetch with streams");
      if (abort !== this.#abort) return;
      this.#heardAt = now();
      // Without messages there is no response to wait for.
      this.#openedAt = messages.length ? this.#heardAt : -Infinity;
      if (this.readyState === 0) {
        this.readyState = 1;
        this.onopen?.({});
      }
      await this.#read(response.body.getReader(), abort);
      this.#ended(abort, 1006, "");
    } catch (error) {
      this.#ended(abort, 1006, String(error));
    }
  }

  /** Reads the events of a stream until another stream replaces this stream. */
  async #read(reader, abort) {
    const decoder = new TextDecoder();
    let rest = "", event = {};
    while (abort === this.#abort) {
      const { value, done } = await reader.read();
      if (done) return;
      this.#heardAt = now();
      const lines = (rest + decoder.decode(value, { stream: true })).split("\n");
      rest = lines.pop();
      for (const line of lines) {
        if (abort !== this.#abort) return;
        const [, field, text] = /^(data|event|id): ?(.*)$/s.exec(line) ?? [];
        if (field === "data") event.data = "data" in event ? `${event.data}\n${text}` : text;
        else if (field) event[field] = text;
        else if (line === "") {
          this.#hear(event);
          if ("data" in event) this.#take(event);
          event = {};
        }
      }
    }
  }

  #hear(event) {
    if (this.#due) {
      const { type, data } = parsed(event.data);
      if (ANSWERS.includes(type) && !data?.connectionId) this.#due -= 1;
      // The client keeps positions too.
      if (this.#due) event.data &&= event.data.replace(/(,"pos":")[^"]+(?="\}(\n[\w+/=]*)?$)/, `$1${this.#id}`);
    }
    if (!this.#due) this.#id = event.id || this.#id;
  }

  #take({ event, data }) {
    if (event === "close") {
      const { code, reason } = parsed(data);
      this.#stop();
      return this.#closed(code ?? 1006, reason ?? "", true);
    }
    this.onmessage?.({ data: event === "binary" ? unpacked(data) : data });
  }

  #stop() {
    clearTimeout(this.#timer);
    this.#abort?.abort();
    this.#abort = null;
  }

  #ended(abort, code, reason) {
    // Another stream has replaced this stream.
    if (abort !== this.#abort) return;
    this.#stop();
    this.onerror?.({ message: reason });
    this.#closed(code, reason, false);
  }

  #closed(code, reason, wasClean) {
    if (this.readyState === 3) return;
    this.readyState = 3;
    this.onclose?.({ code, reason, wasClean });
  }
}

/** Notices whether the event loop was blocked, or the machine slept: a WebSocket without answers breaks in any network. */
function watch() {
  let lookedAt = Date.now(), isAway = false;
  const wasAway = () => {
    isAway ||= Date.now() - lookedAt > ASLEEP_MS;
    lookedAt = Date.now();
    return isAway;
  };
  const timer = setInterval(wasAway, LOOK_MS);
  return { wasAway, end: () => clearInterval(timer) };
}

export function withFallback(WebSocket = globalThis.WebSocket) {
  return class extends Shape {
    #socket;
    #isClosed = false;
    #endWait;
    #watch;
    #heardAt;
    #sentAt = -Infinity;
    #judge;

    // A single request each time, so clients do not double the load in an outage.
    constructor(url, protocols) {
      super();
      const origin = /^\w+:\/\/[^/?#]*|/.exec(url)[0];
      let known = origins.get(origin);
      if (!known || now() - known.at > BACK_MS) origins.set(origin, (known = { stood: false, failed: 0, broken: 0, waitMs: FIRST_MS, at: Infinity }));
      const isStream = !WebSocket || known.broken >= BROKEN_MAX || known.failed >= (known.stood ? FAILURES_MAX : 1);
      const socket = (this.#socket = new (isStream ? EventStream : WebSocket)(url, protocols));
      socket.binaryType = this.binaryType;
      this.#watch = isStream ? undefined : watch();
      const end = (event) => {
        this.#stop();
        socket.onopen = socket.onclose = socket.onmessage = null;
        // The package ws throws errors without a listener.
        socket.onerror = () => {};
        socket.close();
        const { code, reason, message } = event;
        if (code === undefined) this.onerror?.(event);
        this.onclose?.({ code: code ?? 1006, reason: reason || message || "" });
      };
      const failed = (event) => {
        if (!this.#isClosed && !this.#watch?.wasAway()) known.failed = isStream ? 0 : known.failed + 1;
        if (isStream) {
          known.broken = 0;
          known.waitMs *= 4;
        }
        end(event);
      };
      this.#endWait = within(WEBSOCKET_MS * (isStream ? 2 : 1), () => failed({ message: "not open in time" }), clock);
      socket.onerror = socket.onclose = failed;
      socket.onopen = (event) => {
        this.#endWait();
        const openedAt = (this.#heardAt = now());
        // A stream that opened first after an outage: next time a WebSocket is tried once.
        known.failed = isStream && !known.stood ? 1 : 0;
        known.stood = !isStream;
        if (isStream) known.at = Math.min(known.at, openedAt);
        else {
          this.#judge = (isBroken) => {
            if (this.#heardAt - openedAt >= STANDS_MS) known.broken = 0;
            else if (isBroken && !this.#watch.wasAway()) known.broken += this.#heardAt > openedAt ? 1 : BROKEN_MAX;
          };
          this.#endWait = within(known.waitMs, () => this.#judge(true) || end({ message: "silent" }), clock);
        }
        this.protocol = socket.protocol;
        socket.onerror = (one) => this.onerror?.(one);
        socket.onmessage = (one) => {
          this.#endWait();
          this.#heardAt = now();
          if (this.#heardAt - openedAt >= STANDS_MS) this.#watch?.end();
          this.onmessage?.(one);
        };
        socket.onclose = (one) => {
          this.#stop();
          // 1011: the gateway hears no pong.
          if (!this.#isClosed) this.#judge?.(one.code === 1006 || one.code === 1011);
          this.onclose?.(one);
        };
        this.onopen?.(event);
      };
    }

    get readyState() {
      return this.#socket.readyState;
    }

    get takesTokens() {
      return this.#socket.takesTokens;
    }

    send(data) {
      this.#sentAt = now();
      this.#socket.send(data);
    }

    #stop() {
      this.#endWait();
      this.#watch?.end();
    }

    /** Perhaps because nothing comes any more. */
    close(code, reason) {
      if (this.readyState < 2) {
        const ms = now() - this.#heardAt;
        this.#judge?.(ms >= (this.#sentAt > this.#heardAt ? UNANSWERED_MS : SILENT_MS));
      }
      if (this.#heardAt) this.#stop();
      this.#isClosed = true;
      this.#socket.close(code, reason);
    }
  };
}

function parsed(text) {
  try {
    return Object(JSON.parse(text));
  } catch {
    return {};
  }
}

/** A binary message: lines of text, then base64. */
function unpacked(data) {
  const at = data.lastIndexOf("\n") + 1, head = new TextEncoder().encode(data.slice(0, at)), text = atob(data.slice(at));
  const bytes = new Uint8Array(head.length + text.length);
  bytes.set(head);
  for (let n = 0; n < text.length; n += 1) bytes[head.length + n] = text.charCodeAt(n);
  return bytes.buffer;
}

/** An old position would bring messages again. */
function withoutSince(one) {
  const { since, data, ...left } = one.message;
  if (!since && !data?.since) return one;
  const message = { ...left, data: data && { ...data, since: undefined } };
  return { text: JSON.stringify(message), message };
}

const isKept = (message) => isOf(message, "subscribe") || message.event === "identify";
const isOf = ({ action }, name) => action === name || action === `${name}_candles`;
const names = ({ symbols, channels }) => [symbols ?? channels ?? []].flat();
