import { Subscriber } from "./session.js";

/** `weirgate trades`. */
export class Trades extends Subscriber {
  /** Symbols granted by the server, by interval. */
  candles = new Map();

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
  message(action, symbols, _, interval) {
    return { action: interval ? `${action}_candles` : action, symbols, interval };
  }

  subscribeCandles(symbols, interval, options) {
    return this.change("subscribe", this.names(symbols), options, interval);
  }

  unsubscribeCandles(symbols, interval, options) {
    const gone = this.names(symbols);
    this.granted([], gone, interval);
    return this.change("unsubscribe", gone, options, interval);
  }

  groups() {
    return [...super.groups(), ...this.candles];
  }

  granted(names, gone, interval) {
    if (interval && !this.candles.has(interval)) this.candles.set(interval, new Set());
    super.granted(names, gone, this.candles.get(interval));
  }

  receive({ type, message, data, timestamp }) {
    if (type === "trade") return this.emit("trade", data, { timestamp });
    if (type === "candle") return this.emit("candle", data);
    if (data?.connectionId) return this.emit("welcome", data);
    const request = this.asked();
    if (type === "error") return this.refuse(request, "refused", message);
    const { subscribed, unsubscribed, currentSubscriptions, interval } = data ?? {};
    this.granted(currentSubscriptions, unsubscribed, interval);
    const action = type === "pong" ? "ping" : subscribed ? "subscribe" : "unsubscribe";
    const { message: asked } = request ?? {};
    // Otherwise a late response, after a timeout of the request.
    if (asked?.action.startsWith(action) && asked.interval === interval) request.resolve(data ?? { timestamp });
  }
}
