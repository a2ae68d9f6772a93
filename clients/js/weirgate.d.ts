/** How a connection is, as `connection.status` and `onStatus` say it. */
export type Status =
  /** The first connection, or a new one, is being made. */
  | "connecting"
  /** Connected, and the newest message is younger than `staleMs`. */
  | "open"
  /** Connected, but nothing new has come for `staleMs`. */
  | "stale"
  /** Lost; the next attempt is at `connection.retryAt`. */
  | "waiting"
  /** Ended for good: by `close()`, or by a code with which coming back makes no sense. */
  | "closed";

/** How a connection, or an attempt to make one, ended. */
export interface Close {
  /** The close code; 1006 where there was none. */
  code: number;
  reason: string;
  /** Whether the handshake had succeeded. */
  opened: boolean;
  /** Failures in a row before this one; 0 after `stableMs` of success. */
  attempt: number;
  /** The HTTP status of a refused handshake. Only with the package `ws`: browsers and Node's own WebSocket hide it. */
  status?: number;
  /** How long the server asked to wait: the reason ends with `retry_after_ms=N`, or beside `status` the header `Retry-After`; 0 where it did not. */
  retryAfterMs?: number;
  /** The code of the system's error, such as "ECONNREFUSED". Only in Node. */
  error?: string;
}

/** Why a request has no response, or an iteration ended early. */
export class RequestError extends Error {
  constructor(code: string, message?: string, details?: unknown);
  /**
   * "refused": the server said no. "timeout": no response for `requestMs`. "lost": the connection broke before the
   * response, and the request may have been carried out. "closed": there is no connection any more. "late": more
   * messages waited than `queueMax`. From `weirgate events` its own: "rate_limited", "upstream_error", …
   */
  readonly code: string;
  readonly details: unknown;
}

/** An event of a connection: `detail` is what the option `on…` gets first. */
export type FeedEvent<Detail, More = {}> = Event & { readonly detail: Detail } & Readonly<More>;

export interface ConnectionEvents<State = LevelsState> {
  status: FeedEvent<Status, { connection: Connection<State> }>;
  open: FeedEvent<Connection<State>>;
  message: FeedEvent<any, { kept: boolean }>;
  state: FeedEvent<State, { kept: boolean }>;
  bad: FeedEvent<unknown, { data: any }>;
}

/** Options of every client. Each callback is an event too. */
export interface ConnectionOptions<Client> {
  /** Each message as it came, before it is parsed. */
  onMessage?: (data: any, kept: boolean) => void;
  /** A message that is not JSON, or not an object where one is expected; it is skipped. */
  onBad?: (error: unknown, data: any) => void;
  /** After each handshake. */
  onOpen?: (connection: Client) => void;
  /** Each change of `status`. The first status is "connecting", and is not announced. */
  onStatus?: (status: Status, connection: Client) => void;
  /** Overrides what to do after a close: wait so many ms, never come back (false), as usual (undefined). */
  retry?: (close: Close) => number | false | undefined;
  /**
   * The token, called before each attempt. `refused`: the server refused the last one (close code 1008, or HTTP status
   * 401). A token that is refused is replaced once; if the next one is refused too, the connection is closed for good.
   */
  getToken?: (about: { refused: boolean }) => string | null | undefined | Promise<string | null | undefined>;
  /**
   * "protocol": the subprotocol `bearer`, which stays out of logs; where a token has characters that a subprotocol cannot
   * have, `?token=`. "query": always `?token=`, which the replaced channels gateway needs. Default "protocol".
   */
  tokenIn?: "protocol" | "query";
  /** Closes the connection when it is aborted. */
  signal?: AbortSignal;
  /** Nothing new for so long: `stale`. 0: never. Default 3,000 for levels and `connect`, otherwise 0. */
  staleMs?: number;
  /**
   * Nothing at all for so long, up to doubled at random: a new connection; clients that can ask the server first do that.
   * 0: never. Default 30,000.
   */
  silenceMs?: number;
  /** Longest wait for the handshake, the token included. Default 10,000. */
  handshakeMs?: number;
  /** A connection that lasted so long starts the back-off anew. Default 5,000. */
  stableMs?: number;
  /** The first wait is up to this long; it doubles with each failure. Default 300. */
  backoffMinMs?: number;
  /** What the doubling ends at. Default 15,000. */
  backoffMaxMs?: number;
  /** Longest wait for a response, counted from the call. Default 10,000. */
  requestMs?: number;
  /** An iteration that has not taken so many messages ends with the error "late". Default 10,000. */
  queueMax?: number;
  /** Subprotocols. */
  protocols?: string | string[];
  /** Where there is none built in: Node before 22 takes the one of the package `ws`. */
  WebSocket?: any;
}

