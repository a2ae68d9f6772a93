// The rules of weirgate.js, each in virtual time.
import assert from "node:assert/strict";
import { test } from "node:test";

import { connect } from "../weirgate.js";
import { inWorld, latest, nextAttempt, pass, sleep, sockets, world } from "./world.mjs";

const URL_ = "ws://feed.example/ws/stream";

/** A connection with a record of all statuses and states. */
function watched(options = {}) {
  const said = [];
  const feed = connect(URL_, {
    onStatus: (status) => said.push(status),
    onState: (state, kept) => said.push(kept ? { ...state, kept } : state),
    ...options,
  });
  return { feed, said };
}

test("states arrive parsed, and the status tells how it is", inWorld(() => {
  const { feed, said } = watched();
  assert.equal(feed.status, "connecting");
  latest().open();
  latest().message({ n: 1 });
  assert.deepEqual(said, ["open", { n: 1 }]);
  latest().end(1012);
  pass(1_000);
  latest().open();
  latest().message({ n: 2 });
  assert.deepEqual(said.slice(2), ["waiting", "connecting", "open", { n: 2 }]);
  assert.equal(feed.reconnects, 1);
  assert.deepEqual(feed.lastClose, { code: 1012, reason: "", opened: true, attempt: 0, retryAfterMs: 0 });
}));

test("a lost connection is made again 100 to 400 ms later", inWorld(() => {
  for (const code of [1006, 1011, 1000, 1012, 1001]) {
    for (const random of [0, 0.999]) {
      sockets.length = 0;
      const { feed } = watched();
      latest().open();
      pass(6_000);
      world.random = random;
      const lost = world.now;
      latest().end(code);
      pass(400);
      assert.equal(sockets.length, 2, `${code}`);
      const waited = latest().at - lost;
      assert.ok(Math.abs(waited - 100 - random * 300) < 1, `${code}: ${waited}`);
      feed.close();
    }
  }
}));

test("deploys that follow one another closely are no failures: the wait does not grow", inWorld(() => {
  world.random = 0.999;
  watched();
  for (let n = 0; n < 6; n += 1) {
    latest().open();
    pass(1_000);
    latest().end(n % 2 ? 1001 : 1012);
    const waited = nextAttempt();
    assert.ok(waited <= 400, `after ${n} stops: ${waited}`);
  }
}));

test("the window of the back-off doubles up to 15 s; a failed handshake never comes back at once", inWorld(() => {
  const waits = (random) => {
    world.random = random;
    const { feed } = watched();
    const all = Array.from({ length: 8 }, () => { latest().end(); return nextAttempt(); });
    feed.close();
    return all;
  };
  assert.deepEqual(waits(0), Array(8).fill(300));
  assert.deepEqual(waits(1), [600, 900, 1_500, 2_700, 5_100, 9_900, 15_300, 15_300]);
}));

test("it is back as long after an outage as the outage took, at the latest", inWorld(() => {
  for (const failures of [1, 3, 6, 12]) {
    const { feed } = watched();
    latest().open();
    pass(6_000);
    world.random = 0.1;
    const lost = world.now;
    latest().end();
    for (let n = 0; n < failures; n += 1) {
      nextAttempt();
      world.random = n === failures - 1 ? 1 : 0.1;
      latest().end();
    }
    const away = world.now - lost;
    const wait = nextAttempt();
    assert.ok(wait <= 300 + Math.max(300, away), `after ${failures}: ${wait} for ${away}`);
    feed.close();
  }
}));

test("only a connection that lasted 5 s starts the back-off anew", inWorld(() => {
  const { feed } = watched();
  for (let n = 0; n < 4; n += 1) {
    latest().open();
    pass(4_900);
    latest().end();
    nextAttempt();
  }
  assert.equal(feed.lastClose.attempt, 3);
  latest().open();
  pass(5_000);
  latest().end();
  assert.equal(feed.lastClose.attempt, 0);
}));

test("it does not come back where that makes no sense", inWorld(() => {
  for (const code of [1002, 1003, 1007, 1008, 1009, 1010]) {
    const { feed, said } = watched();
    latest().open();
    const before = sockets.length;
    latest().end(code, "why");
    pass(100_000);
    assert.equal(sockets.length, before, `${code}`);
    assert.deepEqual(said, ["open", "closed"]);
    assert.equal(feed.lastClose.reason, "why");
    world.window.dispatchEvent(new Event("online"));
    assert.equal(sockets.length, before, "nor when the network comes back");
    feed.reconnect();
    assert.equal(sockets.length, before + 1, "but it does when told");
    feed.close();
  }
}));

test("try again later (1013) means 2 s at least", inWorld(() => {
  watched();
  latest().open();
  world.random = 0;
  latest().end(1013);
  pass(1_999);
  assert.equal(sockets.length, 1);
  pass(1);
  assert.equal(sockets.length, 2);
}));

