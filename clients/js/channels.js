import { Subscriber } from "./session.js";

/** `weirgate channels`. */
export class Channels extends Subscriber {
  #seq = 0;
  #counts = false;
  // The last message of each name, with a history on the server.
  #positions = new Map();
  #resumes = false;

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
    const since = this.#resumes ? Object.fromEntries(channels.map((name) => [name, this.#position(name)])) : undefined;
    return { action, channels, since, requestId };
  }

  /** A name without a position is requested too: the server reports the name as not recovered. */
  #position(name) {
    return this.#positions.get(name) ?? { epoch: "", offset: 0 };
  }

  opened() {
    this.#seq = 0;
    this.#resumes = this.#positions.size > 0;
    super.opened();
    this.#resumes = false;
  }

  #moved({ channel, pattern, offset, epoch = this.#positions.get(pattern ?? channel)?.epoch }) {
    if (offset && epoch) this.#positions.set(pattern ?? channel, { epoch, offset });
  }

  #subscribed(message) {
    const { channels, positions = {}, recovered = {} } = message;
    const now = new Map(Object.entries(positions));
    for (const name of channels) {
      // The missed messages follow.
      if (recovered[name] === true) continue;
      if (now.has(name)) this.#positions.set(name, now.get(name));
      else this.#positions.delete(name);
    }
    this.granted(channels);
    this.emit("subscribed", message);
  }

  receive(message) {
    const { type, seq, requestId = null, channels = [], errors = [] } = message;
    // The replaced gateway counts over all clients: the numbers show no losses of this client.
    if (this.#seq === 0) this.#counts = seq === 1;
    if (this.#counts && seq > this.#seq + 1) this.emit("gap", { first: this.#seq + 1, last: seq - 1 });
    this.#seq = seq;
    if (type === "data") {
      this.#moved(message);
      return this.emit("data", message);
    }
    if (type === "connected") return this.emit("welcome", message);
    const request = this.asked(requestId);
    if (type === "error") return this.refuse(request, "refused", message.error);
    if (type === "subscribed") this.#subscribed(message);
    if (type === "unsubscribed") {
      this.granted([], channels);
      for (const name of channels) this.#positions.delete(name);
    }
    if (errors.length && !channels.length) this.refuse(request, "refused", errors.join("; "), errors);
    else request?.resolve(message);
  }
}
