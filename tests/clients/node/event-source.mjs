// The EventSource of undici, which is that of Node; says `open`, `message` and `error READY_STATE`.
import process from "node:process";
import { EventSource } from "undici";
import { show } from "./line.mjs";

const source = new EventSource(process.argv[2]);
source.onopen = () => show("open", "");
source.onmessage = () => show("message", "");
source.onerror = () => {
  show("error", source.readyState);
  if (source.readyState === EventSource.CLOSED) process.exit();
};
// The wait before the next attempt keeps no process alive.
setInterval(() => {}, 60_000);
