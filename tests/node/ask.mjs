// Sends the requests that stand on the lines of its input, each once the one before it was answered, from a client of the
// package ws that compresses every message. Prints the extensions agreed on, then each answer as a JSON string.
//
//   node ask.mjs URL GREETINGS
import { readFileSync } from "node:fs";
import WebSocket from "ws";

const [url, greetings] = process.argv.slice(2);
const requests = readFileSync(0, "utf8").split("\n").filter(Boolean);
const socket = new WebSocket(url, { perMessageDeflate: { threshold: 0 } });
let left = Number(greetings);
let answered = false;

function next() {
  if (requests.length > 0) return socket.send(requests.shift());
  answered = true;
  socket.close(1000);
}

socket.on("open", () => {
  console.log(JSON.stringify(socket.extensions));
  if (left === 0) next();
});
socket.on("message", (data) => {
  if (left > 0) left -= 1;
  else console.log(JSON.stringify(data.toString()));
  if (left === 0) next();
});
socket.on("close", (code) => process.exit(answered && code === 1000 ? 0 : 1));
socket.on("error", (error) => {
  console.error(error);
  process.exit(1);
});
