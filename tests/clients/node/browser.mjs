// The WebSocket of a page in Chromium or Firefox, both without a window and with an empty profile.
import process from "node:process";
import puppeteer from "puppeteer-core";
import { obey, show } from "./line.mjs";

const [name, executablePath, url, ...protocols] = process.argv.slice(2);
const browser = await puppeteer.launch({
  browser: name, executablePath, headless: true, protocolTimeout: 120_000,
  // The profile is empty, and a browser takes authorities from there alone.
  acceptInsecureCerts: url.startsWith("wss:"),
  // Without the sandbox, which needs rights that containers lack.
  args: name === "chrome" ? ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking"] : [],
});
const [page] = await browser.pages();
await page.evaluate((url, protocols) => {
  const lines = [];
  let wake = () => {};
  const tell = (line) => (lines.push(line), wake());
  window.next = () => new Promise((resolve) => {
    wake = () => {
      if (lines.length === 0) return;
      wake = () => {};
      resolve(lines.splice(0));
    };
    wake();
  });
  const link = (window.link = new WebSocket(url, protocols));
  link.onopen = () => tell(["open", link.protocol]);
  link.onmessage = ({ data }) => tell(typeof data === "string" ? ["text", data] : ["failed", "with a message that is no text"]);
  link.onclose = ({ code }) => tell(["closed", code]);
}, url, protocols);
await obey((text) => page.evaluate((text) => window.link.send(text), text),
  (code) => page.evaluate((code) => window.link.close(code), code), () => browser.close());
for (;;) for (const line of await page.evaluate(() => window.next())) show(...line);
