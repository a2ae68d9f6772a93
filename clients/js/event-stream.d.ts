/**
 * A connection to a gateway with `--event-stream`, in the shape of a WebSocket: an event stream (Server-Sent Events) over
 * `fetch`. Takes the address of the WebSocket. The subprotocols `["bearer", token]` become an `Authorization` header; other
 * subprotocols are left out.
 *
 * `send` reopens the stream with the message in the query; messages of a tick go together. Subscriptions and `identify`
 * are sent again with each later message, without `since`; other messages are sent once. A gateway with a history gets the
 * newest position in `Last-Event-ID`, and sends the messages between the two streams; without a history these are lost. A new
 * token is refused, because queries are in logs. A ping gets a local response if data came from the gateway in the last 45 s.
 */
export class EventStream {
  /** "include": the browser sends cookies to a gateway of another origin too (`--token-cookie`, `--allowed-origins`). */
  static credentials: "same-origin" | "include" | "omit";
  constructor(url: string | { readonly href: string }, protocols?: string | string[]);
  /** Like a WebSocket: 0 connecting, 1 open, 2 closing, 3 closed. */
  readonly readyState: number;
  /** The clients send no new token on this connection, and have one for the next connection. */
  readonly takesTokens: false;
  onopen: ((event: any) => void) | null;
  /** `data` is a text, or an ArrayBuffer. */
  onmessage: ((event: { data: any }) => void) | null;
  /** 1006 without a close event of the gateway; 1009 for too many messages in a request. */
  onclose: ((event: { code: number; reason: string }) => void) | null;
  onerror: ((event: any) => void) | null;
  send(data: string): void;
  close(code?: number, reason?: string): void;
}

/**
 * A class for the option `WebSocket` of the clients: each connection is a WebSocket or an EventStream, and sends a single
 * request. An attempt that is not open after 4 s (a stream: 8 s) fails. After a failed WebSocket the next attempt is a
 * stream, and after a failed stream a WebSocket. If a WebSocket to the same origin was open before, three WebSockets in a
 * row must fail first. A WebSocket that opens and then brings no message for 4 s, or ends with 1006 or 1011 before its first message, is followed
 * by a stream; so are two that break within a minute of messages. These streams stay for an hour. After another open stream, later connections to the same origin begin with a stream, but if a WebSocket
 * was open before, another WebSocket is tried first.
 *
 * @param WebSocket the class to try first; by default the global class.
 */
export function withFallback(WebSocket?: any): any;
