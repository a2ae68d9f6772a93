// What the server says of itself, beside the feed: whether the market is invented or left out, whether the bus is there, and
// which of its own pages it has. Asked for at the start, and again while the feed is old or there are only relays.

const ASK_EVERY_MS = 2_000;

/** `ages`: with relays alone the age of each key in ms, as of `agesAt`. */
export const server = { isSimulated: false, isBusAway: false, isRelays: false, ages: {}, agesAt: 0 };
let askedAt = -Infinity;

async function json(path) {
  const answer = await fetch(new URL(path, document.baseURI), { cache: "no-store" });
  return answer.json();
}

export async function ask(now = performance.now()) {
  if (now - askedAt < ASK_EVERY_MS) return;
  askedAt = now;
  try {
    const health = await json("health");
    server.isSimulated = health.nats_url === "simulated";
    server.isBusAway = health.nats_connected === false;
    // The market's consumers are shown unless the market is left out.
    server.isRelays = !Object.hasOwn(health.consumer_lag, "gateway_levels");
    if (!server.isRelays) return;
    server.ages = await json("page/keys");
    server.agesAt = performance.now();
  } catch {
    // No answer is not news: the feed itself says that the server is away.
  }
}

/** A proxy may keep these pages from the public. */
export async function removeDeadLinks(links) {
  const answer = await fetch(new URL("stats", document.baseURI), { cache: "no-store" }).catch(() => null);
  if (answer?.status === 404) links.remove();
}
