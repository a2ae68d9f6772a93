// The line protocol of the client programs (see ../README.md): what all clients in JavaScript share.
import process from "node:process";

/** A line for the driver: `open PROTOCOL`, `text TEXT`, `closed CODE`, `failed WHY`. */
export const show = (word, value = "") => process.stdout.write(`${word} ${word === "failed" ? String(value).replace(/\s+/g, " ") : value}\n`);

/** Carries out the lines of the driver until they end. */
export const obey = async (send, close, end = () => process.exit()) => {
  // A plain split at "\n": readline would also split a text at U+2028.
  let rest = "";
  process.stdin.setEncoding("utf8");
  process.stdin.on("data", (some) => {
    const lines = (rest + some).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      const at = line.indexOf(" "), value = line.slice(at + 1);
      line.startsWith("close ") ? close(Number(value)) : send(value);
    }
  });
  process.stdin.on("end", end);
};
