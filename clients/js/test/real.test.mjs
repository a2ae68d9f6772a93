// weirgate.js in Node, on the package `ws`, against the program itself.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { createRequire } from "node:module";
import { createServer } from "node:net";
import { fileURLToPath } from "node:url";
import { after, test } from "node:test";

import { connect } from "../weirgate.js";

const root = fileURLToPath(new URL("../../../", import.meta.url));
const program = process.env.TEST_BINARY ?? `${process.env.CARGO_TARGET_DIR ?? `${root}target`}/release/weirgate`;
if (!existsSync(program)) throw new Error(`no program at ${program}: run \`cargo build --release\` (or \`make test\`)`);
let WebSocket;
try {
  ({ WebSocket } = createRequire(`${root}tests/node/`)("ws"));
} catch {
  throw new Error("no package ws: run `scripts/install-test-deps.sh`");
}

const children = [];
after(() => children.forEach((child) => child.kill("SIGKILL")));

async function freePort() {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address();
  server.close();
  await once(server, "close");
  return port;
}

function startDemo(port) {
  const child = spawn(program, ["demo", "--port", `${port}`, "--rate-hz", "10"], { stdio: "ignore" });
  children.push(child);
  return child;
}

/** Returns once `condition` holds; how long it took, in ms. */
async function until(condition, ms, what) {
  const begin = performance.now();
  while (!condition()) {
    assert.ok(performance.now() - begin < ms, `not within ${ms} ms: ${what}`);
    await new Promise((go) => setTimeout(go, 20));
  }
  return performance.now() - begin;
}

test("states come, a frozen server is stale within 3 s, a killed one is back within 5 s of its start", async () => {
  const port = await freePort();
  let server = startDemo(port);
  const spots = new Set();
  const feed = connect(`http://127.0.0.1:${port}/ws/stream`, {
    WebSocket,
    onState: ({ levels }) => { if (levels) spots.add(levels.es.spot); },
  });
  try {
    await until(() => spots.size > 2, 20_000, "three prices");
    assert.equal(feed.status, "open");

    server.kill("SIGSTOP");
    await until(() => feed.status === "stale", 4_000, "stale");
    server.kill("SIGCONT");
    await until(() => feed.status === "open", 4_000, "fresh again");

    server.kill("SIGKILL");
    await until(() => feed.status !== "open", 2_000, "the loss is noticed");
    assert.equal(feed.lastClose.code, 1006);
    spots.clear();
    server = startDemo(port);
    await until(() => feed.status === "open" && spots.size > 1, 5_000, "fresh prices");

    server.kill("SIGTERM");
    await until(() => feed.lastClose.code === 1012, 5_000, "the stop's close code");
    feed.close();
    assert.equal(feed.status, "closed");
  } finally {
    feed.close();
  }
});
