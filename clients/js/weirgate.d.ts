/** The status of a connection, in `connection.status` and `onStatus`. */
export type Status =
  /** The first connection, or a new one, is being made. */
  | "connecting"
  /** Connected, and the newest message is younger than `staleMs`. */
  | "open"
  /** Connected, but nothing new has come for `staleMs`. */
  | "stale"
  /** Lost; the next attempt is at `connection.retryAt`. */
  | "waiting"
  /** Ended for good: by `close()`, or by a final close code or status. */
  | "closed";

/** The end of a connection, or of an attempt to connect. */
export interface Close {
  /** The close code; 1006 without a close code. */
  code: number;
  reason: string;
  /** Whether the handshake had succeeded. */
  opened: boolean;
  /** Earlier failures in a row; 0 after `stableMs` of success. */
  attempt: number;
  /** The HTTP status of a refused handshake. Only with the package `ws`: hidden by browsers and Node's own WebSocket. */
  status?: number;
  /** The wait requested by the server: `retry_after_ms=N` in the reason, or beside `status` the header `Retry-After`; else 0. */
  retryAfterMs?: number;
  /** The code of the system's error, such as "ECONNREFUSED". Only in Node. */
  error?: string;
}

/** The reason for a missing response, or for the early end of an iteration. */
export class RequestError extends Error {
  constructor(code: string, message?: string, details?: unknown);
  /**
   * "refused": the server said no; for names `details` has the reasons by name. "timeout": no response for `requestMs`.
   * "lost": the connection broke before the response, and the request may have been carried out. "closed": there is no
   * connection any more; if the server refused the client, the message has code and reason, and `details` is the `Close`.
   * "late": more messages waited than `queueMax`. "handler": the handler of a subscription failed with the exception in
   * `details`. "token": no new token for an open connection; `details` is the exception of the function for tokens. Further codes of `weirgate events`: "rate_limited", "upstream_error", …
   */
  readonly code: string;
  readonly details: unknown;
}

/** An event of a connection: `detail` is the first argument of the option `on…`. */
export type FeedEvent<Detail, More = {}> = { readonly type: string; readonly target: any; readonly detail: Detail } & Readonly<More>;

/** What the clients need of an `AbortSignal`. */
export interface Signal {
  readonly aborted: boolean;
  addEventListener(type: "abort", listener: () => void): void;
  removeEventListener(type: "abort", listener: () => void): void;
}

/** A function, or an object with the function `handleEvent`. An exception is reported, and changes nothing. */
export type Listener<Event> = ((event: Event) => void) | { handleEvent(event: Event): void };

export type ListenerOptions = boolean | { once?: boolean; signal?: Signal; capture?: boolean; passive?: boolean };

export interface ConnectionEvents<State = LevelsState> {
  status: FeedEvent<Status, { connection: Connection<State> }>;
  open: FeedEvent<Connection<State>>;
  message: FeedEvent<any, { kept: boolean }>;
  state: FeedEvent<State, { kept: boolean }>;
  bad: FeedEvent<unknown, { data: any }>;
}

