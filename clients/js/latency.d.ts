import { Subscriber } from "./subscriber.js";

export interface Latency {
  /**
   * How late the newest live message came: from the bus to this client with a gateway with `--stamp`, else from the gateway to
   * this client. Undefined before the first message, and until the server's clock is known.
   */
  readonly ms: number | undefined;
  /** `ms`, `serverNow` and `ageOf` are wrong by at most so much: half of the best round trip, and what clocks drift since. */
  readonly errorMs: number | undefined;
  /** Of the newest ping. */
  readonly roundTripMs: number | undefined;
  /** The time of the server now, Unix time in ms. `serverNow() - Date.now()` is the offset of the clocks. */
  serverNow(): number | undefined;
  /** How old a message is now, in ms: since the bus with `--stamp`, else since its `timestamp`. */
  ageOf(message: { recv_us?: number; timestamp?: string | number }): number | undefined;
  end(): void;
}

/**
 * Finds the offset of the server's clock: four pings after each connection, then one each `pingMs` (60,000), half to one and a half
 * times at random. On an event stream the clock stays unknown, since the client answers pings itself.
 */
export function latencyOf(client: Subscriber<any, any>, options?: { pingMs?: number }): Latency;
