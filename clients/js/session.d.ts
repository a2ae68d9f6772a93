import { Address, Connection, ConnectionEvents, ConnectionOptions, FeedEvent, RequestError, Signal } from "./weirgate.js";

export interface SessionOptions<Client> extends ConnectionOptions<Client> {
  /**
   * Each refusal by the server, each exception of a subscription's handler, and each failure to get a new token on an open
   * connection. A refused request is rejected as well.
   */
  onError?: (error: RequestError) => void;
}

/** With a history on the server. */
export interface ResumeOptions {
  /** The position to go on from, as a client before had it in `position`. Without: live messages alone. */
  since?: string | null | undefined;
}

/**
 * Why missed messages do not follow. bad: no position of this feed; off: no history; gap: the server may have lost messages
 * itself; epoch: the position is unknown; ahead: the server is behind the position; window: missed messages are too old;
 * large: too many.
 */
export type Why = "bad" | "off" | "gap" | "epoch" | "ahead" | "window" | "large";

export interface SessionEvents extends ConnectionEvents<never> {
  error: FeedEvent<RequestError>;
}

export interface RequestOptions {
  /** Rejects the request on abort. The server still carries out a request already sent. */
  signal?: Signal;
}

/**
 * A connection with requests: each has a promise for its response, rejected with a RequestError. The feed may be quiet, so
 * silence alone is not a fault: the client probes.
 */
export class Session<Events, Item> extends Connection<never, Events, Item> {
  constructor(url: Address, options?: SessionOptions<any>);
  /** With a history on the server: the position up to which the client has all messages. */
  readonly position: string | null | undefined;
  /** Whether the server still has to answer a position of this connection. The position does not move until then. */
  protected isResuming: boolean;
  /** Keeps the position of a message. */
  protected hear(message: { pos?: string }): void;
  /** Keeps `recovered` of an acknowledgement, and emits it. */
  protected acknowledge(type: string, detail: object): void;
  /** Keeps the position of a response unless missed messages follow. */
  protected goOn(pos: string | undefined, isRecovered?: boolean): void;
  /** Whether a request waits for the previous response, because responses do not name the request. */
  protected get isSerial(): boolean;
  /**
   * The response to the message that `make` returns for an id. Without a connection the request waits for the next
   * connection, unless it `isBound` to this one. A request in flight at the end of a connection is sent again only if
   * `isSafe`. A refusal is an `error` event unless it `isQuiet`. `done` gets the response or error at once, before the
   * next message.
   */
  protected ask(
    make: (id: string) => object,
    how?: RequestOptions & { isSafe?: boolean; isQuiet?: boolean; isBound?: boolean; done?: (answer: any) => void },
  ): Promise<any>;
}