/** Options of every client. Each callback is an event too. An exception of a callback is reported, and changes nothing. */
export interface ConnectionOptions<Client> {
  /** Each message as received, before parsing. */
  onMessage?: (data: any, kept: boolean) => void;
  /** A message without valid JSON, or without an expected object; the message is skipped. Also a trade that matches no subscription. */
  onBad?: (error: unknown, data: any) => void;
  /** After each handshake. */
  onOpen?: (connection: Client) => void;
  /** Each change of `status`. The first status is "connecting", and is not announced. */
  onStatus?: (status: Status, connection: Client) => void;
  /** Overrides the reaction to a close: wait for this many ms, never reconnect (false), as usual (undefined, or an exception). */
  retry?: (close: Close) => number | false | undefined;
  /**
   * The token, or a function, called before each attempt. `refused`: the server refused the last token (close code 1008, or
   * HTTP status 401). The client tries each new token of a function, with growing waits, and is closed for good if the
   * function returns the refused token again. `Channels` calls the function also before a JWT ends, and sends the new token on the open connection.
   */
  token?: string | null | ((about: { refused: boolean }) => string | null | undefined | Promise<string | null | undefined>);
  /**
   * "protocol": the subprotocol `bearer`, kept out of logs; `?token=` for a token with characters not allowed in a
   * subprotocol. "query": always `?token=`, as the replaced channels gateway needs. Default "protocol".
   */
  tokenIn?: "protocol" | "query";
  /**
   * The most times a second at which states of levels, and messages of the conflated names of channels, are to come: 0.1 to
   * 1,000. The newest always arrives. The others are skipped, as for a slow client: numbers have gaps. Default: all.
   */
  maxHz?: number;
  /** Closes the connection on abort. */
  signal?: Signal;
  /** Time without a new message until `stale`. 0: never. Default 3,000 for levels and `connect`, otherwise 0. */
  staleMs?: number;
  /**
   * Time without any message until a new connection, up to doubled at random; clients with a probe probe the server first.
   * 0: never. Default 30,000.
   */
  silenceMs?: number;
  /** Longest wait for the handshake, the token included. Default 10,000. */
  handshakeMs?: number;
  /** Duration of a connection after which the back-off restarts. Default 5,000. */
  stableMs?: number;
  /** Upper bound of the first wait; doubles with each failure. Default 300. */
  backoffMinMs?: number;
  /** Upper bound of the doubling. Default 15,000. */
  backoffMaxMs?: number;
  /** Longest wait for a response, counted from the call. Default 10,000. */
  requestMs?: number;
  /** Most waiting messages of an iteration; with more, the iteration ends with the error "late". Default 10,000. */
  queueMax?: number;
  /** Subprotocols. */
  protocols?: string | string[];
  /** The class, if none is built in: Node before 22 takes the class of the package `ws`. */
  WebSocket?: any;
}

/**
 * The first and the last missing `seq`. Channels: messages shed by the gateway, or lost between the bus and the gateway.
 * Levels: states skipped by the gateway for this client.
 */
export interface Gap {
  first: number;
  last: number;
}

export interface Options<State = LevelsState> extends ConnectionOptions<Connection<State>> {
  /** Each message, parsed. `kept`: the first state of a reconnection is the same as before the reconnection. */
  onState?: (state: State, kept: boolean) => void;
  /** Only of `Levels`, before the first state after the gap. For a gateway with `--state-seq`. */
  onGap?: (gap: Gap) => void;
}

/** May be relative to the page, and http(s) is taken for ws(s). A function is called before each attempt. */
export type Address = Place | (() => Place | Promise<Place>);
export type Place = string | { readonly href: string; toString(): string };

/**
 * Connects, and stays connected until `close()`.
 * @throws TypeError, or the error of `new WebSocket`, for a bad address, at the first attempt only.
 */
export function connect<State = LevelsState>(url: Address, options?: Options<State>): Connection<State>;

