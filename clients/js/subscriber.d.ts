import { RequestOptions, ResumeOptions, Session, SessionEvents, SessionOptions } from "./session.js";
import { FeedEvent, Place } from "./weirgate.js";

export interface SubscriberOptions<Client> extends SessionOptions<Client> {
  /** Most names of all subscriptions together; a name of two subscriptions counts twice. With more, `subscribe` throws. Default 10,000. */
  namesMax?: number;
}

/**
 * Why newest messages (`last`) have not come, or may be outdated ("lost": the bus has lost messages since). On channels the client
 * asks for them again, but not if they are "unnamed" (a name is not UTF-8), "large" or "lost".
 */
export type Lack = "away" | "refused" | "unreadable" | "limit" | "unnamed" | "large" | "lost";

/** Whether the server gets messages from its bus. */
export type Bus = "up" | "away";

/** For a gateway with `--history-ms`. */
export interface HistoryOptions<Acknowledgement> extends ResumeOptions {
  /** The newest messages of each name, 1 to 100: with the first subscription, and where missed messages do not follow. */
  last?: number;
  /** Each acknowledgement of names, also on a new connection; `recovered` says whether all missed messages follow. */
  onSubscribed?: (acknowledgement: Acknowledgement) => void;
  /** The bus went, came back, or `lost` messages. The first status of a connection counts as a change. */
  onBus?: (bus: Bus, lost: boolean) => void;
  /** The refused names have changed: one was refused, granted or given up. */
  onRefused?: (refused: Record<string, string>) => void;
  /** The names without an answer have changed. */
  onUnanswered?: (unanswered: string[]) => void;
  /** The last values of other names are coming, or those of a name have come. */
  onComing?: (coming: string[]) => void;
}

/** Of one subscription. */
export interface NewestOptions {
  /** As `last` of the client, for these names; of two subscriptions of a name the larger counts. */
  last?: number;
}

export interface HistoryEvents<Acknowledgement> extends SessionEvents {
  subscribed: FeedEvent<Acknowledgement>;
  bus: FeedEvent<Bus, { lost: boolean }>;
  refused: FeedEvent<Record<string, string>>;
  unanswered: FeedEvent<string[]>;
  coming: FeedEvent<string[]>;
}

/** The server's answer about the names of a subscription. */
export interface Answer {
  granted: string[];
  /** The reasons by name. */
  refused: Record<string, string>;
}

/**
 * Names that a part of the program wants until `unsubscribe()`, over all connections.
 *
 * Awaited, it is the answer once the server has granted or refused each name; rejected with a RequestError "refused" if no
 * name is granted, "timeout" (the names stay wanted), or "closed". `for await` takes the messages of the names, from the
 * begin of the loop; the loop ends with `unsubscribe()` or `close()`, and throws if the server refuses all names or the
 * client for good, or if more than `queueMax` messages wait.
 */
export interface Subscription<Item> extends PromiseLike<Answer>, AsyncIterable<Item> {
  catch<Other = never>(rejected?: (error: any) => Other | PromiseLike<Other>): Promise<Answer | Other>;
  /** The names granted on this connection. */
  readonly granted: string[];
  /** The names refused by the server, with the reasons. */
  readonly refused: Record<string, string>;
  /** The names whose last values are still coming to this subscription. */
  readonly coming: string[];
  /** Gives up the names: each name with the last of its subscriptions. No call of the handler follows. */
  unsubscribe(): void;
}

/** Names that are wanted until they are given up: asked for on each connection, and again after a new token. */
export class Subscriber<Events, Item> extends Session<Events, Item> {
  /** The names granted on this connection. */
  readonly subscriptions: ReadonlySet<string>;
  /** The wanted names that the server refuses, with the reasons: without those that were granted or given up since. */
  readonly refused: Readonly<Record<string, string>>;
  /** The wanted names that the server has neither granted nor refused on this connection. */
  readonly unanswered: readonly string[];
  /** The names whose last values are coming to a subscription. */
  readonly coming: readonly string[];
  /** Why not all last values of names, or newest messages (`last`), have come; "lost": newer ones may be missing. */
  readonly cuts: Readonly<Record<string, string>>;
  /** As the server has said on this connection; undefined before. While it is "away", `status` is "stale". */
  readonly bus: Bus | undefined;
  /** How often the bus has lost messages so far. */
  readonly lost: number;
  /** The `recovered` of the newest acknowledgement that has one. */
  readonly recovered: boolean | Record<string, boolean> | undefined;
  /** The time of the server; without, if the client itself has answered for a live event stream. */
  ping(options?: RequestOptions): Promise<{ timestamp?: number | string }>;
  /** The server has admitted the client with a token. Another token may be granted more, so refused names are asked for again. */
  protected admitted(address: Place, token?: string | null): void;
  /** A new token does not grant the names. */
  protected revoked(names: readonly string[]): void;
}
