// Makes clients/js/served, what gateways serve to browsers: each client as one script without comments and with short names, and
// one file with its types. serve_clients.mjs; with --check it writes nothing, and exits 1 if a file differs.
//
// An import in clients/js is a single line, and no top-level name is in two modules, so joined modules are a module.
import { readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";

const { minify } = createRequire(new URL("../tests/node/package.json", import.meta.url))("terser");

const clients = new URL("../clients/js/", import.meta.url);
// A module comes after those that it imports.
const parts = {
  weirgate: ["weirgate"],
  trades: ["weirgate", "session", "subscriber", "trades"],
  channels: ["weirgate", "session", "subscriber", "channels"],
  events: ["weirgate", "session", "events"],
  "event-stream": ["event-stream"],
};
// Browsers of the last years, as the modules themselves.
const options = { module: true, ecma: 2022, compress: { passes: 3 } };

const joined = (modules, end) => {
  const lines = modules.flatMap((name) => readFileSync(new URL(name + end, clients), "utf8").split(/(?<=\n)/));
  return lines.filter((line) => !/^(import|export \{) /.test(line)).join("");
};

let isSame = true;
for (const [name, modules] of Object.entries(parts)) {
  const { code } = await minify(joined(modules, ".js"), options);
  for (const [end, text] of [[".js", `${code}\n`], [".d.ts", joined(modules, ".d.ts")]]) {
    const file = new URL(`served/${name}${end}`, clients);
    if (!process.argv.includes("--check")) writeFileSync(file, text);
    else if (readFileSync(file, "utf8") !== text) {
      isSame = false;
      console.log(`clients/js/served/${name}${end} is not what the modules make: run \`make served\``);
    }
  }
}
process.exit(isSame ? 0 : 1);
