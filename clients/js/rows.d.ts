import { ChannelMessage, Channels } from "./channels.js";

export interface Row<Value = any> {
  value: Value;
  /** With `value`. `latency.ageOf(message)` is the age of the value on the server's clock. */
  message: ChannelMessage<Value>;
  /** The name or pattern of the subscription that brought the row. */
  name: string;
  /** When it came, on the clock of `performance.now()`: `performance.now() - at` is its age in ms. */
  at: number;
}

export interface Rows<Value = any> {
  rows: Map<string, Row<Value>>;
  /** The names that are refused now, with the reasons: a name that is granted later is gone from here. */
  refused: Record<string, string>;
  /**
   * The server has not answered yet for a name, or the last values of a name are coming (`--retained`): rows may be missing, or be those
   * of the connection before.
   */
  loading: boolean;
}

export interface RowsOptions<Value = any> {
  /** The id of a row: by default the last part of the channel. */
  idOf?: (message: ChannelMessage<Value>) => string;
}

/** Calls before the next frame of the screen, or after 16 ms where there is none. */
export function nextFrame(call: () => void): void;

/**
 * Wants the names, and calls `changed` with all rows at most once a frame, before the first too, and after a change of the status or of refused names.
 * A deleted key takes its row away, and so does a new connection on which the missed messages of its name do not follow. With last
 * values (`--retained`) the rows stay until these have come; then those that were not among them go, unless values are missing. Returns a function that ends it.
 */
export function rowsOf<Value = any>(
  client: Channels<any>,
  names: string | readonly string[],
  changed: (now: Rows<Value>) => void,
  options?: RowsOptions<Value>,
): () => void;
