import { Address, Connection, ConnectionEvents, ConnectionOptions, FeedEvent, RequestError } from "./weirgate.js";

export interface SessionOptions<Client> extends ConnectionOptions<Client> {
  /** Each refusal by the server; a refused request is rejected as well. */
  onError?: (error: RequestError) => void;
}

export interface SessionEvents extends ConnectionEvents<never> {
  error: FeedEvent<RequestError>;
}

export interface RequestOptions {
  /** Rejects the request on abort. The server still carries out a request already sent. */
  signal?: AbortSignal;
}

/** A connection with requests: each has a promise for its response, rejected with a RequestError. */
export class Session<Events, Item> extends Connection<never, Events, Item> {
  constructor(url: Address, options?: SessionOptions<any>);
}

/** Names to subscribe to, and to subscribe to again on each new connection. */
export class Subscriber<Events, Item, Acknowledgement> extends Session<Events, Item> {
  /** The names granted by the server. */
  readonly subscriptions: ReadonlySet<string>;
  /** Resolves with the server's acknowledgement. Without a connection the request waits for a connection, `requestMs` at most. */
  subscribe(names: string | readonly string[], options?: RequestOptions): Promise<Acknowledgement>;
  unsubscribe(names: string | readonly string[], options?: RequestOptions): Promise<Acknowledgement>;
  ping(options?: RequestOptions): Promise<{ timestamp: number | string }>;
}
