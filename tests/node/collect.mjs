// Prints what a client of the package ws gets: first the extensions agreed on, then each message as a JSON string.
//
//   node collect.mjs URL COUNT deflate|plain
import WebSocket from "ws";

const [url, count, encoding] = process.argv.slice(2);
const socket = new WebSocket(url, { perMessageDeflate: encoding === "deflate" });
let left = Number(count);

socket.on("open", () => console.log(JSON.stringify(socket.extensions)));
socket.on("message", (data, isBinary) => {
  // On a busy machine more come in one read.
  if (left === 0) return;
  if (isBinary) throw new Error("a binary message");
  console.log(JSON.stringify(data.toString()));
  left -= 1;
  if (left === 0) socket.close(1000);
});
socket.on("close", (code) => process.exit(left === 0 && code === 1000 ? 0 : 1));
socket.on("error", (error) => {
  console.error(error);
  process.exit(1);
});