test("the caller may decide otherwise", inWorld(() => {
  const asked = [];
  const answers = { 1008: 7_000, 1006: false };
  watched({ retry: (close) => { asked.push(close); return answers[close.code]; } });
  latest().open();
  latest().end(1008, "expired");
  pass(6_999);
  assert.equal(sockets.length, 1);
  pass(1);
  assert.equal(sockets.length, 2);
  latest().open();
  latest().end(1012);
  pass(2_000);
  assert.equal(sockets.length, 3, "undefined: as usual");
  latest().end(1006);
  pass(100_000);
  assert.equal(sockets.length, 3);
  assert.deepEqual(asked[0], { code: 1008, reason: "expired", opened: true, attempt: 0, retryAfterMs: 0 });
}));

test("3 s without news is stale, and the next message mends it", inWorld(() => {
  const { feed, said } = watched();
  latest().open();
  for (let n = 0; n < 10; n += 1) {
    latest().message({ n });
    pass(2_999);
  }
  assert.equal(feed.status, "open");
  pass(1);
  assert.equal(feed.status, "stale");
  latest().message({ n: 10 });
  assert.deepEqual(said.slice(-2), ["open", { n: 10 }]);
  pass(3_000);
  assert.equal(feed.status, "stale", "again and again");
}));

test("the state from before the break is old news", inWorld(() => {
  const { feed, said } = watched();
  latest().open();
  latest().message({ n: 1 });
  pass(10_000);
  latest().end(1012);
  pass(1_000);
  latest().open();
  latest().message({ n: 1 });
  assert.equal(feed.status, "stale");
  assert.deepEqual(said.at(-1), { n: 1, kept: true });
  latest().message({ n: 1 });
  assert.equal(feed.status, "open", "sent again by the feed, it is news");
}));

test("a silent connection is replaced at a random time, and less often while nothing comes", inWorld(() => {
  for (const [random, times] of [[0, 1], [0.9, 1.9]]) {
    world.random = random;
    const { feed } = watched();
    const waits = Array.from({ length: 7 }, () => { latest().open(); return nextAttempt(); });
    assert.deepEqual(waits, [30, 60, 120, 240, 480, 480, 480].map((s) => s * 1_000 * times));
    assert.equal(feed.lastClose.reason, "silent");
    latest().open();
    latest().message({});
    latest().end();
    nextAttempt();
    latest().open();
    assert.equal(nextAttempt(), 30_000 * times, "news starts it over");
    feed.close();
  }
}));

test("a clock that moves between two looks at it hides no deadline", inWorld(() => {
  for (let step = 1; step <= 40; step += 1) {
    Object.assign(world, { readMs: step / 10, earlyMs: 1 });
    const { feed } = watched();
    latest().open();
    pass(1_000);
    latest().message({});
    pass(3_200);
    assert.equal(feed.status, "stale", `${step / 10} ms`);
    feed.close();
  }
}));

test("a handshake without an answer is given up after 10 s", inWorld(() => {
  const { feed } = watched();
  pass(9_999);
  assert.equal(feed.status, "connecting");
  pass(1);
  assert.equal(feed.status, "waiting");
  assert.deepEqual(sockets[0].closedWith, [1000, ""]);
}));

test("the network comes back: at once, not when the wait is over", inWorld(() => {
  const { feed } = watched();
  for (let n = 0; n < 8; n += 1) {
    latest().end();
    pass(16_000);
  }
  latest().end();
  const before = sockets.length;
  world.window.dispatchEvent(new Event("offline"));
  assert.equal(sockets.length, before);
  world.window.dispatchEvent(new Event("online"));
  assert.equal(sockets.length, before + 1);
  assert.equal(feed.status, "connecting");
}));

test("the tab is looked at again: waiting ends, and a link without a sign of life is left", inWorld(() => {
  const look = (hidden) => {
    world.document.hidden = hidden;
    world.document.dispatchEvent(new Event("visibilitychange"));
  };
  const { feed } = watched();
  latest().open();
  latest().message({ n: 1 });
  pass(1_000);
  look(true);
  look(false);
  pass(2_999);
  assert.equal(sockets.length, 1, "it has its 3 s");
  latest().message({ n: 2 });
  pass(2_999);
  assert.equal(sockets.length, 1, "a message is a sign of life");
  pass(100);
  look(true);
  assert.equal(sockets.length, 1, "hiding asks nothing");
  look(false);
  assert.equal(sockets.length, 2, "silent already: at once");
  latest().open();
  latest().end();
  look(false);
  assert.equal(sockets.length, 3);
  assert.equal(feed.status, "connecting");
}));

test("after sleep a dead link is left within 3 s, whatever the clock did", inWorld(() => {
  for (const clockStands of [true, false]) {
    const { feed } = watched();
    latest().open();
    const alive = latest();
    for (let n = 0; n < 4; n += 1) {
      alive.message({ n });
      pass(1_000);
    }
    const before = sockets.length;
    sleep(3_600_000, clockStands);
    pass(6_000);
    assert.ok(sockets.length > before, `clock stands: ${clockStands}`);
    feed.close();
  }
}));

