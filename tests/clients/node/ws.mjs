// ws, by its own interface.
import process from "node:process";
import { WebSocket } from "ws";
import { obey, show } from "./line.mjs";

const [url, ...protocols] = process.argv.slice(2);
const link = new WebSocket(url, protocols, { maxPayload: 1 << 30 });
link.on("open", () => show("open", link.protocol));
link.on("message", (data, isBinary) => show(isBinary ? "failed with a binary message" : "text", data.toString()));
link.on("error", (error) => show("failed", error));
link.on("close", (code) => show("closed", code));
await obey((text) => link.send(text), (code) => link.close(code), () => link.terminate());
