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
