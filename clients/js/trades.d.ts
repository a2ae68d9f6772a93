import { Why } from "./session.js";
import { HistoryEvents, HistoryOptions, Lack, NewestOptions, Subscriber, SubscriberOptions, Subscription } from "./subscriber.js";
import { Address, FeedEvent } from "./weirgate.js";

/** A trade: each key only where the publisher sent it, with the publisher's value. */
export interface Trade {
  /** By the publisher; the server sends the trade by its channel. */
  symbol: string;
  price: number;
  volume?: number;
  /** Unix time in ms. */
  timestamp?: number;
  conditions?: string[];
  exchange?: string;
}

export interface TradesWelcome {
  connectionId: string;
  serverId: string;
  maxSymbolsPerConnection: number;
}

/** The duration of a candle. */
export type CandleInterval = "1s" | "1m" | "5m";

/** The trades of a symbol in an interval, by the timestamps of the trades. */
export interface Candle {
  symbol: string;
  interval: CandleInterval;
  /** Begin of the interval, Unix time in ms. */
  start: number;
  open: number;
  high: number;
  low: number;
  close: number;
  volume: number;
  /** Number of trades. */
  trades: number;
  /** The candle is final. A closed candle comes once. */
  closed: boolean;
  /** The gateway did not get all trades since `start`, so the candle may lack some. */
  partial?: true;
}

/** The server's response to a request for symbols; a request may have the symbols of several subscriptions. */
export interface TradesAcknowledgement {
  subscribed: string[];
  currentSubscriptions: string[];
  /** Of symbols that the client requests again on a new connection: whether all missed trades follow. If false, no missed trade
      follows; without a history (`off`), the client adds this itself. */
  recovered?: boolean;
  why?: Why | Lack;
}

export interface TradesOptions extends SubscriberOptions<Trades>, HistoryOptions<TradesAcknowledgement> {
  /** `timestamp`: time of the broadcast by the gateway, Unix time in ms. `recv_us`: with `--stamp`, when the trade arrived there, Unix
      time in microseconds. */
  onTrade?: (trade: Trade, timestamp: number, recv_us?: number) => void;
  onCandle?: (candle: Candle) => void;
  onWelcome?: (welcome: TradesWelcome) => void;
}

export interface TradesEvents extends HistoryEvents<TradesAcknowledgement> {
  trade: FeedEvent<Trade, { timestamp: number; recv_us?: number }>;
  candle: FeedEvent<Candle>;
  welcome: FeedEvent<TradesWelcome>;
}

/** `weirgate trades`: `for await` takes trades. Symbols are made upper case. */
export class Trades extends Subscriber<TradesEvents, Trade> {
  constructor(url: Address, options?: TradesOptions);
  /**
   * Wants symbols until `unsubscribe()`, connected or not. `handler` gets each trade whose `symbol` is one of these, in upper or lower
   * case; if the client holds a single symbol, each trade. Of several symbols, a trade with another `symbol` or none is `bad`.
   */
  subscribe(
    symbols: string | readonly string[],
    handler?: (trade: Trade, timestamp: number) => void,
    options?: NewestOptions,
  ): Subscription<Trade>;
  /** The symbols with candles granted on this connection, by interval. */
  readonly candles: ReadonlyMap<CandleInterval, ReadonlySet<string>>;
  /** As `subscribe`, for candles. For a gateway with `--candles`; any other refuses the symbols. */
  subscribeCandles(symbols: string | readonly string[], interval: CandleInterval, handler?: (candle: Candle) => void): Subscription<Candle>;
}
