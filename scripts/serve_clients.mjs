// Makes clients/js/served, what gateways serve to browsers: each client as one script without comments and with short names.
// serve_clients.mjs; with --check it writes nothing, and exits 1 if a file differs.
//
// An import in clients/js is a single line, and no top-level name is in two modules, so joined modules are a module.
import { readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";

const { minify } = createRequire(new URL("../tests/node/package.json", import.meta.url))("terser");

const clients = new URL("../clients/js/", import.meta.url);
const served = ["weirgate", "trades", "channels", "events", "event-stream"];
// Browsers of the last years, as the modules themselves.
const options = { module: true, ecma: 2022, compress: { passes: 3 } };

const textOf = (name) => readFileSync(new URL(`${name}.js`, clients), "utf8");

/** The modules of a client: each after those that it imports. */
const modulesOf = (name) => {
  const imported = [...textOf(name).matchAll(/^import .* from "\.\/(.+)\.js";$/gm)].flatMap((found) => modulesOf(found[1]));
  return [...new Set([...imported, name])];
};

let isSame = true;
for (const name of served) {
  const joined = modulesOf(name).map((module) => textOf(module).replace(/^(import|export \{) .*\n/gm, "")).join("");
  const { code } = await minify(joined, options);
  const file = new URL(`served/${name}.js`, clients);
  if (!process.argv.includes("--check")) writeFileSync(file, `${code}\n`);
  else if (readFileSync(file, "utf8") !== `${code}\n`) {
    isSame = false;
    console.log(`clients/js/served/${name}.js is not what the modules make: run \`make served\``);
  }
}
process.exit(isSame ? 0 : 1);
