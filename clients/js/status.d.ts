import { Latency } from "./latency.js";
import { Connection } from "./weirgate.js";

export type State =
  /** As of `status`: no connection. */
  | "closed" | "waiting" | "connecting"
  /** The server's bus is away, so nothing new comes. */
  | "away"
  /** Nothing has come for `staleMs`. */
  | "stale"
  /** Messages were lost: for this client, on the bus, or while it was away; or they were `bad`; or a name has more last values than come. */
  | "missing"
  /** A request was refused or had no response, or there is no new token. */
  | "failed"
  /** Messages come more than `lateMs` late. */
  | "late"
  /** The server has not answered yet for a name, or the last values of a name are coming (`--retained`). */
  | "loading"
  /** The server refuses names. */
  | "refused"
  /** None of these. */
  | "open";

export interface Cause {
  state: State;
  /** A sentence. */
  cause: string;
}

export interface FeedStatus extends Cause {
  /** All that holds now, the worst first: `state` and `cause` are the first. */
  causes: Cause[];
}

export interface StatusOptions {
  /** Of `latencyOf`, for "late". */
  latency?: Latency | undefined;
  /** Default 1,000. */
  lateMs?: number;
  /** How long "missing", "failed" and "late" stay after the last time. Default 10,000. */
  recentMs?: number;
}

/** Calls `changed` now and at each change. Returns a function that ends it. */
export function statusOf(client: Connection<any, any, any>, changed: (now: FeedStatus) => void, options?: StatusOptions): () => void;
