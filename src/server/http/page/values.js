// From any JSON to what a person reads. The gateway passes values as they came, so nothing is taken for granted.

export const isObject = (x) => x !== null && typeof x === "object" && !Array.isArray(x);
export const object = (x) => (isObject(x) ? x : {});
export const objects = (x) => (Array.isArray(x) ? x.filter(isObject) : []);

/** A finite number, also one that came as text; else null. */
export function number(x) {
  if (typeof x === "string" && x.trim() !== "") x = Number(x);
  return typeof x === "number" && Number.isFinite(x) ? x : null;
}

/** Short text of a scalar; "" for anything else. */
export function text(x, charsMax = 60) {
  if (!["string", "number", "boolean"].includes(typeof x)) return "";
  const s = String(x);
  return s.length > charsMax ? `${s.slice(0, charsMax - 1)}…` : s;
}

export const clamp = (x, least, most) => Math.min(most, Math.max(least, x));

const formats = new Map();

/** A number with so many decimals; a dash for null. */
export function decimal(x, digits) {
  if (x === null) return "–";
  if (Math.abs(x) >= 1e12) return x.toExponential(3);
  if (!formats.has(digits)) {
    formats.set(digits, new Intl.NumberFormat("en-US", { minimumFractionDigits: digits, maximumFractionDigits: digits }));
  }
  // No minus before what was rounded to zero.
  return formats.get(digits).format(x).replace(/^-(?=0(\.0*)?$)/, "").replace("-", "−");
}

export const signed = (x, digits) => (x > 0 ? "+" : "") + decimal(x, digits);
export const percent = (share) => (share === null ? "–" : `${Math.round(share * 100)} %`);

// A key that was ever shown with decimals keeps them, so that its figure does not change its width.
const fractional = new Set();

/** Any value of a field that nobody told us about. */
export function anything(key, x) {
  const n = number(x);
  if (n === null) return text(x) || "–";
  if (!Number.isInteger(n)) fractional.add(key);
  return decimal(n, fractional.has(key) ? 2 : 0);
}

const KIB = 1024;

/** A size in binary units, as in the documents and the settings. */
export function bytes(n) {
  if (n < KIB) return `${Math.round(n)} B`;
  if (n < KIB ** 2) return `${(n / KIB).toFixed(1)} KiB`;
  if (n < KIB ** 3) return `${(n / KIB ** 2).toFixed(1)} MiB`;
  return n < KIB ** 4 ? `${(n / KIB ** 3).toFixed(2)} GiB` : `${(n / KIB ** 4).toFixed(2)} TiB`;
}

/** A length of time; negative where two clocks disagree. */
export function duration(ms) {
  const long = Math.abs(ms), sign = ms < 0 ? "−" : "";
  if (long < 1e3) return `${sign}${Math.round(long)} ms`;
  if (long < 60e3) return `${sign}${(long / 1e3).toFixed(1)} s`;
  if (long < 3600e3) return `${sign}${Math.floor(long / 60e3)} min ${Math.floor(long / 1e3) % 60} s`;
  if (long < 86400e3) return `${sign}${(long / 3600e3).toFixed(1)} h`;
  return `${sign}${Math.floor(long / 86400e3)} days`;
}

const CAPITALS = new Set(["VWAP", "PM", "OR", "SMA", "EMA", "POC", "HVL", "ES", "SPY"]);

/** SESSION_HIGH → Session high; abbreviations of the field stay. */
export function words(x) {
  const s = text(x).split("_").map((word) => (CAPITALS.has(word) ? word : word.toLowerCase())).join(" ");
  return s.charAt(0).toUpperCase() + s.slice(1);
}

/**
 * Two shares of one whole, rounded once, or they would add up to 101 %.
 * @returns {[string, string]}
 */
export function shares(a, b) {
  const isWhole = a !== null && b !== null && Math.abs(a + b - 1) < 0.005;
  return [percent(a), isWhole ? `${100 - Math.round(a * 100)} %` : percent(b)];
}

// ---- Elements. Data goes in as text only; a node is touched only when its value has changed.

export const byId = (id) => document.getElementById(id);

export function element(tag, className = "", ...children) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.append(...children.map(plain));
  return made;
}

export function svg(tag, attributes) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const name in attributes) made.setAttribute(name, attributes[name]);
  return made;
}

/** For the eye only. */
export function decoration(tag, className, ...children) {
  const made = element(tag, className, ...children);
  made.setAttribute("aria-hidden", "true");
  return made;
}

const shown = new WeakMap();

function changed(node, what, value) {
  let values = shown.get(node);
  if (!values) shown.set(node, (values = {}));
  if (values[what] === value) return false;
  values[what] = value;
  return true;
}

// Characters of strangers' texts that would change the text around: the same as in logs and terminals.
const STEERS = /[\p{Cc}\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\u{e0000}-\u{e007f}]/gu;

/** A text as it can be shown: what steers is escaped. */
export function plain(value) {
  const units = (c) => c.replace(/[^]/g, (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`);
  return typeof value === "string" ? value.replace(STEERS, units) : value;
}

export function put(node, value) {
  if (changed(node, "text", value)) node.textContent = plain(value);
}

export function attribute(node, name, value) {
  if (changed(node, name, value)) node.setAttribute(name, plain(value));
}

/** The length of a bar, as a share of its track. */
export function scale(node, share) {
  const value = `scaleX(${(share === null ? 0 : clamp(share, 0, 1)).toFixed(3)})`;
  if (changed(node, "transform", value)) node.style.transform = value;
}

/** Two coloured parts of one bar. */
export function split() {
  const a = element("i", "a"), b = element("i", "b");
  const bar = decoration("span", "split", a, b);
  return { bar, set: (shareA, shareB) => { scale(a, shareA); scale(b, shareB); } };
}

/** Brings a table's body into the given order with few moves: rows hold figures that change all the time. */
export function place(body, order) {
  const wanted = new Set(order);
  for (const row of [...body.children]) if (!wanted.has(row)) row.remove();
  order.forEach((row, n) => {
    if (body.children[n] !== row) body.insertBefore(row, body.children[n] ?? null);
  });
}

/** Cells that span a table would keep room for columns that the screen does not show. */
export function spanVisible(table, cells) {
  const fit = () => {
    const visible = [...table.querySelectorAll("thead th")].filter((th) => th.offsetParent !== null).length;
    for (const cell of cells) if (visible && cell.colSpan !== visible) cell.colSpan = visible;
  };
  addEventListener("resize", fit);
  fit();
}
