import { Subscriber } from "./subscriber.js";

/** `weirgate channels`. */
export class Channels extends Subscriber {
  #seq = 0;
  #counts = false;
  // The last message of each granted name; undefined without a history on the server.
  #positions = new Map();

  get kind() {
    return "data";
  }
  get partMax() {
    return 1_000;
  }
  names(channels) {
    return [channels].flat();
  }
  message(action, channels, requestId) {
    return { action, channels, since: action === "subscribe" ? this.#since(channels) : undefined, requestId };
  }

  /** The positions of names that were granted before; without a position the server reports a name as not recovered. */
  #since(channels) {
    const known = channels.filter((name) => this.#positions.has(name));
    // A server without a history has told no position.
    if (!known.length || ![...this.#positions.values()].some(Boolean)) return undefined;
    return Object.fromEntries(known.map((name) => [name, this.#positions.get(name) ?? { epoch: "", offset: 0 }]));
  }

  opened(as) {
    this.#seq = 0;
    super.opened(as);
  }
  forget(channels) {
    for (const name of channels) this.#positions.delete(name);
  }

  #subscribed(message) {
    const { channels, positions = {}, recovered = {} } = message;
    const now = new Map(Object.entries(positions));
    // With `true` the missed messages follow.
    for (const name of channels) if (recovered[name] !== true) this.#positions.set(name, now.get(name));
    this.emit("subscribed", message);
  }

  #data(message) {
    const { channel, pattern, data, offset } = message, name = pattern ?? channel;
    const { epoch = this.#positions.get(name)?.epoch } = message;
    if (offset && epoch) this.#positions.set(name, { epoch, offset });
    this.deliver(name, "", message, data, message);
    this.emit("data", message);
  }

  receive(message) {
    const { type, seq, requestId = null, error } = message;
    // The replaced gateway counts over all clients: the numbers show no losses of this client.
    if (this.#seq === 0) this.#counts = seq === 1;
    if (this.#counts && seq > this.#seq + 1) this.emit("gap", { first: this.#seq + 1, last: seq - 1 });
    this.#seq = seq;
    if (type === "data") return this.#data(message);
    if (type === "connected") return this.emit("welcome", message);
    const request = this.asked(requestId);
    if (type === "error") return this.refuse(request, "refused", error);
    if (type === "subscribed") this.#subscribed(message);
    if (request) request.resolve(message);
    // After the timeout of the request.
    else if (type === "subscribed") this.granted(message.channels);
  }
}