test("a clock that is set does no harm to a living feed", inWorld(() => {
  const { feed, said } = watched();
  latest().open();
  for (const jump of [-86_400_000, 0, 86_400_000, 0, 3_600_000]) {
    world.wallOffset += jump;
    for (let n = 0; n < 40; n += 1) {
      latest().message({ n, jump });
      pass(250);
    }
  }
  assert.equal(sockets.length, 1);
  assert.equal(feed.status, "open");
  assert.deepEqual(said.filter((what) => typeof what === "string"), ["open"]);
}));

test("close() ends everything, from inside a callback too", inWorld(() => {
  for (const when of ["onOpen", "onMessage", "onState", "onStatus"]) {
    const said = [];
    const all = { onOpen: () => said.push("opened"), onState: () => said.push("state") };
    const feed = connect(URL_, { ...all, [when]: () => { feed.close(4000, "enough"); } });
    const mine = latest();
    mine.open();
    mine.message({});
    mine.end(1006);
    const before = sockets.length;
    pass(1_000_000);
    world.window.dispatchEvent(new Event("online"));
    assert.equal(sockets.length, before, when);
    assert.deepEqual(mine.closedWith, [4000, "enough"]);
    assert.deepEqual(said, when === "onMessage" || when === "onState" ? ["opened"] : []);
    assert.equal(feed.status, "closed");
    assert.equal(world.timers.size, 0);
  }
}));

test("sending works on an open connection only; onOpen is the place to subscribe", inWorld(() => {
  const { feed } = watched({ onOpen: (connection) => connection.send("subscribe") });
  assert.equal(feed.send("early"), false);
  latest().open();
  assert.equal(feed.send("more"), true);
  assert.deepEqual(latest().sent, ["subscribe", "more"]);
  latest().end();
  assert.equal(feed.send("late"), false);
  pass(1_000);
  latest().open();
  assert.deepEqual(latest().sent, ["subscribe"]);
}));

test("what cannot be parsed is told and skipped", inWorld(() => {
  const bad = [], raw = [];
  const { said } = watched({ onBad: (error, data) => bad.push([error.name, data]), onMessage: (data) => raw.push(data) });
  latest().open();
  latest().message("{");
  latest().message("1");
  assert.deepEqual(bad, [["SyntaxError", "{"]]);
  assert.deepEqual(raw, ["{", "1"]);
  assert.deepEqual(said, ["open", 1]);
}));

test("the address may be relative, http, or made anew each time; a bad one is the caller's to see", inWorld(() => {
  globalThis.location = { href: "https://feed.example/app/page" };
  try {
    connect("../ws/stream").close();
    assert.equal(latest().url, "wss://feed.example/ws/stream");
    connect("http://localhost:8000/ws/stream?a=1", { protocols: ["a"], maxHz: 2 }).close();
    assert.equal(latest().url, "ws://localhost:8000/ws/stream?a=1&max_hz=2");
    assert.deepEqual(latest().protocols, ["a"]);
    let token = 0;
    const feed = connect(() => `ws://x/?token=${(token += 1)}`);
    latest().end();
    pass(1_000);
    assert.equal(latest().url, "ws://x/?token=2");
    feed.close();
    assert.throws(() => connect("ws://"), TypeError);
    const missing = ["127.0.0.1:8889/ws", "localhost:8889/ws", "[::1]:8889", "feed.example:80", "nats://feed.example/ws", "mailto:ann"];
    for (const given of missing) assert.throws(() => connect(given), { name: "TypeError", message: `no ws:// in ${given}` });
    for (const given of ["//feed.example/a:b", "a/b:c", "?a:b", "#a:b", ""]) connect(given).close();
    delete globalThis.location;
    for (const given of [...missing, "feed.example/ws", "/ws", ""]) assert.throws(() => connect(given), { message: `no ws:// in ${given}` });
    globalThis.location = { href: "https://feed.example/app/page" };
    // Later, an error is a failure like any other.
    let fails = false;
    const late = connect(() => { if (fails) throw new Error("no token"); return URL_; });
    fails = true;
    latest().end();
    pass(1_000);
    assert.equal(late.status, "waiting");
    assert.equal(late.lastClose.reason, "Error: no token");
    late.close();
  } finally {
    delete globalThis.location;
  }
}));

test("with both limits at 0 a quiet feed is left in peace", inWorld(() => {
  const { feed } = watched({ staleMs: 0, silenceMs: 0 });
  latest().open();
  pass(10_000_000);
  world.window.dispatchEvent(new Event("online"));
  pass(10_000_000);
  assert.equal(feed.status, "open");
  assert.equal(sockets.length, 1);
}));
