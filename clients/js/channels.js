import { Subscriber } from "./subscriber.js";
import { RequestError } from "./weirgate.js";

/** Refusals of a new token that pass. */
const LATER = /^(Too many|Keys|Token is)/;

export class Channels extends Subscriber {
  #seq = 0;
  #counts = false;
  // Address and token.
  #as;
  #isRenewable;
  #endsAt;
  // What ends the wait until a new token is asked for, or the wait for it.
  #renewal;
  brings = {};

  /** A binary message is a line of JSON and the payload. */
  parse(data) {
    if (typeof data === "string") return super.parse(data);
    const bytes = new Uint8Array(data), end = bytes.indexOf(10), message = super.parse(new TextDecoder().decode(bytes.subarray(0, end)));
    message.data = message.deleted ? null : bytes.subarray(end + 1);
    return message;
  }

  get kind() {
    return "data";
  }
  get query() {
    return { ...super.query, payload: this.options.payload };
  }
  get partMax() {
    return 1_000;
  }
  names(channels) {
    return [channels].flat();
  }
  message(action, channels, requestId, _, more) {
    return { action, channels, ...more, requestId };
  }

  opened(address, token, takesTokens = true) {
    this.#seq = 0;
    this.#as = [address, token];
    this.#isRenewable = takesTokens && typeof this.options.token === "function";
    super.opened(address, token);
  }
  changed(status) {
    super.changed(status);
    if (status !== "open" && status !== "stale") this.#plan(NaN);
  }

  /** The gateway's clock tells how long the token lasts: a client's clock may be wrong. */
  #admitted({ timestamp, revoked = [] }, request) {
    let end;
    if (request) this.#as[1] = request.message.token;
    this.admitted(...this.#as);
    this.revoked(revoked);
    try {
      end = JSON.parse(atob(this.#as[1].split(".")[1].replace(/-/g, "+").replace(/_/g, "/"))).exp * 1_000;
    } catch {
      // No JWT.
    }
    this.#plan(this.#isRenewable ? end - Date.parse(timestamp) + this.now : NaN);
  }

  /** A new token at a random time, because many clients may have connected at once. */
  #plan(endsAt) {
    const left = (this.#endsAt = endsAt) - this.now, wait = Math.min(left * (0.6 + 0.2 * this.driver.random()), left - 5_000, 1e9);
    this.#renewal?.();
    const alarm = left > 0 && this.driver.after(Math.max(1_000, wait), () => this.#renew());
    this.#renewal = () => this.driver.cancel(alarm);
  }

  #renew() {
    const mine = (this.#renewal = this.within(this.options.requestMs, () => failed(new Error("no new token in time"))));
    const failed = (error) => {
      // Lost, or too late.
      if (mine !== this.#renewal) return;
      const isRefusal = error?.code === "refused";
      this.#plan(isRefusal && !LATER.test(error.message) ? NaN : this.#endsAt);
      if (!isRefusal) this.emit("error", new RequestError("token", error, error));
    };
    const use = (token) => {
      if (mine !== this.#renewal) return;
      if (!token || token === this.#as[1]) return this.#plan(this.#endsAt);
      const done = (answer) => answer.code === "refused" && failed(answer);
      this.ask((requestId) => ({ action: "authenticate", token, requestId }), { isBound: true, done });
    };
    const then = (call) => (value) => this.input("run", call, value);
    this.put("attempt", () => new Promise((go) => go(this.options.token({ refused: false }))).then(then(use), then(failed)));
  }

  receive(message) {
    const { type, seq, requestId = null, error, channel, channels, pattern, data, pos, recovered = {}, why = {} } = message;
    const isForUs = type === "data" || type === "last" ? this.hearOf(pattern ?? channel, message) : this.hear(message);
    // The replaced gateway counts over all clients: the numbers show no losses of this client.
    if (this.#seq === 0) this.#counts = seq === 1;
    if (this.#counts && seq > this.#seq + 1) this.emit("gap", { first: this.#seq + 1, last: seq - 1 });
    this.#seq = seq;
    if (isForUs === false) return;
    const isForAll = type === "data" ? this.deliver(pattern ?? channel, "", message, data, message) : type !== "retained" || this.ended(message);
    if (!isForAll) return;
    if (type === "data" || type === "retained" || type === "last") return this.emit(type, message);
    if (type === "status") return this.reported(message);
    const request = this.asked(requestId);
    if (type === "connected") this.begun();
    if (type === "connected" || type === "authenticated") this.#admitted(message, request);
    if (type === "connected") return this.emit("welcome", message);
    if (type === "error" && !request && this.barred(error)) return;
    if (type === "error") return this.refuse(request, "refused", error);
    const isSubscribed = type === "subscribed";
    if (isSubscribed && message.brings) this.brought(channels, message.brings);
    if (isSubscribed) this.acknowledge(type, this.judged(message, channels, request));
    request?.resolve(message);
    if (!isSubscribed) return;
    // After the timeout of the request.
    if (!request) this.granted(channels);
    // A response that grants nothing says nothing about the history.
    const isRecovered = !channels.length || Object.values(recovered).includes(true);
    if (request && request.message.last !== "all") this.goOn(pos, isRecovered, request.message, Object.values(why));
  }
}
