import { Subscriber } from "./subscriber.js";
import { RequestError } from "./weirgate.js";

/** Refusals of a new token that pass. */
const LATER = /^(Too many|Keys|Token is)/;

export class Channels extends Subscriber {
  #seq = 0;
  #counts = false;
  // Address and token.
  #as;
  #endsAt;
  #timer;

  /** A binary message is a line of JSON and the payload. */
  parse = (data) => {
    if (typeof data === "string") return JSON.parse(data);
    const bytes = new Uint8Array(data), end = bytes.indexOf(10);
    const message = JSON.parse(new TextDecoder().decode(bytes.subarray(0, end)));
    message.data = message.deleted ? null : bytes.subarray(end + 1);
    return message;
  };

  get kind() {
    return "data";
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

  opened(...as) {
    this.#seq = 0;
    this.#as = as;
    super.opened(...as);
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
    this.#plan(typeof this.options.token === "function" ? end - Date.parse(timestamp) + performance.now() : NaN);
  }

  /** A new token at a random time, because many clients may have connected at once. */
  #plan(endsAt) {
    const left = (this.#endsAt = endsAt) - performance.now();
    clearTimeout(this.#timer);
    this.#timer =
      left > 0 && setTimeout(() => this.#renew(), Math.max(1_000, Math.min(left * (0.6 + 0.2 * Math.random()), left - 5_000, 1e9)));
  }

  async #renew() {
    const failed = (error) => {
      // Lost, or too late.
      if (mine !== this.#timer) return;
      const isRefusal = error?.code === "refused";
      this.#plan(isRefusal && !LATER.test(error.message) ? NaN : this.#endsAt);
      if (!isRefusal) this.tell(new RequestError("token", String(error), error));
    };
    const mine = (this.#timer = setTimeout(failed, this.options.requestMs, new Error("no new token in time")));
    try {
      const token = await this.options.token({ refused: false });
      if (mine !== this.#timer) return;
      if (!token || token === this.#as[1]) this.#plan(this.#endsAt);
      else await this.ask((requestId) => ({ action: "authenticate", token, requestId }), { isBound: true });
    } catch (error) {
      failed(error);
    }
  }

  receive(message) {
    const { type, seq, requestId = null, error, channel, channels, pattern, data, pos, recovered = {}, why = {} } = message;
    this.hear(message);
    // The replaced gateway counts over all clients: the numbers show no losses of this client.
    if (this.#seq === 0) this.#counts = seq === 1;
    if (this.#counts && seq > this.#seq + 1) this.emit("gap", { first: this.#seq + 1, last: seq - 1 });
    this.#seq = seq;
    if (type === "data") {
      this.deliver(pattern ?? channel, "", message, data, message);
      return this.emit("data", message);
    }
    if (type === "status") return this.reported(message);
    const request = this.asked(requestId);
    if (type === "connected" || type === "authenticated") this.#admitted(message, request);
    if (type === "connected") return this.emit("welcome", message);
    if (type === "error") return this.refuse(request, "refused", error);
    if (request) request.resolve(message);
    if (type !== "subscribed") return;
    // After the timeout of the request.
    if (!request) this.granted(channels);
    // A response that grants nothing says nothing about the history.
    const isRecovered = !channels.length || Object.values(recovered).includes(true);
    this.acknowledged(type, message, pos, isRecovered, request?.message, Object.values(why));
  }
}
