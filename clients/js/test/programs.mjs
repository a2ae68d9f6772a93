// Starts the programs for the tests: weirgate and a redis-server, on free ports; they end with the tests.
import assert from "node:assert/strict";
import { execFileSync, spawn } from "node:child_process";
import { createHmac } from "node:crypto";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { createRequire } from "node:module";
import { connect as dial } from "node:net";
import { availableParallelism, loadavg } from "node:os";
import { fileURLToPath } from "node:url";
import { after } from "node:test";

const root = fileURLToPath(new URL("../../../", import.meta.url));
const { CARGO_TARGET_DIR: target = `${root}target`, TEST_BUILD: build = "debug" } = process.env;
const program = process.env.TEST_BINARY ?? `${target}/${build}/weirgate`;
if (!existsSync(program)) throw new Error(`no program at ${program}: run \`make test\` once`);
let found;
try {
  found = createRequire(`${root}tests/node/`)("ws");
} catch {
  throw new Error("no package ws: run `scripts/install-test-deps.sh`");
}
export const { WebSocket, WebSocketServer } = found;

const children = [];
after(() => children.forEach((child) => child.kill("SIGKILL")));

/** A port unused by other tests (tests/rig/ports.py). */
export const freePort = () => Number(execFileSync("python3", [`${root}tests/rig/ports.py`]));

/** Starts a program; `env` overrides the environment. */
export function start(command, args, env = {}) {
  const child = spawn(command, args, { stdio: "ignore", env: { ...process.env, ...env } });
  children.push(child);
  return child;
}

export const startWeirgate = (args, env) => start(program, args, env);

/** Waits until `condition`, possibly async, holds, longer while other programs want the cores too; returns the time in ms. */
export async function until(condition, ms, what) {
  const begin = performance.now();
  while (!(await condition())) {
    const took = performance.now() - begin, busy = Math.max(1, loadavg()[0] / availableParallelism());
    assert.ok(took < ms * busy, `not within ${Math.round(took)} ms: ${what}`);
    await new Promise((go) => setTimeout(go, 20));
  }
  return performance.now() - begin;
}

/** Returns once the gateway is ready. */
export const ready = (port) =>
  until(() => fetch(`http://127.0.0.1:${port}/ready`).then(({ ok }) => ok, () => false), 20_000, "ready");

/** Starts a redis-server; returns the URL, and a function that publishes bytes, or a value as JSON. */
export async function startRedis() {
  const port = freePort();
  const path = `${process.env.PATH}:/usr/sbin`;
  start("redis-server", ["--port", `${port}`, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"], { PATH: path });
  const command = async (...words) => {
    const socket = dial(port, "127.0.0.1");
    const parts = words.map((word) => [`$${Buffer.byteLength(word)}\r\n`, word, "\r\n"]);
    socket.write(Buffer.concat([`*${words.length}\r\n`, ...parts.flat()].map((part) => Buffer.from(part))));
    const [answer] = await once(socket, "data");
    socket.destroy();
    return String(answer);
  };
  await until(() => command("PING").then((answer) => answer.startsWith("+PONG"), () => false), 20_000, "redis-server");
  return { url: `redis://127.0.0.1:${port}`, publish: (channel, value) => command("PUBLISH", channel, value instanceof Uint8Array ? value : JSON.stringify(value)) };
}

export const SECRET = "a-secret-of-32-bytes-for-the-tests!";

/** A JWT with HS256. */
export function jwt(claims) {
  const body = [{ alg: "HS256", typ: "JWT" }, claims].map((part) => Buffer.from(JSON.stringify(part)).toString("base64url")).join(".");
  return `${body}.${createHmac("sha256", SECRET).update(body).digest("base64url")}`;
}