/**
 * The first and the last missing `seq`. Channels: messages shed by the gateway, or lost between the bus and the gateway.
 * Levels: states that the gateway skipped for this client.
 */
export interface Gap {
  first: number;
  last: number;
}

export interface Options<State = LevelsState> extends ConnectionOptions<Connection<State>> {
  /** Each message, parsed. `kept`: the state that a reconnection brought is the one from before it. */
  onState?: (state: State, kept: boolean) => void;
  /** Only of `Levels`, before the state that shows it. For a gateway with `--state-seq`. */
  onGap?: (gap: Gap) => void;
}

/** May be relative to the page, and http(s) is taken for ws(s). A function is called before each attempt. */
export type Address = string | URL | (() => string | URL | Promise<string | URL>);

/**
 * Connects, and stays connected until `close()`.
 * @throws what `new URL` or `new WebSocket` throws for a bad address, at the first attempt only.
 */
export function connect<State = LevelsState>(url: Address, options?: Options<State>): Connection<State>;

export class Connection<State = LevelsState, Events = ConnectionEvents<State>, Item = any> extends EventTarget {
  constructor(url: Address, options?: Options<State>);
  readonly status: Status;
  /** How the last connection or attempt ended; null before that. */
  readonly lastClose: Close | null;
  /** Connections after the first one. */
  readonly reconnects: number;
  /** While `waiting`: when the next attempt is due, on the clock of `performance.now()`. */
  readonly retryAt: number;
  /** The options with their defaults. */
  readonly options: Readonly<Record<string, any>>;
  /** The event that `for await` takes. */
  get kind(): string;
  /** Ends it for good; no callback but `onStatus("closed")` follows. */
  close(code?: number, reason?: string): void;
  /** A new connection at once, also after `close()`. */
  reconnect(): void;
  /** Sends now, or returns false where there is no open connection: nothing is kept for later. */
  send(data: string | ArrayBufferLike | Blob | ArrayBufferView): boolean;
  /**
   * The details of one type of event, from this call on. Only the newest state waits to be taken; of other messages up to
   * `queueMax` wait. It ends with `close()`, and throws RequestError where the server refused for good.
   */
  iterate<Type extends keyof Events>(type: Type): AsyncGenerator<Events[Type] extends FeedEvent<infer Detail> ? Detail : never>;
  iterate(): AsyncGenerator<Item>;
  [Symbol.asyncIterator](): AsyncGenerator<Item>;
  addEventListener<Type extends keyof Events & string>(type: Type, listener: (event: Events[Type]) => void, options?: boolean | AddEventListenerOptions): void;
  addEventListener(type: string, listener: EventListenerOrEventListenerObject | null, options?: boolean | AddEventListenerOptions): void;
  protected opened(): void;
  protected changed(status: Status): void;
  protected receive(message: any, kept: boolean): void;
  protected probe(): number;
  protected emit(type: string, detail: unknown, more?: object): void;
}

export interface LevelsEvents<State> extends ConnectionEvents<State> {
  gap: FeedEvent<Gap>;
}

/** `weirgate levels`. */
export class Levels<State = LevelsState> extends Connection<State, LevelsEvents<State>, State> {
  /** The newest state; null before the first. */
  readonly state: State | null;
}

/** A message of `weirgate levels`: each key only while it is known. docs/reference/protocol-levels.md has the rules. */
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

/** Values pass as the publisher sent them: a field may be null or of another type where the publisher says so. */
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
