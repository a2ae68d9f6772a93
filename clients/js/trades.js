import { Subscriber } from "./session.js";

/** `weirgate trades`. */
export class Trades extends Subscriber {
  get kind() {
    return "trade";
  }
  get isSerial() {
    return true;
  }
  get namesMax() {
    return 5;
  }
  names(symbols) {
    return [symbols].flat().map((symbol) => symbol.toUpperCase());
  }
  message(action, symbols) {
    return { action, symbols };
  }

  receive({ type, message, data, timestamp }) {
    if (type === "trade") return this.emit("trade", data, { timestamp });
    if (data?.connectionId) return this.emit("welcome", data);
    const request = this.asked();
    if (type === "error") return this.refuse(request, "refused", message);
    this.granted(data?.currentSubscriptions, data?.unsubscribed);
    const action = type === "pong" ? "ping" : data?.subscribed ? "subscribe" : "unsubscribe";
    // Otherwise a late response to a request that timed out.
    if (request?.message.action === action) request.resolve(data ?? { timestamp });
  }
}