export class Connection<State = LevelsState, Events = ConnectionEvents<State>, Item = any> {
  /** `driver`: of another engine than a browser or Node. */
  constructor(url: Address, options?: Options<State>, driver?: (client: any, url: Address) => Driver);
  readonly status: Status;
  /** The end of the last connection or attempt; null before. */
  readonly lastClose: Close | null;
  /** Connections after the first. */
  readonly reconnects: number;
  /** While `waiting`: due time of the next attempt, on the clock of `performance.now()`. */
  readonly retryAt: number;
  /** Once closed: null, or an error if the server refuses the client. */
  readonly end?: RequestError | null;
  /** The options with their defaults. */
  readonly options: Readonly<Record<string, any>>;
  /** The event type of `for await`. */
  get kind(): string;
  /** Ends the connection for good; no callback but `onStatus("closed")` follows. */
  close(code?: number, reason?: string): void;
  /** Starts a new connection immediately, also after `close()`. */
  reconnect(): void;
  /** Sends now, or returns false without an open connection: nothing is kept for later. */
  send(data: string | ArrayBufferLike | ArrayBufferView | { readonly size: number; readonly type: string }): boolean;
  /**
   * The details of an event type, from this call on. Of states only the newest waits; of other messages up to `queueMax`
   * wait. The iteration ends with `close()`, and throws RequestError after a final refusal by the server.
   */
  iterate<Type extends keyof Events>(type: Type): AsyncGenerator<Events[Type] extends FeedEvent<infer Detail> ? Detail : never>;
  iterate(): AsyncGenerator<Item>;
  [Symbol.asyncIterator](): AsyncGenerator<Item>;
  addEventListener<Type extends keyof Events & string>(type: Type, listener: Listener<Events[Type]>, options?: ListenerOptions): void;
  addEventListener(type: string, listener: Listener<any> | null, options?: ListenerOptions): void;
  removeEventListener(type: string, listener: Listener<any> | null, options?: ListenerOptions): void;
  dispatchEvent(event: { readonly type: string }): boolean;
  /** The parameters of the address; those without a value are left out. */
  protected get query(): Record<string, unknown>;
  /** The handshake has succeeded, with this address and token. Overridden by typed clients, as the next three. */
  protected opened(address: Place, token?: string | null): void;
  protected changed(status: Status): void;
  /** The object of a message. */
  protected parse(data: any): any;
  /** A parsed message. */
  protected receive(message: any, kept: boolean): void;
  /** Requests a response; returns the longest wait in ms, 0 if the protocol has no such request. */
  protected probe(): number;
  protected emit(type: string, detail: unknown, more?: object): void;
}

/**
 * Clock, timers and network of a client. The client reports to it what has to be done behind each step: `dial`, `send`, `drop`,
 * `emit`, `deliver`, `soon`, `report`; and until when to call `client.input("timer")`: `arm`. In return the driver calls
 * `client.input` with `dialed`, `connected`, `received`, `closed` and `check`.
 */
export type Driver = Record<string, (...args: any[]) => any>;

export interface LevelsEvents<State> extends ConnectionEvents<State> {
  gap: FeedEvent<Gap>;
}

/** `weirgate levels`. */
export class Levels<State = LevelsState> extends Connection<State, LevelsEvents<State>, State> {
  /** The newest state; null before the first. */
  readonly state: State | null;
}

/** A message of `weirgate levels`: each key only while the value is known. docs/reference/protocol-levels.md has the rules. */
export interface LevelsState {
  /** The last `market.flow` message: any JSON value. */
  flow?: unknown;
  levels?: Levels;
  viewport?: unknown;
  /** The number of the broadcast, with `--state-seq`. */
  seq?: number;
}

export interface Quote {
  spot: number | null;
  bid?: number | null;
  ask?: number | null;
}

export interface Levels {
  /** Unix time in ms. */
  ts: number;
  spy: Quote;
  es?: Quote;
  levels: Level[];
}

/** Values pass unchanged from the publisher: a field may be null or of another type. */
export interface Level {
  id: string;
  level_price: number;
  level_kind_name: string;
  direction: "UP" | "DOWN" | (string & {});
  distance: number;
  is_first_15m: boolean;
  barrier_state: string;
  barrier_delta_liq: number;
  barrier_replenishment_ratio: number;
  wall_ratio: number;
  tape_imbalance: number;
  tape_velocity: number;
  tape_buy_vol: number;
  tape_sell_vol: number;
  sweep_detected: boolean;
  gamma_exposure: number;
  fuel_effect: string;
  approach_velocity: number;
  approach_bars: number;
  approach_distance: number;
  prior_touches: number;
  bars_since_open: number;
  break_score_raw: number;
  break_score_smooth: number;
  signal: "BREAK" | "BOUNCE" | "CHOP" | "NO_TRADE" | (string & {});
  confidence: "LOW" | "MEDIUM" | "HIGH" | (string & {});
  note: string | null;
  confluence_count: number;
  confluence_pressure: number;
  confluence_alignment: number;
  confluence_level: number;
  confluence_level_name: string;
  ml_predictions?: MlPredictions;
}

export interface MlPredictions {
  p_tradeable_2: number;
  p_no_trade: number;
  p_break: number;
  p_bounce: number;
  strength_signed: number;
  strength_abs: number;
  utility_score: number;
  stage: string;
  time_to_threshold: Record<string, unknown>;
  retrieval: Record<string, unknown>;
}
