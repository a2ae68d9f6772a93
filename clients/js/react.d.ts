import type { Brings, Channels, ChannelMessage } from "./channels.js";
import type { Trade, Trades } from "./trades.js";
import type { Bus } from "./subscriber.js";
import type { Rows, RowsOptions } from "./rows.js";
import type { FeedStatus, StatusOptions } from "./status.js";
import { Connection, Status } from "./weirgate.js";

type AnyConnection = Connection<any, any, any>;
type ItemOf<Client> = Client extends AsyncIterable<infer Item> ? Item : never;

export interface Feed<Client> {
  status: Status;
  /** The newest state, trade, message or push; undefined before the first. */
  value: ItemOf<Client> | undefined;
  /** null until the component is mounted. */
  client: Client | null;
}

/**
 * The newest message of a client, and the status of the connection. Renders at most once a frame.
 *
 * With a function the component owns the client: the client is made at mount and when `deps` change, and closed at
 * unmount. With a client, several components can share this client, and none closes it.
 */
export function useFeed<Client extends AnyConnection>(make: () => Client, deps?: readonly unknown[]): Feed<Client>;
export function useFeed<Client extends AnyConnection>(client: Client): Feed<Client>;

export interface Channel<Data, Message> {
  status: Status;
  /** The newest data of the name; undefined before the first. */
  value: Data | undefined;
  /** Of channels the message with `value`, of trades the time of the broadcast. */
  message: Message | undefined;
  /** "away": the server gets no messages, so `value` may be old. */
  bus: Bus | undefined;
  /** Whether `value` may be old: not connected, the server's bus is away, or nothing has come for `staleMs`. */
  stale: boolean;
  /** How often the bus has lost messages so far. */
  lost: number;
  /** Whether the last resume of the name has missed nothing; undefined before the component's first. Without a history on the server,
      each reconnection is a resume that may have missed something. */
  recovered: boolean | undefined;
  /** Of channels: what the name brings, as the server has said last. */
  brings: Brings | undefined;
  /** Why the server refuses the name. */
  error: string | undefined;
}

/**
 * The newest data of a name or pattern (channels) or symbol (trades), and the status of the connection. Renders at most
 * once a frame. Components share the client, and the name: it is given up with the last component. Without a client, the
 * hook waits.
 */
export function useChannel<Data>(client: Channels<Data> | null, name: string): Channel<Data, ChannelMessage<Data>>;
export function useChannel(client: Trades | null, name: string): Channel<Trade, number>;

/**
 * The rows by id of several names, as `rowsOf` has them. The names may be a new list each time; the options are those of the first
 * render.
 */
export function useRows<Value = any>(client: Channels<any> | null, names: string | readonly string[], options?: RowsOptions<Value>): Rows<Value>;

/** What is wrong with a client, as `statusOf` has it. The options are those of the first render. */
export function useStatus(client: AnyConnection | null, options?: StatusOptions): FeedStatus;
