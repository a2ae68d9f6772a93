// Readers of paths in Node, spoken to as oracle.py is: parts with their lengths before them.
import fs from "node:fs";
import path from "node:path";

let waiting = Buffer.alloc(0);
const chunk = Buffer.alloc(65536);

function read(count) {
  while (waiting.length < count) {
    let got = 0;
    try {
      got = fs.readSync(0, chunk, 0, chunk.length, null);
    } catch (error) {
      if (error.code === "EAGAIN") continue;
      throw error;
    }
    if (got === 0) process.exit(0);
    waiting = Buffer.concat([waiting, chunk.subarray(0, got)]);
  }
  const taken = waiting.subarray(0, count);
  waiting = waiting.subarray(count);
  return taken;
}

const number = () => read(4).readUInt32BE();

function pathname(text) {
  try {
    return new URL(text, "http://localhost").pathname;
  } catch {
    // No URL for this reader: nothing is reached.
    return "/";
  }
}

function write(parts) {
  const all = parts.map((part) => Buffer.from(part));
  const head = (n) => {
    const bytes = Buffer.alloc(4);
    bytes.writeUInt32BE(n);
    return bytes;
  };
  fs.writeSync(1, Buffer.concat([head(all.length), ...all.flatMap((part) => [head(part.length), part])]));
}

for (;;) {
  const parts = Array.from({ length: number() }, () => read(number()));
  write(parts.slice(1).flatMap((part) => [pathname(part.toString()), path.posix.normalize(part.toString())]));
}
