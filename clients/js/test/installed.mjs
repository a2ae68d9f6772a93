// A project with the package installed: exactly the published files.
import { execFileSync } from "node:child_process";
import { cpSync, mkdirSync, mkdtempSync, rmSync, symlinkSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { after } from "node:test";

export const folder = fileURLToPath(new URL("../", import.meta.url));
/** The folder with the packages for the tests. */
export const packages = fileURLToPath(new URL("../../../tests/node/", import.meta.url));

const packed = JSON.parse(execFileSync("npm", ["pack", "--dry-run", "--json", "--offline"], { cwd: folder, stdio: ["ignore", "pipe", "ignore"] }));
export const files = packed[0].files.map(({ path }) => path);

export const project = mkdtempSync(join(tmpdir(), "weirgate-package-"));
after(() => rmSync(project, { recursive: true }));
export const installed = join(project, "node_modules", "weirgate");
mkdirSync(installed, { recursive: true });
for (const file of files) cpSync(join(folder, file), join(installed, file));
for (const name of ["react", "ws"]) symlinkSync(join(packages, "node_modules", name), join(project, "node_modules", name));
