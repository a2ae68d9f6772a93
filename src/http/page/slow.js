// "Slow this tab", in the demo alone: the page's own connection gets few bytes a second, a second connection gets all of them,
// and the server says of both what waits and what it skipped.
import { connect } from "../weirgate.js";
import { attribute, byId, bytes, decimal, duration, element, put } from "./values.js";

/** The positions of the slider, in bytes a second. */
const RATES = [500, 1_000, 2_000, 4_000, 8_000];
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

  /** Tells the server which connection this is, and how many bytes a second it may have. */
  introduce(feed, bytesPerSecond) {
    feed.send(JSON.stringify({ tab: this.name, bytes_per_second: bytesPerSecond }));
  }

  async ask() {
    const url = new URL("page/tab", document.baseURI);
    url.searchParams.set("name", this.name);
    const answer = await fetch(url, { cache: "no-store" }).catch(() => null);
    this.#said = answer?.ok ? await answer.json() : null;
  }

  draw() {
    const said = this.#said, show = (key, value) => put(this.#cells.get(key), value);
    show("age", this.newestTs === null ? "–" : duration(Math.max(0, Date.now() - this.newestTs)));
    show("received", decimal(this.received, 0));
    show("state", said ? STATES[said.state] ?? said.state : "–");
    show("queue", said ? `${said.queue_messages} message${said.queue_messages === 1 ? "" : "s"}, ${bytes(said.queue_bytes)}` : "–");
    show("skipped", said ? decimal(said.conflated, 0) : "–");
  }
}

let feed = null, mine = null, other = null, second = null, isSlow = false, isAsking = false, askedAt = -Infinity;

const rate = () => RATES[Number(byId("slow-rate").value)];

function introduce() {
  mine.introduce(feed, isSlow ? rate() : null);
}

function show() {
  const text = `${rate() / 1_000} kB/s`;
  put(byId("slow-shown"), text);
  attribute(byId("slow-rate"), "aria-valuetext", text);
  put(byId("slow-button"), isSlow ? "Full speed again" : "Slow this tab");
  attribute(byId("slow-button"), "aria-pressed", String(isSlow));
  put(byId("slow-about"), isSlow ? `This tab gets ${text}` : second ? "Both at full speed" : "");
}

/** The second connection is there once somebody has asked for it: a demo with many visitors has one each. */
function openSecond(timeOf) {
  if (second) return;
  const url = new URL("ws/stream", document.baseURI);
  second = connect(url, {
    onOpen: () => other.introduce(second, null),
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
  byId("slow-button").onclick = () => {
    isSlow = !isSlow;
    openSecond(timeOf);
    byId("slow-pair").hidden = false;
    introduce();
    show();
  };
  byId("slow-rate").oninput = () => {
    if (isSlow) introduce();
    show();
  };
  feed.addEventListener("open", introduce);
  introduce();
  show();
}

/** A tick of the page: this tab has this many messages, and its newest state is of that time. */
export function drawSlow(now, received, newestTs) {
  mine.received = received;
  mine.newestTs = newestTs;
  mine.draw();
  other.draw();
  // Nobody is asked before the control was used.
  if (!second || isAsking || now - askedAt < ASK_MS) return;
  askedAt = now;
  isAsking = true;
  Promise.all([mine.ask(), other.ask()]).finally(() => { isAsking = false; });
}
