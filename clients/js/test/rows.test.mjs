// Rows by id over several names, in virtual time.
import assert from "node:assert/strict";
import { test } from "node:test";

import { Channels } from "../channels.js";
import { rowsOf } from "../rows.js";
import { inWorld, latest, pass } from "./world.mjs";

const settled = async () => { for (let n = 0; n < 30; n += 1) await null; };
const answer = (grants, more = {}) => {
  for (const { channels, requestId } of latest().sent.splice(0).map(JSON.parse).filter(({ action }) => action === "subscribe")) {
    const granted = channels.filter((name) => grants.includes(name)), errors = channels.filter((name) => !grants.includes(name)).map((name) => `Access denied to channel: ${name}`);
    latest().message({ type: "subscribed", channels: granted, errors, requestId, ...more });
  }
};
const open = async () => { latest().open(); latest().message({ type: "connected", timestamp: "2026-01-01T00:00:00Z" }); await settled(); };
/** The rows of the newest call, and whether more are coming. */
const shown = (calls) => { pass(20); const { rows, loading } = calls.at(-1); return [[...rows].map(([id, { value }]) => [id, value]), loading]; };
const data = (channel, pattern, value, more = {}) => latest().message({ type: "data", channel, pattern, data: value, ...more });

test("rows of two patterns: one call a frame, deleted keys, ages, refused names that clear, and a new connection that starts afresh", inWorld(async () => {
  const channels = new Channels("ws://feed.example/ws"), calls = [];
  const end = rowsOf(channels, ["a.*", "b.*"], (now) => calls.push(now));
  await open();
  answer(["a.*"]);
  await settled();
  for (let n = 0; n < 100; n += 1) data(`a.${n % 3}`, "a.*", n);
  assert.equal(calls.length, 0);
  pass(20);
  assert.equal(calls.length, 1);
  const values = () => [...calls.at(-1).rows].map(([id, { value }]) => [id, value]).sort();
  assert.deepEqual(values(), [["0", 99], ["1", 97], ["2", 98]]);
  assert.deepEqual(calls.at(-1).refused, { "b.*": "Access denied to channel: b.*" });
  pass(1_000);
  data("a.1", "a.*", null, { deleted: true });
  data("a.2", "a.*", 7);
  pass(20);
  assert.deepEqual(values(), [["0", 99], ["2", 7]]);
  assert.ok(calls.at(-1).rows.get("2").at - calls.at(-1).rows.get("0").at >= 1_000);
  channels.subscribe("b.*");
  await settled();
  answer(["b.*"]);
  pass(20);
  assert.deepEqual(calls.at(-1).refused, {});
  data("b.9", "b.*", 1);
  latest().end(1012);
  pass(1_000);
  await open();
  answer(["a.*", "b.*"], { recovered: { "a.*": true, "b.*": false } });
  pass(20);
  assert.deepEqual(values(), [["0", 99], ["2", 7]]);
  end();
  const { length } = calls;
  data("a.0", "a.*", 1);
  pass(1_000);
  assert.equal(calls.length, length);
  channels.close();
}));

test("with last values rows stay over a new connection until these are whole; then those that did not come are gone", inWorld(async () => {
  const channels = new Channels("ws://feed.example/ws"), calls = [], brings = { "a.*": { from: "retained" } };
  const end = rowsOf(channels, "a.*", (now) => calls.push(now));
  const again = async () => { latest().end(1012); pass(1_000); await open(); };
  const values = () => { pass(20); return [...calls.at(-1).rows].map(([id, { value }]) => [id, value]).sort(); };
  await open();
  answer(["a.*"], { brings });
  for (const [id, value] of [["a.0", 1], ["a.1", 1], ["a.2", 1]]) data(id, "a.*", value, { retained: true });
  latest().message({ type: "retained", channel: "a.*", count: 3 });
  assert.deepEqual(values(), [["0", 1], ["1", 1], ["2", 1]]);
  await again();
  // Live, before the answer: no last value of this row follows.
  data("a.2", "a.*", 2);
  answer(["a.*"], { brings });
  data("a.0", "a.*", 2, { retained: true });
  assert.deepEqual(values(), [["0", 2], ["1", 1], ["2", 2]]);
  latest().message({ type: "retained", channel: "a.*", count: 1 });
  assert.deepEqual(values(), [["0", 2], ["2", 2]]);
  await again();
  answer(["a.*"], { brings });
  latest().message({ type: "retained", channel: "a.*", count: 0, cut: "refused" });
  assert.deepEqual(values(), [["0", 2], ["2", 2]], "they may still be there");
  // What the bus did not give in time follows, and with it the end.
  data("a.0", "a.*", 3, { retained: true });
  latest().message({ type: "retained", channel: "a.*", count: 1 });
  assert.deepEqual(values(), [["0", 3]]);
  await again();
  answer(["a.*"], { brings });
  latest().message({ type: "retained", channel: "a.*", count: 0 });
  assert.deepEqual(values(), []);
  end();
  channels.close();
}));

