import { Subscriber } from "./session.js";

/** `weirgate channels`. */
export class Channels extends Subscriber {
  #seq = 0;
  #counts = false;

  get kind() {
    return "data";
  }
  get namesMax() {
    return 1_000;
  }
  names(channels) {
    return [channels].flat();
  }
  message(action, channels, requestId) {
    return { action, channels, requestId };
  }

  opened() {
    this.#seq = 0;
    super.opened();
  }

  receive(message) {
    const { type, seq, requestId = null, channels = [], errors = [] } = message;
    // The replaced gateway counts over all its clients: no number there says what this one missed.
    if (this.#seq === 0) this.#counts = seq === 1;
    if (this.#counts && seq > this.#seq + 1) this.emit("gap", { first: this.#seq + 1, last: seq - 1 });
    this.#seq = seq;
    if (type === "data") return this.emit("data", message);
    if (type === "connected") return this.emit("welcome", message);
    const request = this.asked(requestId);
    if (type === "error") return this.refuse(request, "refused", message.error);
    if (type === "subscribed") this.granted(channels);
    if (type === "unsubscribed") this.granted([], channels);
    if (errors.length && !channels.length) this.refuse(request, "refused", errors.join("; "), errors);
    else request?.resolve(message);
  }
}
