// What the cases of clients/conformance expect of a client, whatever drives it. Browsers run this too.
import assert from "node:assert/strict";

import { latencyOf } from "../latency.js";
import { statusOf } from "../status.js";

/** Bytes as UTF-8 in base64url. Browsers have no Buffer. */
const base64url = (text) => btoa(String.fromCharCode(...new TextEncoder().encode(text))).replace(/\+/g, "-").replace(/\//g, "_").replace(/=+$/, "");

/** A token of a case: a text, or the claims of a JWT. */
export const textOf = (token) => (typeof token === "string" ? token : `e30.${base64url(JSON.stringify(token))}.sig`);

/** The same number within 0.01, or both none. */
const near = (got, wanted) => assert.ok(wanted === null ? got === undefined : Math.abs(got - wanted) < 0.01, `${got}, not ${wanted}`);

/** Runs all due promises; no time passes. */
export async function settled() {
  for (let n = 0; n < 30; n += 1) await null;
}

/** Expectations of a run, which has `client`, the `calls` by label, and the questions for tokens, `asked`. */
export class Expectations {
  calls = new Map();
  asked = [];
  refusals = [];
  states = [];

  watch_refused() { this.client.addEventListener("refused", ({ detail }) => this.refusals.push(detail)); }
  watch_latency(options) { this.latencyOf = latencyOf(this.client, options); }
  watch_status(options) {
    this.endStatus = statusOf(this.client, (now) => {
      assert.deepEqual({ state: now.state, cause: now.cause }, now.causes[0]);
      this.states.push(now);
      this.newest = now;
    }, { latency: this.latencyOf, ...options });
  }
  end_watches() {
    this.latencyOf?.end();
    this.endStatus?.();
  }

  refused(wanted) { assert.deepEqual(this.client.refused, wanted); }
  refused_events(wanted) { assert.deepEqual(this.refusals.splice(0), wanted); }
  latency(ms, errorMs, roundTripMs) {
    near(this.latencyOf.ms, ms);
    near(this.latencyOf.errorMs, errorMs);
    near(this.latencyOf.roundTripMs, roundTripMs);
  }
  server_now(ms) { near(this.latencyOf.serverNow(), ms); }
  age(message, ms) { near(this.latencyOf.ageOf(message), ms); }
  status_events(wanted) { assert.deepEqual(this.states.splice(0).map(({ state, cause }) => [state, cause]), wanted); }
  causes(wanted) { assert.deepEqual(this.newest.causes.map(({ state, cause }) => [state, cause]), wanted); }
  status(status) { assert.equal(this.client.status, status); }
  position(wanted) { assert.equal(this.client.position ?? null, wanted); }
  brings(wanted) { assert.deepEqual(this.client.brings, wanted); }
  reconnects(count) { assert.equal(this.client.reconnects, count); }
  last_close(wanted) {
    const got = Object.fromEntries(Object.keys(wanted).map((key) => [key, this.client.lastClose[key]]));
    assert.deepEqual(got, wanted);
  }
  closes(label, wanted) { assert.deepEqual(this.calls.get(label).got.splice(0).map(({ close }) => close), wanted); }
  response(label, wanted) {
    const { value, error } = this.calls.get(label);
    assert.deepEqual([value, error], [wanted, undefined]);
  }
  error(label, code, message) {
    const { error } = this.calls.get(label);
    assert.equal(error?.code, code);
    if (message !== undefined) assert.equal(error.message, message);
  }
  aborted(label) { assert.equal(this.calls.get(label).error?.name, "AbortError"); }
  pending(label) { this.response(label, undefined); }
  subscriptions(wanted) { assert.deepEqual([...this.client.subscriptions].sort(), [...wanted].sort()); }
  candles(interval, wanted) { assert.deepEqual([...(this.client.candles.get(interval) ?? [])].sort(), [...wanted].sort()); }
  token_asked(refused) { assert.equal(this.asked.at(-1).refused, refused); }
  questions(count) { assert.equal(this.asked.length, count); }
}
