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
}

export interface Options<State = LevelsState> {
  /** Each message, parsed. `kept`: the state that a reconnection brought is the one from before it. */
  onState?: (state: State, kept: boolean) => void;
  /** Each message as it came, before it is parsed. */
  onMessage?: (data: any, kept: boolean) => void;
  /** A message that is no JSON; without this it is skipped. */
  onBad?: (error: unknown, data: any) => void;
  /** After each handshake: the place to subscribe. */
  onOpen?: (connection: Connection<State>) => void;
  /** Each change of `status`. The first status is "connecting", and is not announced. */
  onStatus?: (status: Status, connection: Connection<State>) => void;
  /** Overrides what to do after a close: wait so many ms, never come back (false), as usual (undefined). */
  retry?: (close: Close) => number | false | undefined;
  /** Nothing new for so long: `stale`. 0: never, for feeds that are quiet at times. Default 3,000. */
  staleMs?: number;
  /** Nothing at all for so long, up to doubled at random: a new connection. 0: never. Default 30,000. */
  silenceMs?: number;
  /** Longest wait for the handshake. Default 10,000. */
  handshakeMs?: number;
  /** A connection that lasted so long starts the back-off anew. Default 5,000. */
  stableMs?: number;
  /** The first wait is up to this long; it doubles with each failure. Default 300. */
  backoffMinMs?: number;
  /** What the doubling ends at. Default 15,000. */
  backoffMaxMs?: number;
  /** Subprotocols. */
  protocols?: string | string[];
  /** Where there is none built in: Node before 22 takes the one of the package `ws`. */
  WebSocket?: any;
}

/**
 * Connects, and stays connected until `close()`.
 *
 * `url` may be relative to the page, and http(s) is taken for ws(s). A function is asked before each attempt, so
 * that a token in it is a fresh one.
 * @throws what `new URL` or `new WebSocket` throws for a bad address, at the first attempt only.
 */
export function connect<State = LevelsState>(
  url: string | URL | (() => string | URL),
  options?: Options<State>,
): Connection<State>;

export class Connection<State = LevelsState> {
  constructor(url: string | URL | (() => string | URL), options?: Options<State>);
  readonly status: Status;
  /** How the last connection or attempt ended; null before that. */
  readonly lastClose: Close | null;
  /** Connections after the first one. */
  readonly reconnects: number;
  /** While `waiting`: when the next attempt is due, on the clock of `performance.now()`. */
  readonly retryAt: number;
  /** Ends it for good; no callback but `onStatus("closed")` follows. */
  close(code?: number, reason?: string): void;
  /** A new connection at once, also after `close()`. */
  reconnect(): void;
  /** Sends now, or returns false where there is no open connection: nothing is kept for later. */
  send(data: string | ArrayBufferLike | Blob | ArrayBufferView): boolean;
}

/** A message of `weirgate levels`: each key only while it is known. docs/reference/protocol-levels.md has the rules. */
export interface LevelsState {
  /** The last `market.flow` message: any JSON value. */
  flow?: unknown;
  levels?: Levels;
  viewport?: unknown;
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
