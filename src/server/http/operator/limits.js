// How near the limits are, and who is refused.
import { Bar, Pairs } from "./tables.js";
import { attribute, byId, bytes, decimal, put, scale } from "./values.js";

/** From here on a bar has another colour. */
const NEAR = 0.7, VERY_NEAR = 0.9;

const bars = new Map(), refused = new Pairs("refused");

/** A Unix second as a date and a time, in UTC. */
const minute = (second) => new Date(second * 1000).toISOString().slice(0, 16).replace("T", " ");
const shareOf = ({ now, max }) => (max ? now / max : 0);

export function drawLimits(limits) {
  const order = [...limits].sort((a, b) => shareOf(b) - shareOf(a)).map((limit) => {
    const { now, max } = limit, share = shareOf(limit);
    if (!bars.has(limit.name)) bars.set(limit.name, new Bar());
    const bar = bars.get(limit.name), text = limit.is_bytes ? bytes : (count) => decimal(count, 0);
    put(bar.name, limit.name);
    attribute(bar.node, "title", limit.about);
    put(bar.numbers, `${text(now)} / ${max ? text(max) : "no limit"}`);
    scale(bar.fill, share);
    attribute(bar.node, "data-tone", share >= VERY_NEAR ? "bad" : share >= NEAR ? "wait" : "");
    return bar.node;
  });
  const box = byId("limits");
  if (order.some((node, n) => box.children[n] !== node) || box.children.length !== order.length) box.replaceChildren(...order);
}

/** Users, tokens and addresses that an operator has cut off, the newest first. */
export function drawRefused({ revoked, revoked_newest: newest }) {
  byId("refused-card").hidden = !revoked;
  put(byId("refused-about"), revoked > newest.length ? `${newest.length} of ${decimal(revoked, 0)}` : "");
  refused.draw(newest.map(({ until, since, ...chosen }) => [
    Object.entries(chosen).map(([name, text]) => `${name} ${text}`).join(", "),
    (since ? `cut ${minute(since)}, ` : "") + (until ? `until ${minute(until)} UTC` : "while in the file"),
  ]));
}
