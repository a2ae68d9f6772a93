import { Why } from "./session.js";
import { HistoryEvents, HistoryOptions, Lack, Subscriber, SubscriberOptions, Subscription } from "./subscriber.js";
import { Address, FeedEvent, Gap } from "./weirgate.js";

/** A published message. */
export interface ChannelMessage<Data = any> {
  type: "data";
  seq: number;
  channel: string;
  /** The matching pattern; null for an exact name. */
  pattern: string | null;
  data: Data;
  /** The last value, from before the subscription. */
  retained?: true;
  /** The key of a NATS key-value bucket was deleted; `data` is null, also with `payload: "binary"`. */
  deleted?: true;
  /** ISO 8601, UTC. */
  timestamp: string;
  /** When the message came from the bus to the server, Unix time in microseconds, from a gateway with `--stamp`. */
  recv_us?: number;
  /** The position, from a gateway with a history. */
  pos?: string;
}

export interface ChannelsWelcome {
  type: "connected";
  clientId: string;
  role: string;
  seq: number;
  timestamp: string;
}

/** What the subscription to a name brings, at the time of the response. */
export interface Brings {
  /**
   * "live": messages from the bus as they are published; "retained": the same after the last values; "kept" and "stream": names of
   * the history, from the bus or from a stream.
   */
  from: "live" | "kept" | "stream" | "retained";
  /** How far back the history reaches. */
  reach_ms?: number;
  /** Why that is less than the history of the server: "start" (nothing from before is known there), "bytes" (its memory holds no more),
      "large" (a message was too large). */
  why?: "start" | "bytes" | "large";
  /** The age of the newest message. */
  newest_age_ms?: number;
}

/** The server's response to a request for names; a request may have the names of several subscriptions. */
export interface ChannelsAcknowledgement {
  type: "subscribed";
  channels: string[];
  /** Why the other names were not granted. */
  errors?: string[];
  /** Of names that the client requests again on a new connection: whether all missed messages of a name follow. If false, no
      missed message follows; without a history (`off`), the client adds this itself. */
  recovered?: Record<string, boolean>;
  /** Of the names that are not recovered, or that lack their newest messages. */
  why?: Record<string, Why | Lack>;
  /** By granted name. */
  brings?: Record<string, Brings>;
  seq: number;
  timestamp: string;
}

/** The end of the last values of a name, behind each `subscribed` with the name (`--retained`). */
export interface RetainedEnd {
  type: "retained";
  /** The name or pattern. */
  channel: string;
  /** The messages with `retained` since `subscribed`. */
  count: number;
  /** Why there are more values. Without: a row that has not come does not exist. */
  cut?: "limit" | "live" | "unnamed" | "large" | "refused" | "unreadable";
  seq: number;
  timestamp: string;
}

/** The end of all kept messages of a name (`last: "all"`): live messages follow. */
export interface LastEnd {
  type: "last";
  /** The name or pattern. */
  channel: string;
  /** The messages since `subscribed`. */
  count: number;
  /** Why messages may be missing. Without: none is. */
  cut?: "window" | "large" | "epoch" | "off" | "unnamed" | "refused" | "unreadable" | "limit";
  /** The position. */
  pos?: string;
  seq: number;
  timestamp: string;
}

/** Of one subscription. */
export interface KeptOptions {
  /**
   * As `last` of the client, for these names; of two subscriptions of a name the larger counts. "all": every message that the stream
   * keeps (`--stream`), and none again on a later connection. Of a name outside of a stream, only live messages.
   */
  last?: number | "all";
}

export { Gap };

export interface ChannelsOptions<Data = any> extends SubscriberOptions<Channels<Data>>, HistoryOptions<ChannelsAcknowledgement> {
  /**
   * "binary": `data` is a Uint8Array with the bytes of the payload as published, JSON or not: `Channels<Uint8Array>`. Default:
   * the payload as JSON, or `{raw: text}`.
   */
  payload?: "binary";
  onData?: (message: ChannelMessage<Data>) => void;
  onWelcome?: (welcome: ChannelsWelcome) => void;
  /** Called before the first message after a gap. Never with the replaced gateway: its numbers do not show gaps. */
  onGap?: (gap: Gap) => void;
  /** Called after the last values of a name. */
  onRetained?: (end: RetainedEnd) => void;
  /** Called after all kept messages of a name. */
  onLast?: (end: LastEnd) => void;
}

export interface ChannelsEvents<Data = any> extends HistoryEvents<ChannelsAcknowledgement> {
  data: FeedEvent<ChannelMessage<Data>>;
  welcome: FeedEvent<ChannelsWelcome>;
  gap: FeedEvent<Gap>;
  retained: FeedEvent<RetainedEnd>;
  last: FeedEvent<LastEnd>;
}

/** `weirgate channels`, with the type of `data`: `for await` takes `data` messages. */
export class Channels<Data = any> extends Subscriber<ChannelsEvents<Data>, ChannelMessage<Data>> {
  constructor(url: Address, options?: ChannelsOptions<Data>);
  /** What each name brings, as the server has said last. */
  readonly brings: Readonly<Record<string, Brings>>;
  /** Wants names or patterns until `unsubscribe()`, connected or not. `handler` gets each message of these names. */
  subscribe<Own extends Data = Data>(
    names: string | readonly string[],
    handler?: (data: Own, message: ChannelMessage<Own>) => void,
    options?: KeptOptions,
  ): Subscription<ChannelMessage<Own>>;
}
