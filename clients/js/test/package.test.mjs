// What a user of the file relies on: its size, and that its declarations name what it has.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { gzipSync } from "node:zlib";

import * as module from "../weirgate.js";

const text = (name) => readFileSync(new URL(`../${name}`, import.meta.url), "utf8");
const code = text("weirgate.js"), types = text("weirgate.d.ts");

/** The names that an interface or class of the declarations has. */
function declared(name) {
  const body = new RegExp(`(?:interface|class) ${name}\\b[^{]*\\{\\n([^]*?)\\n\\}`).exec(types)[1];
  return [...body.matchAll(/^ {2}(?:readonly )?(\w+)[?(:]/gm)].map((found) => found[1]).sort();
}

test("it is under 5 kB when compressed, and depends on nothing", () => {
  assert.ok(gzipSync(code).length < 5_000, `${gzipSync(code).length} bytes`);
  assert.doesNotMatch(code, /^\s*import\b|\brequire\(/m);
});

test("the declarations name its exports and the members of a connection", () => {
  const exported = [...types.matchAll(/^export (?:function|class) (\w+)/gm)].map((found) => found[1]);
  assert.deepEqual(exported.sort(), Object.keys(module).sort());
  const members = Object.getOwnPropertyNames(module.Connection.prototype);
  const fields = [...code.matchAll(/^ {2}(\w+) = /gm)].map((found) => found[1]);
  assert.deepEqual(declared("Connection"), [...members, ...fields].sort());
});

test("the declarations name every option that it reads", () => {
  const read = [...code.matchAll(/const \{([^}]*)\} = this\.#options/g)].flatMap((found) => found[1].split(","));
  const dotted = [...code.matchAll(/this\.#options\.(\w+)/g)].map((found) => found[1]);
  const names = read.map((one) => one.split("=")[0].trim()).concat(dotted);
  assert.deepEqual(declared("Options"), [...new Set(names)].sort());
});
