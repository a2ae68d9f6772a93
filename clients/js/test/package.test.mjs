// The package as users see it: size, files, import, require, copies, and types.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { cpSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { test } from "node:test";
import { gzipSync } from "node:zlib";

import { files, folder, installed, packages, project } from "./installed.mjs";

const text = (name) => readFileSync(join(folder, name), "utf8");
const modules = ["weirgate", "trades", "channels", "events"];
const bases = ["session", "subscriber"];

/** Runs a program of the project; returns the output. */
function run(name, code) {
  writeFileSync(join(project, name), code);
  return execFileSync(process.execPath, ["--no-warnings", name], { cwd: project, encoding: "utf8" }).trim();
}

test("what gateways serve is made of the modules: 4.0 kB for levels, 10.3 for trades, 10.6 for channels, 5.1 for events, 3.4 for event streams", () => {
  execFileSync(process.execPath, [fileURLToPath(new URL("../../../scripts/serve_clients.mjs", import.meta.url)), "--check"], { encoding: "utf8" });
  const sizes = { weirgate: 4_000, trades: 10_300, channels: 10_600, events: 5_100, "event-stream": 3_400 };
  for (const [name, most] of Object.entries(sizes)) {
    const { length } = gzipSync(text(`served/${name}.js`), { level: 9 });
    assert.ok(length <= most, `${name}: ${length} bytes`);
  }
});

test("what is not served is small: 1 kB for rows, 1.9 for the status, 1.2 for the latency, 3.4 for the hooks with these", () => {
  const most = { rows: 1_000, status: 1_920, latency: 1_200, react: 3_420 };
  for (const [name, bytes] of Object.entries(most)) {
    const names = name === "react" ? ["rows", "status", name] : [name];
    const code = names.map((one) => text(`${one}.js`).replace(/^import .*\n|^ *(\/\/.*|\/\*\*[^]*?\*\/)\n/gm, "")).join("");
    const { length } = gzipSync(code, { level: 9 });
    assert.ok(length <= bytes, `${name}: ${length} bytes`);
  }
});

