// "Slow this tab", in the demo alone: the page's own connection uses the slow line of the demo, which reads few bytes a second
// from the server; a second connection gets everything. The server says of both what waits and what it skipped.
import { connect } from "../weirgate.js";
import { attribute, byId, bytes, decimal, duration, element, put } from "./values.js";

/** The positions of the slider, in bytes a second. */
const RATES = [500, 1_000, 2_000, 4_000, 8_000];
const FULL_SPEED = 1e9;
const ASK_MS = 500;
const STATES = {
  idle: "nothing waits", waiting: "sends", blocked: "waits for the client", conflating: "skips to the newest", over_soft_limit: "over its limit",
  closing: "closes", head: "connects",
};

/** One connection: what came, and what the server says of it. */
class Side {
  // Nobody else can ask for the numbers of a connection without its name.
  name = crypto.getRandomValues(new Uint32Array(4)).join("-");
  received = 0;
  newestTs = null;
  /** Bytes a second, if the connection uses the slow line. */
  rate = FULL_SPEED;
  #cells = new Map();
  #said = null;

  constructor(list) {
    for (const [key, label] of [["age", "Age of the newest value"], ["received", "Messages received"], ["state", "The server"], ["queue", "Waits at the server"], ["skipped", "Skipped"]]) {
      const cell = element("dd", "", "–");
      attribute(cell, "data-key", key);
      this.#cells.set(key, cell);
      list.append(element("dt", "", label), cell);
    }
  }

  url(path) {
    const url = new URL(path, document.baseURI);
    url.searchParams.set("name", this.name);
    url.searchParams.set("bytes_per_second", this.rate);
    return url;
  }

  /** Asks the server for the numbers of this connection, and tells the slow line the rate. */
  async ask() {
    const answer = await fetch(this.url("page/tab"), { cache: "no-store" }).catch(() => null);
    this.#said = answer?.ok ? await answer.json() : null;
  }

  /** Returns the text of the age. */
  draw() {
    const said = this.#said, show = (key, value) => put(this.#cells.get(key), value);
    const age = this.newestTs === null ? "–" : duration(Math.max(0, Date.now() - this.newestTs));
    show("age", age);
    show("received", decimal(this.received, 0));
    show("state", said ? STATES[said.state] ?? said.state : "–");
    show("queue", said ? `${said.queue_messages} message${said.queue_messages === 1 ? "" : "s"}, ${bytes(said.queue_bytes)}` : "–");
    show("skipped", said ? decimal(said.conflated, 0) : "–");
    return age;
  }
}

let feed = null, mine = null, other = null, second = null, isOnLine = false, isAsking = false, askedAt = -Infinity;

const rate = () => RATES[Number(byId("slow-rate").value)];
/** Whether the tab is slowed now. */
export const isSlow = () => mine?.rate < FULL_SPEED;

/** The address for the page's own connection. At full speed again, the tab stays on the slow line until its connection ends. */
export function ownUrl(path) {
  isOnLine = isSlow();
  return mine ? mine.url(isOnLine ? `page/slow/${path}` : path) : new URL(path, document.baseURI);
}

function show() {
  const text = `${rate() / 1_000} kB/s`;
  put(byId("slow-shown"), text);
  attribute(byId("slow-rate"), "aria-valuetext", text);
  put(byId("slow-button"), isSlow() ? "Full speed again" : "Slow this tab");
  put(byId("slow-to"), isSlow() ? "from" : "to");
  attribute(byId("slow-button"), "aria-pressed", String(isSlow()));
  put(byId("slow-about"), isSlow() ? `This tab gets ${text}` : second ? "Both at full speed" : "");
}

/** The second connection is there once somebody has asked for it: a demo with many visitors has one each. */
function openSecond(timeOf) {
  if (second) return;
  second = connect(other.url("ws/stream"), {
    onMessage: (data) => {
      other.received += 1;
      try {
        other.newestTs = timeOf(JSON.parse(data)) ?? other.newestTs;
      } catch {
        // The page itself counts what cannot be read.
      }
    },
  });
}

/** Shows the control for `connection`, the page's own; once. `timeOf` gives the time of a state. */
export function setUpSlow(connection, timeOf) {
  if (mine) return;
  feed = connection;
  mine = new Side(byId("slow-this"));
  other = new Side(byId("slow-other"));
  byId("slow").hidden = false;
  attribute(byId("age-about"), "title", "Of the newest value");
  byId("slow-button").onclick = () => {
    mine.rate = isSlow() ? FULL_SPEED : rate();
    openSecond(timeOf);
    byId("slow-pair").hidden = false;
    if (isOnLine && feed.status !== "waiting") mine.ask();
    else feed.reconnect();
    show();
  };
  byId("slow-rate").oninput = () => {
    if (isSlow()) {
      mine.rate = rate();
      mine.ask();
    }
    show();
  };
  show();
}

/** A tick of the page: this tab has this many messages, and its newest state is of that time. */
export function drawSlow(now, received, newestTs) {
  mine.received = received;
  mine.newestTs = newestTs;
  // The page has one age of this tab: a slowed tab still gets messages, with older values.
  put(byId("age"), mine.draw());
  other.draw();
  // Nobody is asked before the control was used.
  if (!second || isAsking || now - askedAt < ASK_MS) return;
  askedAt = now;
  isAsking = true;
  Promise.all([mine.ask(), other.ask()]).finally(() => { isAsking = false; });
}
