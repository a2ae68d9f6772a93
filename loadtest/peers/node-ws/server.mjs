// Node's ws as its manual shows a broadcast: send() for each client; over TLS with TLS_CERT and TLS_KEY, as it shows too.
import { readFileSync } from "node:fs";
import https from "node:https";
import net from "node:net";
import { WebSocketServer } from "ws";

const host = "127.0.0.1", listenPort = Number(process.env.GATEWAY_PORT ?? 8000);
const { TLS_CERT: cert, TLS_KEY: key } = process.env;
let server;
if (cert) {
  // Without a choice of ours, Node prefers AES-256; the other servers and the limit use AES-128.
  const suite = { minVersion: "TLSv1.3", ciphers: "TLS_AES_128_GCM_SHA256" };
  const pages = https.createServer({ cert: readFileSync(cert), key: readFileSync(key), ...suite });
  server = new WebSocketServer({ server: pages });
  pages.listen(listenPort, host);
} else {
  server = new WebSocketServer({ host, port: listenPort });
}
server.on("connection", (client) => client.on("error", () => {}));

function broadcast(payload) {
  // A string, as a relay has it; ws makes the bytes of a frame for each client.
  const text = `{"flow":${payload}}`;
  for (const client of server.clients) client.send(text);
}

// Core NATS without a library: SUB, then MSG subject sid [reply] bytes.
const { hostname, port } = new URL(process.env.NATS_URL ?? "nats://127.0.0.1:4222");
const nats = net.connect(Number(port), hostname);
nats.setNoDelay(true);
nats.write('CONNECT {"verbose":false}\r\nSUB market.flow 1\r\n');
let waiting = Buffer.alloc(0);
nats.on("data", (chunk) => {
  waiting = waiting.length ? Buffer.concat([waiting, chunk]) : chunk;
  for (;;) {
    const end = waiting.indexOf("\r\n");
    if (end < 0) return;
    const line = waiting.toString("latin1", 0, end);
    let next = end + 2;
    if (line === "PING") nats.write("PONG\r\n");
    if (line.startsWith("MSG ")) {
      const bytes = Number(line.slice(line.lastIndexOf(" ") + 1));
      if (waiting.length < next + bytes + 2) return;
      broadcast(waiting.toString("utf8", next, next + bytes));
      next += bytes + 2;
    }
    waiting = waiting.subarray(next);
  }
});
nats.on("close", () => process.exit(0));
process.on("SIGTERM", () => process.exit(0));
