// What the cases of clients/conformance expect of a client, whatever drives it. Browsers run this too.
import assert from "node:assert/strict";

/** Bytes as UTF-8 in base64url. Browsers have no Buffer. */
const base64url = (text) => btoa(String.fromCharCode(...new TextEncoder().encode(text))).replace(/\+/g, "-").replace(/\//g, "_").replace(/=+$/, "");

/** A token of a case: a text, or the claims of a JWT. */
export const textOf = (token) => (typeof token === "string" ? token : `e30.${base64url(JSON.stringify(token))}.sig`);

/** Runs all due promises; no time passes. */
export async function settled() {
  for (let n = 0; n < 30; n += 1) await null;
}

/** Expectations of a run, which has `client`, the `calls` by label, and the questions for tokens, `asked`. */
export class Expectations {
  calls = new Map();
  asked = [];

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
