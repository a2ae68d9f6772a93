import { Address, Connection, ConnectionEvents, ConnectionOptions, FeedEvent, RequestError } from "./weirgate.js";

export interface SessionOptions<Client> extends ConnectionOptions<Client> {
  /**
   * Each refusal by the server, each exception of a subscription's handler, and each failure to get a new token on an open
   * connection. A refused request is rejected as well.
   */
  onError?: (error: RequestError) => void;
}

export interface SessionEvents extends ConnectionEvents<never> {
  error: FeedEvent<RequestError>;
}

export interface RequestOptions {
  /** Rejects the request on abort. The server still carries out a request already sent. */
  signal?: AbortSignal;
}

/**
 * A connection with requests: each has a promise for its response, rejected with a RequestError. The feed may be quiet, so
 * silence alone is no fault: the client probes.
 */
export class Session<Events, Item> extends Connection<never, Events, Item> {
  constructor(url: Address, options?: SessionOptions<any>);
  /** Whether a request waits for the previous response, because responses do not name the request. */
  protected get isSerial(): boolean;
  /**
   * The response to the message that `make` returns for an id. Without a connection the request waits for the next
   * connection, unless it `isBound` to this one. A request in flight at the end of a connection is sent again only if
   * `isSafe`. A refusal is an `error` event unless it `isQuiet`.
   */
  protected ask(
    make: (id: string) => object,
    how?: RequestOptions & { isSafe?: boolean; isQuiet?: boolean; isBound?: boolean },
  ): Promise<any>;
}
