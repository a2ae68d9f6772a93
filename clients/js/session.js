import { Connection, RequestError } from "./weirgate.js";

export class Session extends Connection {
  recovered;
  // Whether the server still has to answer a position of this connection.
  isResuming = false;

  // Whether the messages that come may be older than the position, until a status or response has a position.
  #isPicturing = false;
  #pending = [];
  #made = 0;

  constructor(url, options, ...driver) {
    super(url, { staleMs: 0, requestMs: 10_000, ...options }, ...driver);
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

  acknowledge(type, detail) {
    this.recovered = detail.recovered ?? this.recovered;
    this.emit(type, detail);
  }

  /** From the position of a response. With `isRecovered` the missed messages follow, and have the next position. */
  goOn(pos, isRecovered, { since, last } = {}, why = []) {
    if (this.isResuming || isRecovered) return;
    this.#isPicturing = !pos && this.position && last && (!since || why.some((one) => one !== "off"));
    if (!this.#isPicturing) this.options.since = pos;
  }

  /** A promise of the response to the message that `make` returns for an id. */
  ask(make, { signal, isSafe = true, isQuiet = false, isBound = false, isPatient = false, done } = {}) {
    const ask = (resolve, reject) => {
      const abortion = () => signal.reason ?? Object.assign(new Error("aborted"), { name: "AbortError" });
      if (signal?.aborted) throw abortion();
      if (this.status === "closed") throw this.end ?? new RequestError("closed");
      const id = String((this.#made += 1)), message = make(id), text = JSON.stringify(message);
      const settle = (how) => (value) => {
        endWait?.();
        signal?.removeEventListener("abort", aborted);
        this.#pending = this.#pending.filter((other) => other !== request);
        how(value);
        done?.(value);
        this.#flush();
      };
      const request = { id, message, text, isSafe, isQuiet, isBound, isSent: false, resolve: settle(resolve), reject: settle(reject) };
      // The response will still come, and must not be taken for the next response.
      const aborted = () => {
        request.isSafe = false;
        this.input("run", request.isSent ? reject : request.reject, abortion());
      };
      const endWait = isPatient ? undefined : this.within(this.options.requestMs, () => request.reject(new RequestError("timeout", "no answer")));
      signal?.addEventListener("abort", aborted);
      this.#pending.push(request);
      this.#flush();
    };
    const response = this.input("run", () => new Promise(ask));
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
      request.isSent ||= this.isOpen && this.put("send", request.text);
      if (this.isSerial || !request.isSent) return;
    }
  }
}
