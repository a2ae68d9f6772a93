// Networks that treat WebSockets badly, each a relay of its own; event streams and everything else pass.
//
// Alone: node networks.mjs PORT NAME… prints {name: port} in a line, for all ways without a name; each line on stdin is
// answered by {name: {upgrades, streams}}, and the end of stdin is the end.
import { createHash } from "node:crypto";
import { once } from "node:events";
import { connect as dial, createServer } from "node:net";
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

const GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
const later = (ms, work) => setTimeout(work, ms).unref();
const reset = (client) => client.resetAndDestroy();

/** The response of a middlebox in place of 101. */
const answers = (status, reason, more = "") => (client) => {
  const body = `<h1>${reason}</h1>`;
  client.end(`HTTP/1.1 ${status} ${reason}\r\n${more}Content-Type: text/html\r\nContent-Length: ${body.length}\r\nConnection: close\r\n\r\n${body}`);
};

/** A handshake that the middlebox answers itself. */
const opens = (change) => (client, head) => {
  const key = /\r\nsec-websocket-key: *(\S+)/i.exec(head)[1], accept = createHash("sha1").update(change(key) + GUID).digest("base64");
  client.write(`HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ${accept}\r\n\r\n`);
  client.resume();
};

/** The response to the handshake passes, changed by `edit`; then `breaks(client, server, first)` has the bytes, the first of them already read. */
const after101 = (breaks, edit = (response) => response) => (client, head, connect) => {
  const server = connect();
  let response = Buffer.alloc(0);
  server.write(head);
  server.on("data", function read(data) {
    response = Buffer.concat([response, data]);
    const at = response.indexOf("\r\n\r\n") + 4;
    if (at < 4) return;
    server.off("data", read).pause();
    client.write(edit(response.subarray(0, at).toString("latin1")), "latin1");
    breaks(client, server, response.subarray(at));
  });
};

/** As a good network, with what comes from the server through `down`. */
const through = (down = (client, data) => client.write(data)) => (client, server, first) => {
  if (first.length) down(client, first, server);
  server.on("data", (data) => down(client, data, server)).on("end", () => client.end()).resume();
  client.pipe(server);
};

/** The lengths of the whole frames at the beginning of what a server has sent, each with its opcode. */
function* frames(bytes) {
  for (let at = 0; at + 2 <= bytes.length; ) {
    const short = bytes[at + 1] & 127, head = short < 126 ? 2 : short === 126 ? 4 : 10;
    if (at + head > bytes.length) return;
    const length = head + (short < 126 ? short : short === 126 ? bytes.readUInt16BE(at + 2) : Number(bytes.readBigUInt64BE(at + 2)));
    if (at + length > bytes.length) return;
    yield [bytes[at] & 15, bytes.subarray(at, (at += length))];
  }
}

function withoutPings() {
  let rest = Buffer.alloc(0);
  return (client, data) => {
    rest = Buffer.concat([rest, data]);
    for (const [opcode, frame] of frames(rest)) {
      rest = rest.subarray(frame.length);
      if (opcode !== 9) client.write(frame);
    }
  };
}

function cutAfter(bytes) {
  let passed = 0;
  return (client, data) => {
    client.write(data.subarray(0, bytes - passed));
    if ((passed += data.length) >= bytes) later(50, () => reset(client));
  };
}

function idleFor(ms) {
  let timer;
  return (client, data) => {
    clearTimeout(timer);
    timer = later(ms, () => reset(client));
    client.write(data);
  };
}

function untilTheEnd() {
  const kept = [];
  return (client, data, server) => kept.push(data) === 1 && server.once("end", () => client.write(Buffer.concat(kept)));
}

function pieces(bytes) {
  let line = Promise.resolve();
  return (client, data) => {
    for (let at = 0; at < data.length; at += bytes) line = line.then(() => new Promise((go) => client.write(data.subarray(at, at + bytes), () => setImmediate(go))));
  };
}

