// The text of /metrics as numbers, and rates of its counters.

const LINE = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)/;
const LABEL = /(\w+)="((?:[^"\\]|\\.)*)"/g;

/** Names with their samples: labels and value. */
export class Metrics {
  #samples = new Map();

  constructor(text, at) {
    this.at = at;
    for (const line of text.split("\n")) {
      const [, name, labels = "", value] = LINE.exec(line) ?? [];
      if (!name) continue;
      if (!this.#samples.has(name)) this.#samples.set(name, []);
      const pairs = [...labels.matchAll(LABEL)].map(([, key, text]) => [key, text.replace(/\\(.)/g, "$1")]);
      this.#samples.get(name).push({ labels: Object.fromEntries(pairs), value: Number(value) });
    }
  }

  samples(name, label = {}) {
    const samples = this.#samples.get(name) ?? [];
    return samples.filter(({ labels }) => Object.entries(label).every(([key, text]) => labels[key] === text));
  }

  /** The sum of the samples; null where there is none. */
  sum(name, label) {
    const samples = this.samples(name, label);
    return samples.length ? samples.reduce((sum, { value }) => sum + value, 0) : null;
  }

  /** The largest sample; null where there is none. */
  largest(name, label) {
    const values = this.samples(name, label).map(({ value }) => value);
    return values.length ? Math.max(...values) : null;
  }
}

/** Counters over the last seconds. */
export class Rates {
  #kept = [];

  constructor(overMs) {
    this.overMs = overMs;
  }

  push(metrics) {
    this.#kept.push(metrics);
    while (this.#kept.length > 2 && metrics.at - this.#kept[1].at >= this.overMs) this.#kept.shift();
  }

  /** How much a counter grew a second; null before there are two readings, and after a restart. */
  perSecond(name, label) {
    const first = this.#kept[0], last = this.#kept.at(-1);
    if (!first || first === last) return null;
    const grown = (last.sum(name, label) ?? 0) - (first.sum(name, label) ?? 0);
    return last.sum(name, label) === null || grown < 0 ? null : grown / ((last.at - first.at) / 1000);
  }

  forget() {
    this.#kept.length = 0;
  }
}
