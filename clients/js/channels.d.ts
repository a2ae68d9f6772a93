import { SessionEvents, SessionOptions, Subscriber } from "./session.js";
import { Address, FeedEvent, Gap } from "./weirgate.js";

/** A published message. */
export interface ChannelMessage<Data = any> {
  type: "data";
  seq: number;
  channel: string;
  /** The matching pattern; null for an exact name. */
  pattern: string | null;
  data: Data;
  /** With a history on the server: the number of the message among the messages of the name or pattern. */
  offset?: number;
  /** On the first message of an epoch; offsets of different epochs are unrelated. */
  epoch?: string;
  /** The last value, from before the subscription. */
  retained?: true;
  /** ISO 8601, UTC. */
  timestamp: string;
}

/** A position in the messages of a name or pattern. */
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

/** `errors`: why some names were not granted. If no name was granted, the request is rejected. */
export interface ChannelsAcknowledgement {
  type: "subscribed" | "unsubscribed";
  channels: string[];
  errors?: string[];
  /** With a history on the server: the current position of each name. */
  positions?: Record<string, Position>;
  /** On a new connection: whether all missed messages of a name follow. If false, no missed message follows. */
  recovered?: Record<string, boolean>;
  seq: number;
  timestamp: string;
}

export { Gap };

export interface ChannelsOptions extends SessionOptions<Channels> {
  onData?: (message: ChannelMessage) => void;
  onWelcome?: (welcome: ChannelsWelcome) => void;
  /** Each acknowledgement of a subscription, including renewals on a new connection. */
  onSubscribed?: (acknowledgement: ChannelsAcknowledgement) => void;
  /** Called before the first message after a gap. Never with the replaced gateway: its numbers do not show gaps. */
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
