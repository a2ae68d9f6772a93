// The common base of clients with requests: each request has a response, and subscriptions outlive connections.
import { Connection, RequestError } from "./weirgate.js";

/** Longest wait for the response to a ping on a link that may be dead. */
const PROBE_MS = 3_000;

/** A connection with requests. The feed may be quiet, so silence alone is no fault: the client probes. */
export class Session extends Connection {
  #pending = [];
  #made = 0;

  constructor(url, options) {
    super(url, { staleMs: 0, ...options });
  }

  /** Whether a request waits for the previous response, because responses do not name the request. */
  get isSerial() {
    return false;
  }

  /**
   * The response to the message that `make` returns for an id. Without a connection the request waits for the next
   * connection. A request in flight at the end of a connection is sent again only if `isSafe`.
   */
  ask(make, { signal, isSafe = true, isQuiet = false, place = this.#pending.length } = {}) {
    const response = new Promise((resolve, reject) => {
      signal?.throwIfAborted();
      if (this.status === "closed") throw new RequestError("closed");
      const id = String((this.#made += 1));
      const settle = (how) => (value) => {
        clearTimeout(timer);
        signal?.removeEventListener("abort", aborted);
        this.#pending = this.#pending.filter((other) => other !== request);
        how(value);
        this.#flush();
      };
      const request = { id, message: make(id), isSafe, isQuiet, isSent: false, resolve: settle(resolve), reject: settle(reject) };
      // The response will still come, and must not be taken for the next response.
      const aborted = () => {
        request.isSafe = false;
        (request.isSent ? reject : request.reject)(signal.reason);
      };
      const timer = setTimeout(() => request.reject(new RequestError("timeout", "no answer")), this.options.requestMs);
      signal?.addEventListener("abort", aborted);
      this.#pending.splice(place, 0, request);
      this.#flush();
    });
    // A caller may ignore the response: no unhandled rejection then, "error" reports the refusal.
    response.catch(() => {});
    return response;
  }

  /** The request in flight with the id, or the oldest. */
  asked(id) {
    return this.#pending.find((request) => request.isSent && (id === undefined || request.id === id));
  }

  refuse(request, ...why) {
    const error = new RequestError(...why);
    request?.reject(error);
    if (!request?.isQuiet) this.emit("error", error);
  }

  opened() {
    this.#flush();
  }

  changed(status) {
    if (status === "open" || status === "stale") return;
    for (const request of this.#pending) {
      if (status === "closed") request.reject(new RequestError("closed"));
      else if (request.isSent && !request.isSafe) request.reject(new RequestError("lost", "connection lost before the answer"));
      else request.isSent = false;
    }
  }

  #flush() {
    for (const request of this.#pending) {
      request.isSent ||= this.send(JSON.stringify(request.message));
      if (this.isSerial || !request.isSent) return;
    }
  }
}

/** The common base of trades and channels: names to subscribe to, and to subscribe to again. */
export class Subscriber extends Session {
  /** The names granted by the server. */
  subscriptions = new Set();

  subscribe(names, options) {
    return this.change("subscribe", this.names(names), options);
  }

  unsubscribe(names, options) {
    const gone = this.names(names);
    this.granted([], gone);
    return this.change("unsubscribe", gone, options);
  }

  ping(options) {
    return this.ask((requestId) => this.message("ping", undefined, requestId), options);
  }

  probe() {
    this.ping();
    return PROBE_MS;
  }

  opened() {
    let place = 0;
    for (const [group, held] of this.groups()) {
      for (const all = [...held]; all.length; place += 1) {
        const names = all.splice(0, this.namesMax);
        this.change("subscribe", names, { place, isSafe: false }, group).catch((error) => {
          // After a loss the next connection requests the names again.
          if (error.code === "refused") this.granted([], names, group);
          if (error.code === "timeout") this.emit("error", error);
        });
      }
    }
    super.opened();
  }

  /** Sets of granted names, each requested apart. */
  groups() {
    return [[undefined, this.subscriptions]];
  }

  granted(names = [], gone = [], held = this.subscriptions) {
    for (const name of names) held.add(name);
    for (const name of gone) held.delete(name);
  }

  change(action, names, options, group) {
    return this.ask((requestId) => this.message(action, names, requestId, group), options);
  }
}
