// Clients in JavaScript for rotation.py: rotation_clients.mjs COUNT TOKENS KIND=URL…, until its input ends; then a line of JSON.
import { createRequire } from "node:module";

import { Channels } from "../../clients/js/channels.js";

const { WebSocket } = createRequire(new URL("../node/package.json", import.meta.url))("ws");
const [count, tokens, ...gateways] = process.argv.slice(2);
const outcome = { closed: [], last: {}, longest_ms: 0, messages: 0 };

const clients = Array.from({ length: Number(count) }, (_, n) => {
  const [kind, url] = gateways[n % gateways.length].split("=");
  let heard = performance.now();
  const client = new Channels(url, {
    WebSocket,
    token: async () => (await fetch(`${tokens}/${kind}`)).text(),
    onStatus: (status) => status === "closed" && outcome.closed.push(`${kind}: ${client.lastClose?.code} ${client.lastClose?.reason}`),
  });
  client.subscribe("news", () => {
    outcome.messages += 1;
    outcome.longest_ms = Math.max(outcome.longest_ms, Math.round(performance.now() - heard));
    heard = performance.now();
  });
  return client;
});

process.stdin.resume();
process.stdin.on("end", () => {
  for (const { status } of clients) outcome.last[status] = (outcome.last[status] ?? 0) + 1;
  console.log(JSON.stringify(outcome));
  process.exit(0);
});
