// Runs a snippet: TypeScript whose `this` is a component, as in Angular, and prints what the component gets; or JavaScript.
//
//   node run_snippet.mjs FILE PORT
import { readFileSync } from "node:fs";
import amaro from "amaro";
import WebSocket from "ws";

const [file, port] = process.argv.slice(2);
const typescript = readFileSync(file, "utf8").replaceAll(/localhost:\d+/g, `localhost:${port}`);
const { code } = amaro.transformSync(typescript, { mode: "strip-only" });
const got = (name) => (value) => console.log(JSON.stringify({ [name]: value }));
const component = { processLevelSignals: got("levels"), processFlowData: got("flow") };
// Node before 22 has no WebSocket of its own; that of the package ws has the browser's interface.
new Function("WebSocket", code).call(component, WebSocket);
