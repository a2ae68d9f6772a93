// Ten thousand clients and one outage, in virtual time.
import assert from "node:assert/strict";
import { test } from "node:test";

import { connect } from "../weirgate.js";
import { inWorld, passInSteps, seeded, sockets, world } from "./world.mjs";

const CLIENTS = 10_000;
const OUTAGE_MS = 3_000;
/** After an outage a client waits no longer than the outage has lasted, beside the shortest wait. */
const BACK_MS = 3_300;

test("10,000 clients are back 3.3 s after an outage of 3 s, and not all at once", inWorld(() => {
  world.random = seeded(7);
  const feeds = Array.from({ length: CLIENTS }, () => connect("ws://feed.example/ws/stream", { staleMs: 0, silenceMs: 0 }));
  sockets.forEach((socket) => socket.open());
  let answered = sockets.length, attempts = 0;
  /** The server answers all new handshakes. */
  const answer = (open) => {
    for (; answered < sockets.length; answered += 1) {
      attempts += 1;
      if (open) sockets[answered].open();
      else sockets[answered].end(1006);
    }
  };
  sockets.slice().forEach((socket) => socket.end(1006));
  for (let ms = 0; ms < OUTAGE_MS; ms += 1) {
    passInSteps(1);
    answer(false);
  }
  const during = attempts;
  const perMs = [];
  for (let ms = 0; ms < BACK_MS; ms += 1) {
    const before = attempts;
    passInSteps(1);
    answer(true);
    perMs.push(attempts - before);
  }
  assert.equal(feeds.filter((feed) => feed.status === "open").length, CLIENTS);
  assert.equal(attempts - during, CLIENTS, "one attempt each once the server is there");
  const busiest = Math.max(...perMs.map((_, at) => perMs.slice(at, at + 100).reduce((sum, n) => sum + n, 0)));
  assert.ok(busiest < CLIENTS / 10, `${busiest} clients in a tenth of a second`);
  assert.ok(during < 10 * CLIENTS, `${during} attempts in vain`);
  feeds.forEach((feed) => feed.close());
}));