test("after a loss of the bus the last values come again: rows that changed are new, and those that do not come are gone", inWorld(async () => {
  const channels = new Channels("ws://feed.example/ws"), calls = [], brings = { "a.*": { from: "retained" }, "b.*": { from: "live" } };
  const end = rowsOf(channels, ["a.*", "b.*"], (now) => calls.push(now));
  const values = () => { pass(20); return [...calls.at(-1).rows].map(([id, { value }]) => [id, value]).sort(); };
  await open();
  answer(["a.*", "b.*"], { brings });
  for (const id of ["a.0", "a.1", "a.2"]) data(id, "a.*", 1, { retained: true });
  data("b.9", "b.*", 1);
  latest().message({ type: "retained", channel: "a.*", count: 3 });
  latest().message({ type: "status", bus: "away" });
  latest().message({ type: "status", bus: "up", lost: true });
  data("a.2", "a.*", 2);
  assert.deepEqual(values(), [["0", 1], ["1", 1], ["2", 2], ["9", 1]], "until the values have come");
  pass(5_000);
  await settled();
  answer(["a.*"], { brings });
  data("a.0", "a.*", 3, { retained: true });
  latest().message({ type: "retained", channel: "a.*", count: 1 });
  assert.deepEqual(values(), [["0", 3], ["2", 2], ["9", 1]]);
  end();
  channels.close();
}));

test("a second table of the same name is loading until its last values have come, and the first one stays as it is", inWorld(async () => {
  const channels = new Channels("ws://feed.example/ws"), first = [], second = [], brings = { "a.*": { from: "retained" } };
  rowsOf(channels, "a.*", (now) => first.push(now));
  await open();
  answer(["a.*"], { brings });
  data("a.0", "a.*", 1, { retained: true });
  latest().message({ type: "retained", channel: "a.*", count: 1 });
  assert.deepEqual(shown(first), [[["0", 1]], false]);
  rowsOf(channels, "a.*", (now) => second.push(now));
  assert.deepEqual(shown(second), [[], true]);
  await settled();
  data("a.1", "a.*", 2);
  answer(["a.*"], { brings });
  data("a.1", "a.*", 1, { retained: true });
  data("a.0", "a.*", 1, { retained: true });
  assert.deepEqual(shown(second), [[["1", 2], ["0", 1]], true]);
  latest().message({ type: "retained", channel: "a.*", count: 2 });
  assert.deepEqual(shown(second), [[["1", 2], ["0", 1]], false]);
  assert.deepEqual(shown(first), [[["0", 1], ["1", 2]], false]);
  channels.close();
}));

test("a table of a client at its limit is not loading for ever, and after a loss its rows stay until all last values have come", inWorld(async () => {
  const channels = new Channels("ws://feed.example/ws"), first = [], second = [], brings = { "a.*": { from: "retained" } };
  rowsOf(channels, "a.*", (now) => first.push(now));
  await open();
  answer(["a.*"], { brings });
  for (const name of ["a.0", "a.1"]) data(name, "a.*", 1, { retained: true });
  latest().message({ type: "retained", channel: "a.*", count: 2 });
  rowsOf(channels, "a.*", (now) => second.push(now));
  await settled();
  assert.deepEqual(shown(second), [[], true]);
  answer([], { errors: ["Max wildcard subscriptions exceeded (1)"] });
  assert.deepEqual(shown(second), [[], false]);
  assert.deepEqual(shown(first), [[["0", 1], ["1", 1]], false]);
  data("a.1", "a.*", 2);
  latest().message({ type: "status", bus: "up", lost: true });
  pass(5_000);
  await settled();
  assert.deepEqual(shown(first), [[["0", 1], ["1", 2]], true]);
  answer(["a.*"], { brings });
  data("a.1", "a.*", 3, { retained: true });
  latest().message({ type: "retained", channel: "a.*", count: 1 });
  assert.deepEqual(shown(first), [[["1", 3]], false]);
  assert.deepEqual(shown(second), [[["1", 3]], false]);
  channels.close();
}));

test("a table is loading until each name is answered and its last values have come, and again on a new connection", inWorld(async () => {
  const channels = new Channels("ws://feed.example/ws"), calls = [];
  const end = rowsOf(channels, ["a.*", "b.*", "c"], (now) => calls.push(now));
  const now = () => { pass(20); const { rows, loading } = calls.at(-1); return [[...rows.keys()], loading]; };
  const brings = { "a.*": { from: "retained" }, "b.*": { from: "live" } };
  assert.deepEqual(now(), [[], true], "before there is a connection");
  await open();
  assert.deepEqual(now(), [[], true]);
  answer(["a.*", "b.*"], { brings });
  data("a.0", "a.*", 1, { retained: true });
  assert.deepEqual(now(), [["0"], true], "c is refused, last values are coming");
  latest().message({ type: "retained", channel: "a.*", count: 1 });
  assert.deepEqual(now(), [["0"], false]);
  latest().end(1012);
  assert.deepEqual(now(), [["0"], true]);
  pass(1_000);
  await open();
  answer(["a.*", "b.*"], { brings });
  latest().message({ type: "retained", channel: "a.*", count: 0 });
  assert.deepEqual(now(), [[], false], "an empty table");
  end();
  channels.close();
}));
