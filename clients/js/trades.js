import { Subscriber } from "./subscriber.js";

/** Within a second of this error the server drops further messages without one. */
const OVER_RATE = "Rate limit exceeded";
const AFTER_DROP_MS = 1_100;

/** `weirgate trades`. */
export class Trades extends Subscriber {
  #repetition;
  // The symbols whose trades the server sends, by its newest response.
  #held = new Set();
  #hasWarned = false;

  get kind() {
    return "trade";
  }
  get isSerial() {
    return true;
  }
  get partMax() {
    return 5;
  }
  names(symbols) {
    return [symbols].flat().map((symbol) => symbol.toUpperCase());
  }
  changed(status) {
    if (status !== "open" && status !== "stale") {
      this.driver.cancel(this.#repetition);
      this.#held.clear();
    }
    super.changed(status);
  }
  message(action, symbols, _, interval, more) {
    return { ...(interval ? { action: `${action}_candles`, symbols, interval } : { action, symbols }), ...more };
  }

  subscribeCandles(symbols, interval, handler) {
    return this.want(this.names(symbols), handler, interval);
  }

  /** The symbols with candles granted on this connection, by interval. */
  get candles() {
    return new Map(["1s", "1m", "5m"].map((interval) => [interval, this.live(interval)]));
  }

  receive(received) {
    const { type, message, data, timestamp, recv_us, pos } = received;
    this.hear(received);
    if (type === "trade") {
      const symbol = this.#symbolOf(data);
      if (symbol !== undefined) this.deliver(symbol, "", data, data, timestamp);
      this.emit("trade", data, { timestamp, ...(recv_us && { recv_us }) });
      if (symbol === undefined) this.#skip(data);
      return;
    }
    if (type === "candle") {
      this.deliver(data.symbol, data.interval, data, data);
      return this.emit("candle", data);
    }
    if (type === "status") return this.reported(received);
    if (data?.connectionId) return this.emit("welcome", data);
    const request = this.asked();
    if (type === "error") return this.refuse(message === OVER_RATE ? this.#repeat(request) : request, "refused", message);
    const { subscribed, currentSubscriptions = [], interval } = data ?? {};
    const action = type === "pong" ? "ping" : subscribed ? "subscribe" : "unsubscribe";
    if (data?.currentSubscriptions && !interval) this.#held = new Set(currentSubscriptions);
    const { message: asked } = request ?? {};
    const isHeld = !subscribed || asked?.symbols?.every((symbol) => currentSubscriptions.includes(symbol));
    // Otherwise a late response, after a timeout of the request.
    const acknowledgement = subscribed && !interval && this.judged(data, subscribed, request);
    if (asked?.action.startsWith(action) && asked.interval === interval && isHeld) request.resolve(data ?? { timestamp });
    if (!subscribed || interval) return;
    this.goOn(pos, data.recovered, asked, [data.why ?? "off"]);
    this.acknowledge("subscribed", acknowledgement);
  }

  /**
   * The server sends a trade by its channel, whose symbol is not in the message: that of the payload may be another, or missing. With a
   * single symbol, the trade is of this symbol.
   */
  #symbolOf(data) {
    const own = String(data?.symbol).toUpperCase(), held = this.#held;
    if (!held.size || held.has(own) || this.isUnanswered(own)) return own;
    return held.size > 1 ? undefined : [...held][0];
  }

  /** A trade for no subscription is bad, as what cannot be read. */
  #skip(data) {
    const text = `no subscription matches the symbol ${data?.symbol} of a trade`.slice(0, 1_000);
    if (!this.#hasWarned) this.put("warn", `weirgate: ${text}`, "bad");
    this.#hasWarned = true;
    throw new RangeError(text);
  }

  /** A drop refuses no request. The dropped message may be another one, which the program has sent: then the response comes. */
  #repeat(request) {
    this.driver.cancel(this.#repetition);
    this.#repetition = this.driver.after(AFTER_DROP_MS, () => request && this.asked() === request && this.put("send", request.text));
  }
}
