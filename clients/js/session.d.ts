import { Address, Connection, ConnectionEvents, ConnectionOptions, FeedEvent, RequestError } from "./weirgate.js";

export interface SessionOptions<Client> extends ConnectionOptions<Client> {
  /** Each refusal by the server, and each exception of a subscription's handler. A refused request is rejected as well. */
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