/** Each gets a client and its head, and `connect()`, a connection to the server. Only "cuts into other pieces" leaves a WebSocket as it is. */
export const WAYS = {
  "passes nothing down": after101((client, server) => client.pipe(server) && server.resume()),
  "passes nothing at all": after101((client, server) => client.resume() && server.resume()),
  "reads nothing from the server": after101((client, server) => client.pipe(server) && server.pause()),
  "ends at once": after101((client) => client.end()),
  "resets at once": after101(reset),
  "resets at the first message of the client": after101((client, server, first) => {
    client.write(first);
    server.pipe(client);
    client.once("data", () => reset(client));
  }),
  "resets at the first message of the server": after101((client, server, first) => (first.length ? reset(client) : server.once("data", () => reset(client)).resume())),
  "resets after 3 s": after101((client, server, first) => {
    through()(client, server, first);
    later(3_000, () => reset(client));
  }),
  "ends after 3 s": after101((client, server, first) => {
    through()(client, server, first);
    later(3_000, () => client.end());
  }),
  "resets after 1,000 bytes": after101((...all) => through(cutAfter(1_000))(...all)),
  "buffers all until the end": after101((...all) => through(untilTheEnd())(...all)),
  "delays all by 6 s": after101((...all) => through((client, data) => later(6_000, () => client.write(data)))(...all)),
  "half-closes towards the server": after101((client, server, first) => {
    client.write(first);
    server.pipe(client);
    server.end();
    client.resume();
  }),
  "opens without a server": opens((key) => key),
  "opens with a wrong key": opens((key) => `${key}x`),
  "puts a page behind the handshake": after101((client, server, first) => {
    client.write("<html><h1>Blocked</h1></html>");
    through()(client, server, first);
  }),
  "takes the extension away": after101((...all) => through()(...all), (response) => response.replace(/Sec-WebSocket-Extensions:.*\r\n/i, "")),
  "drops pings": after101((...all) => through(withoutPings())(...all)),
  "resets what is idle for 2 s": after101((...all) => through(idleFor(2_000))(...all)),
  "cuts into other pieces": after101((...all) => through(pieces(7))(...all)),
  "never answers": (client) => client.resume(),
  "resets the handshake": reset,
  "answers 200": answers(200, "OK"),
  "answers 302": answers(302, "Found", "Location: http://192.0.2.1/login\r\n"),
  "answers 400": answers(400, "Bad Request"),
  "answers 401": answers(401, "Unauthorized"),
  "answers 403": answers(403, "Forbidden"),
  "answers 407": answers(407, "Proxy Authentication Required"),
  "answers 426": answers(426, "Upgrade Required"),
  "answers 502": answers(502, "Bad Gateway"),
};

/** A relay to a port of this machine; `isGood` lets WebSockets pass, and the counts go on. */
export async function networkThat(way, port) {
  const network = { upgrades: 0, streams: 0, isGood: false }, clients = new Set();
  const server = createServer({ allowHalfOpen: true }, (client) => {
    clients.add(client.on("close", () => clients.delete(client)));
    let head = "";
    const connect = () => {
      const far = dial({ port, host: "127.0.0.1", allowHalfOpen: true });
      far.on("error", () => client.destroy()).on("close", () => client.end());
      client.on("close", () => far.destroy());
      return far;
    };
    client.on("error", () => {}).on("end", () => client.end());
    client.on("data", function read(data) {
      head += data.toString("latin1");
      if (!head.includes("\r\n\r\n")) return;
      client.off("data", read);
      const isUpgrade = /\r\nupgrade: websocket/i.test(head);
      if (isUpgrade) network.upgrades += 1;
      else if (/\r\naccept: text\/event-stream/i.test(head)) network.streams += 1;
      const bytes = Buffer.from(head, "latin1");
      if (isUpgrade && !network.isGood) return way(client, bytes, connect);
      const far = connect();
      far.write(bytes);
      client.pipe(far).pipe(client);
    });
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const close = () => {
    server.close();
    clients.forEach(reset);
  };
  return Object.assign(network, { port: server.address().port, close });
}

/** A relay for each way, by name. */
export async function networks(port, names = Object.keys(WAYS)) {
  return new Map(await Promise.all(names.map(async (name) => [name, await networkThat(WAYS[name], port)])));
}

if (import.meta.url === pathToFileURL(process.argv[1]).href) {
  const [port, ...names] = process.argv.slice(2), all = await networks(port, names.length ? names : undefined);
  const say = (of) => console.log(JSON.stringify(Object.fromEntries([...all].map(([name, one]) => [name, of(one)]))));
  say((one) => one.port);
  for await (const _ of createInterface({ input: process.stdin })) say(({ upgrades, streams }) => ({ upgrades, streams }));
  process.exit(0);
}
