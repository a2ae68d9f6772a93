// How near the limits are: those that a metric comes near to.
import { Bar } from "./tables.js";
import { attribute, byId, bytes, decimal, put, scale } from "./values.js";

/** From here on a bar has another colour. */
const NEAR = 0.7, VERY_NEAR = 0.9;

const bars = new Map();

function entry(limit, metrics) {
  const now = limit.largest ? metrics.largest(limit.metric, limit.label) : metrics.sum(limit.metric, limit.label);
  const max = (limit.max_metric && metrics.sum(limit.max_metric)) ?? limit.max;
  return { limit, now, max, share: now === null || !max ? 0 : now / max };
}

export function drawLimits(limits, metrics) {
  const entries = limits.map((limit) => entry(limit, metrics)).filter(({ now }) => now !== null);
  entries.sort((a, b) => b.share - a.share);
  const order = entries.map(({ limit, now, max, share }) => {
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
