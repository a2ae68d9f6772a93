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
  /** ISO 8601, UTC. */
  timestamp: string;
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
  seq: number;
  timestamp: string;
}

export { Gap };

export interface ChannelsOptions extends SessionOptions<Channels> {
  onData?: (message: ChannelMessage) => void;
  onWelcome?: (welcome: ChannelsWelcome) => void;
  /** Before the message that shows it. The replaced gateway has no numbers that could tell. */
  onGap?: (gap: Gap) => void;
}

export interface ChannelsEvents extends SessionEvents {
  data: FeedEvent<ChannelMessage>;
  welcome: FeedEvent<ChannelsWelcome>;
  gap: FeedEvent<Gap>;
}

/** `weirgate channels`: `for await` takes `data` messages. */
export class Channels extends Subscriber<ChannelsEvents, ChannelMessage, ChannelsAcknowledgement> {
  constructor(url: Address, options?: ChannelsOptions);
}
