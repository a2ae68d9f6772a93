import { SessionEvents, SessionOptions, Subscriber } from "./session.js";
import { Address, FeedEvent } from "./weirgate.js";

/** A trade: each key only where the publisher sent it, with the publisher's value. */
export interface Trade {
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

export interface TradesAcknowledgement {
  subscribed?: string[];
  unsubscribed?: string[];
  currentSubscriptions: string[];
}

export interface TradesOptions extends SessionOptions<Trades> {
  /** `timestamp`: when the gateway broadcast it, Unix time in ms. */
  onTrade?: (trade: Trade, timestamp: number) => void;
  onWelcome?: (welcome: TradesWelcome) => void;
}

export interface TradesEvents extends SessionEvents {
  trade: FeedEvent<Trade, { timestamp: number }>;
  welcome: FeedEvent<TradesWelcome>;
}

/** `weirgate trades`: `for await` takes trades. Symbols are made upper case. */
export class Trades extends Subscriber<TradesEvents, Trade, TradesAcknowledgement> {
  constructor(url: Address, options?: TradesOptions);
}
