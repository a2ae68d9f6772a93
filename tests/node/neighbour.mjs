// Prints the price of each message that the client of a version gets, one a line, and ends after COUNT.
//
//   node neighbour.mjs FOLDER trades|channels|events PORT COUNT
// FOLDER has the version's clients for JavaScript.
import path from "node:path";
import WebSocket from "ws";

const [folder, gateway, port, count] = process.argv.slice(2);
const load = (name) => import(path.join(folder, `${name}.js`));
const say = (value) => console.log(JSON.stringify(value));
const onError = (error) => { throw error; };
let left = Number(count);

const take = (client) => (value) => {
  say(value);
  left -= 1;
  if (left === 0) client.close();
};

const START = {
  async trades() {
    const { Trades } = await load("trades");
    const trades = new Trades(`ws://127.0.0.1:${port}/`, { WebSocket, onError });
    trades.subscribe("A", (data) => take(trades)(data.price));
  },
  async channels() {
    const { Channels } = await load("channels");
    const channels = new Channels(`ws://127.0.0.1:${port}/ws`, { WebSocket, onError });
    channels.subscribe("market:tick:A", (data) => take(channels)(data.price));
  },
  async events() {
    const { Devices } = await load("events");
    const device = new Devices(`ws://127.0.0.1:${port}/ws`, { WebSocket, onError, deviceId: "a" });
    for await (const { data } of device) take(device)(data.price);
  },
};
await START[gateway]();
