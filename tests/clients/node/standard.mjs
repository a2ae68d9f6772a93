// Clients with the interface of browsers: the first argument chooses one.
import process from "node:process";
import { obey, show } from "./line.mjs";

const [library, url, ...protocols] = process.argv.slice(2);
const on = async (name) => [(await import(name)).default, { WebSocket: (await import("ws")).WebSocket, maxRetries: 0 }];

// Each gives [class, options behind URL and protocols…].
const libraries = {
  "built-in": () => [globalThis.WebSocket],
  undici: async () => [(await import("undici")).WebSocket],
  websocket: async () => [(await import("websocket")).default.w3cwebsocket, undefined, undefined, undefined, { maxReceivedMessageSize: 1 << 30, maxReceivedFrameSize: 1 << 30 }],
  "faye-websocket": async () => [(await import("faye-websocket")).default.Client, { extensions: [(await import("permessage-deflate")).default], maxLength: 1 << 30 }],
  partysocket: () => on("partysocket/ws"),
  "reconnecting-websocket": () => on("reconnecting-websocket"),
};

const [Client, ...options] = await libraries[library]();
const link = new Client(url, protocols, ...options);
link.onopen = () => show("open", link.protocol ?? "");
link.onmessage = ({ data }) => (typeof data === "string" ? show("text", data) : show("failed", `with a message of type ${typeof data}`));
link.onclose = ({ code }) => {
  show("closed", code);
  process.exit();
};
await obey((text) => link.send(text), (code) => link.close(code));
