// Prints the payloads that the client of channels gets, each as [pattern, base64], then the client's position.
//
//   node payloads.mjs URL NAMES COUNT SINCE
import WebSocket from "ws";

import { Channels } from "../../clients/js/channels.js";

const [url, names, count, since] = process.argv.slice(2);
let left = Number(count);
const channels = new Channels(url, {
  WebSocket, payload: "binary", since,
  onBad: (error) => { throw error; },
  onGap: ({ first, last }) => { throw new Error(`a gap from ${first} to ${last}`); },
  onWelcome: () => console.log(JSON.stringify("connected")),
});
for await (const { pattern, data } of channels.subscribe(names.split(","))) {
  console.log(JSON.stringify([pattern, Buffer.from(data).toString("base64")]));
  left -= 1;
  if (left === 0) break;
}
console.log(JSON.stringify(channels.position));
channels.close();
