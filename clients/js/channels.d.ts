import { SessionEvents, SessionOptions, Subscriber } from "./session.js";
import { Address, FeedEvent, Gap } from "./weirgate.js";

/** What Redis published. */
export interface ChannelMessage<Data = any> {
  type: "data";
  seq: number;
  channel: string;
  /** The pattern that brought it; null for an exact name. */
  pattern: string | null;
  data: Data;
  /** Where the server keeps a history: counts the messages of the name or pattern. */
  offset?: number;
  /** On the first message of an epoch: offsets of different epochs have nothing to do with each other. */
  epoch?: string;
  /** The last value, from before the subscription. */
  retained?: true;
  /** ISO 8601, UTC. */
  timestamp: string;
}

/** A place in the messages of a name or pattern. */
export interface Position {
  epoch: string;
  offset: number;
}

export interface ChannelsWelcome {
  type: "connected";
  clientId: string;
  role: string;
  seq: number;
  timestamp: string;
}

/** `errors`: why some of the names were not granted. Where none was, the request is rejected. */
export interface ChannelsAcknowledgement {
  type: "subscribed" | "unsubscribed";
  channels: string[];
  errors?: string[];
  /** Where the server keeps a history: where each of the names is. */
  positions?: Record<string, Position>;
  /** On a new connection: whether all that was missed of a name follows. If not, nothing of it does. */
  recovered?: Record<string, boolean>;
  seq: number;
  timestamp: string;
}

export { Gap };

export interface ChannelsOptions extends SessionOptions<Channels> {
  onData?: (message: ChannelMessage) => void;
  onWelcome?: (welcome: ChannelsWelcome) => void;
  /** Each acknowledgement of a subscription, also of those that the client renews on a new connection. */
  onSubscribed?: (acknowledgement: ChannelsAcknowledgement) => void;
  /** Before the message that shows it. The replaced gateway has no numbers that could tell. */
  onGap?: (gap: Gap) => void;
}

export interface ChannelsEvents extends SessionEvents {
  data: FeedEvent<ChannelMessage>;
  welcome: FeedEvent<ChannelsWelcome>;
  subscribed: FeedEvent<ChannelsAcknowledgement>;
  gap: FeedEvent<Gap>;
}

/** `weirgate channels`: `for await` takes `data` messages. */
export class Channels extends Subscriber<ChannelsEvents, ChannelMessage, ChannelsAcknowledgement> {
  constructor(url: Address, options?: ChannelsOptions);
}
