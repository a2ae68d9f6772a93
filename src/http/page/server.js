// What the server says of itself, beside the feed: whether the market is invented, whether the bus is there, and which of its
// own pages it has. Asked for at the start, and again while the feed is old.

const ASK_EVERY_MS = 2_000;

export const server = { isSimulated: false, isBusAway: false };
let askedAt = -Infinity;

export async function ask(now = performance.now()) {
  if (now - askedAt < ASK_EVERY_MS) return;
  askedAt = now;
  try {
    const answer = await fetch(new URL("health", document.baseURI), { cache: "no-store" });
    const health = await answer.json();
    server.isSimulated = health.nats_url === "simulated";
    server.isBusAway = health.nats_connected === false;
  } catch {
    // No answer is no news: the feed itself says that the server is away.
  }
}

/** With an admin address of its own, the server has these pages elsewhere. */
export async function removeDeadLinks(links) {
  const answer = await fetch(new URL("stats", document.baseURI), { cache: "no-store" }).catch(() => null);
  if (answer?.status === 404) links.remove();
}
