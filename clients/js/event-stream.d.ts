/**
 * A connection to a gateway with `--event-stream`, in the shape of a WebSocket: an event stream (Server-Sent Events) over
 * `fetch`. Takes the address of the WebSocket. The subprotocols `["bearer", token]` become an `Authorization` header; other
 * subprotocols are left out.
 *
 * `send` opens the stream again with the message in its query; messages of one tick go together. Subscriptions and
 * `identify` are sent again with each later message, other messages once. What the gateway sends between the two streams
 * is lost. A ping is answered here where the gateway was heard in the last 45 s.
 */
export class EventStream {
  constructor(url: string | URL, protocols?: string | string[]);
  /** As that of a WebSocket: 0 connecting, 1 open, 2 closing, 3 closed. */
  readonly readyState: number;
  onopen: ((event: any) => void) | null;
  /** `data` is a text, or an ArrayBuffer. */
  onmessage: ((event: { data: any }) => void) | null;
  /** 1006 without the gateway's own close; 1009 for more messages than one request may carry. */
  onclose: ((event: { code: number; reason: string }) => void) | null;
  onerror: ((event: any) => void) | null;
  send(data: string): void;
  close(code?: number, reason?: string): void;
}

/**
 * A class for the option `WebSocket` of the clients: each connection is a WebSocket or an EventStream, and sends one request. An
 * attempt that is not open after 4 s (a stream: 8 s) fails. After a WebSocket that failed before it was open the next attempt is
 * a stream, after a stream that failed a WebSocket again. Where a WebSocket has stood, three in a row have to fail first. Where a
 * stream stands, later connections to the same origin begin with a stream.
 *
 * @param WebSocket the class to try first; by default the global one.
 */
export function withFallback(WebSocket?: any): any;
