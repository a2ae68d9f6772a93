// TLS towards clients: its handshakes since the start, and the certificate that ends first.
import { Pairs } from "./tables.js";
import { byId, decimal, duration } from "./values.js";

const pairs = new Pairs("tls");

const DAY_MS = 86_400_000;
/** Renewal comes a month before the end: less than this is worth a look, and then needs somebody. */
const SOON_MS = 14 * DAY_MS, VERY_SOON_MS = 3 * DAY_MS;

function ends(inMs) {
  if (inMs <= 0) return ["has ended", "bad"];
  return [`in ${duration(inMs)}`, inMs < VERY_SOON_MS ? "bad" : inMs < SOON_MS ? "wait" : ""];
}

export function drawTls({ tls, now_unix_ms: now }) {
  byId("tls-card").hidden = !tls;
  if (!tls) return;
  pairs.draw([
    ["Certificate ends", ...ends(tls.certificate_ends_unix_ms - now)],
    ["Whole handshakes", decimal(tls.handshakes_full, 0)],
    ["Resumed with a ticket", decimal(tls.handshakes_resumed, 0)],
    ["Failed", decimal(tls.handshakes_failed, 0)],
    ["Under way or waiting", decimal(tls.handshakes_open, 0)],
  ]);
}
