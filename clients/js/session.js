import { Connection, RequestError } from "./weirgate.js";

export class Session extends Connection {
  recovered;
  // Whether the server still has to answer a position of this connection.
  isResuming = false;

  // Whether the messages that come may be older than the position, until a status or response has a position.
  #isPicturing = false;
  #pending = [];
  #made = 0;

  constructor(url, options) {
    super(url, { staleMs: 0, ...options });
  }

  get isSerial() {
    return false;
  }

  get position() {
    return this.options.since;
  }

  /** A position from before the answer would hide missed messages that still come. */
  hear({ type, pos }) {
    if (!pos || this.isResuming) return;
    this.#isPicturing &&= type === this.kind;
    if (!this.#isPicturing) this.options.since = pos;
  }

  /** With `isRecovered` the missed messages follow, and have the next position. */
  acknowledged(type, detail, pos, isRecovered, { since, last } = {}, why = []) {
    if (!this.isResuming && !isRecovered) {
      this.#isPicturing = !pos && this.position && last && (!since || why.some((one) => one !== "off"));
      if (!this.#isPicturing) this.options.since = pos;
    }
    this.recovered = detail.recovered ?? this.recovered;
    this.emit(type, detail);
  }

  ask(make, { signal, isSafe = true, isQuiet = false, isBound = false, done } = {}) {
    const response = new Promise((resolve, reject) => {
      signal?.throwIfAborted();
      if (this.status === "closed") throw this.end ?? new RequestError("closed");
      const id = String((this.#made += 1));
      const settle = (how) => (value) => {
        clearTimeout(timer);
        signal?.removeEventListener("abort", aborted);
        this.#pending = this.#pending.filter((other) => other !== request);
        how(value);
        done?.(value);
        this.#flush();
      };
      const request = { id, message: make(id), isSafe, isQuiet, isBound, isSent: false, resolve: settle(resolve), reject: settle(reject) };
      // The response will still come, and must not be taken for the next response.
      const aborted = () => {
        request.isSafe = false;
        (request.isSent ? reject : request.reject)(signal.reason);
      };
      const timer = setTimeout(() => request.reject(new RequestError("timeout", "no answer")), this.options.requestMs);
      signal?.addEventListener("abort", aborted);
      this.#pending.push(request);
      this.#flush();
    });
    // A caller may ignore the response: no unhandled rejection then, "error" reports the refusal.
    response.catch(() => {});
    return response;
  }

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
    this.#isPicturing = false;
    for (const request of this.#pending) {
      if (status === "closed") request.reject(this.end ?? new RequestError("closed"));
      else if (request.isBound || (request.isSent && !request.isSafe)) request.reject(new RequestError("lost", "connection lost before the answer"));
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
