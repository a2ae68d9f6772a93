// The table of answers for services in JavaScript: what stands in answers.json, as bytes.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

const here = new URL(".", import.meta.url);
const table = JSON.parse(readFileSync(new URL("answers.json", here)));

/** The packages of tests/node. */
export const load = createRequire(new URL("../node/package.json", here));

/** The answers by name. */
export const answers = Object.fromEntries(table.answers.map((row) => [row.name, {
    status: row.status,
    headers: { "Content-Type": row.type, ...row.headers },
    body: row.base64 === undefined ? Buffer.from(row.body) : Buffer.from(row.base64, "base64"),
    isStreamed: row.streamed === true,
}]));

/** [`lobby` or `role`, name] of a call: an answer of the table, or a way of the framework. */
export const asked = (message) => message.message.event.split(".");