test("the files that gateways serve depend on nothing", () => {
  for (const name of readdirSync(join(folder, "served")).filter((one) => one.endsWith(".js"))) {
    assert.doesNotMatch(text(`served/${name}`), /\bimport\b|\brequire\(/);
  }
});

test("it is published with its licences and types, and without its tests", () => {
  const code = readdirSync(folder).filter((name) => /\.(js|d\.ts)$/.test(name));
  assert.deepEqual([...files].sort(), [...code, "LICENSE-APACHE", "LICENSE-MIT", "README.md", "package.json"].sort());
});

test("the Python package has the same version", () => {
  const { version } = JSON.parse(text("package.json"));
  const python = readFileSync(join(folder, "../python/src/weirgate/__init__.py"), "utf8");
  assert.equal(/__version__ = "(.+)"/.exec(python)[1], version);
});

test("the declarations name what the modules export", async () => {
  for (const name of [...modules, ...bases, "event-stream", "latency", "react", "rows", "status"]) {
    const loaded = await import(pathToFileURL(join(installed, `${name}.js`)));
    const declared = [...text(`${name}.d.ts`).matchAll(/^export (?:declare )?(?:function|class) (\w+)/gm)].map((found) => found[1]);
    assert.deepEqual([...new Set(declared)].sort(), Object.keys(loaded).sort(), name);
  }
});

test("the declarations name every option that the code reads, and every callback", () => {
  const code = [...modules, ...bases].map((name) => text(`${name}.js`)).join("\n");
  const types = [...modules, ...bases].map((name) => text(`${name}.d.ts`)).join("\n");
  const read = [...code.matchAll(/const \{([^}]*)\} = this\.options/g)].flatMap((found) => found[1].split(","));
  const dotted = [...code.matchAll(/this\.options\.(\w+)/g)].map((found) => found[1]);
  const callbacks = [...code.matchAll(/\.emit\("(\w)(\w+)"/g)].map(([, first, rest]) => `on${first.toUpperCase()}${rest}`);
  for (const name of new Set(read.map((one) => one.split("=")[0].trim()).concat(dotted, callbacks))) {
    assert.match(types, new RegExp(`^ {2}${name}\\?: `, "m"));
  }
});

test("imported, required and copied it works in Node", () => {
  assert.equal(run("a.mjs", `
    import { connect, Levels } from "weirgate"; import { Trades } from "weirgate/trades";
    import { Channels } from "weirgate/channels"; import { Devices } from "weirgate/events"; import { useFeed } from "weirgate/react"; import { EventStream, withFallback } from "weirgate/event-stream";
    console.log([connect, Levels, Trades, Channels, Devices, useFeed, EventStream, withFallback].every((one) => typeof one === "function"));`), "true");
  assert.equal(run("b.cjs", `console.log(typeof require("weirgate").connect, typeof require("weirgate/trades").Trades);`), "function function");
  cpSync(join(folder, "served/weirgate.js"), join(project, "weirgate.mjs"));
  assert.equal(run("c.cjs", `import("./weirgate.mjs").then(({ connect }) => console.log(typeof connect));`), "function");
  writeFileSync(join(project, "package.json"), "{}");
  cpSync(join(folder, "served/weirgate.js"), join(project, "weirgate.js"));
  assert.equal(run("d.js", `console.log(typeof require("./weirgate.js").connect);`), "function");
});

test("without a WebSocket it says what to pass", () => {
  const said = run("e.mjs", `
    import { connect } from "weirgate";
    delete globalThis.WebSocket;
    try { connect("ws://127.0.0.1:1/"); } catch (error) { console.log(error.message); }`);
  assert.match(said, /package ws as option WebSocket/);
});

/** What `use.ts` takes from a browser, for a project without the types of one. */
const NO_DOM = `
declare const console: { log(...what: unknown[]): void }, localStorage: { getItem(name: string): string | null };
declare class URL { constructor(text: string); readonly href: string; }
declare const AbortSignal: { timeout(ms: number): { readonly aborted: boolean; addEventListener(type: string, listener: () => void): void; removeEventListener(type: string, listener: () => void): void } };`;
const DOM = `
import { Levels } from "weirgate";
export const target: EventTarget = new Levels(new URL("ws://localhost/"), { signal: new AbortController().signal, WebSocket });`;

test("the types hold in the ways that TypeScript finds a package, with the types of a browser, of a worker, and without", () => {
  const ts = createRequire(packages)("typescript");
  writeFileSync(join(project, "use.ts"), readFileSync(new URL("use.ts", import.meta.url)));
  writeFileSync(join(project, "package.json"), '{"type":"module"}');
  writeFileSync(join(project, "no-dom.d.ts"), NO_DOM);
  writeFileSync(join(project, "worker.d.ts"), "declare const localStorage: { getItem(name: string): string | null };");
  writeFileSync(join(project, "dom.ts"), DOM);
  const parsed = new Map();
  const finds = [["NodeNext", "NodeNext"], ["ESNext", "Bundler"], ["ESNext", "Node10"]];
  const hosts = [["lib.dom.d.ts", "dom.ts"], [undefined, "no-dom.d.ts"]];
  const ways = [...finds.flatMap((find) => hosts.map((host) => [...find, ...host])), ["NodeNext", "NodeNext", "lib.webworker.d.ts", "worker.d.ts"]];
  for (const [module, moduleResolution, lib, more] of ways) {
    const options = {
      noEmit: true, strict: true, exactOptionalPropertyTypes: true, skipDefaultLibCheck: true, target: ts.ScriptTarget.ES2022, lib: ["lib.es2022.d.ts", lib].filter(Boolean), types: [],
      module: ts.ModuleKind[module], moduleResolution: ts.ModuleResolutionKind[moduleResolution],
    };
    const host = ts.createCompilerHost(options), { getSourceFile } = host;
    // The libraries are the same each time.
    host.getSourceFile = (name, ...how) => {
      if (!name.includes("/lib.")) return getSourceFile(name, ...how);
      if (!parsed.has(name)) parsed.set(name, getSourceFile(name, ...how));
      return parsed.get(name);
    };
    const found = ts.getPreEmitDiagnostics(ts.createProgram(["use.ts", more].map((file) => join(project, file)), options, host));
    assert.equal(found.length, 0, `${moduleResolution}, ${lib ?? "no browser"}: ${ts.formatDiagnostics(found, host)}`);
  }
});
