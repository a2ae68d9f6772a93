// The page beside relays alone: each key of the state, with the age and the text of its newest message.
import { byId, duration, element, place, put, spanVisible } from "./values.js";

/** More keys than this are not drawn: the first are. */
const ROWS_MAX = 200;
/** More of a text is cut off. */
const CHARS_MAX = 500;

let isFirst = true;
const rows = new Map(), body = byId("keys");
const emptyCell = element("td", "", "Waiting for the first message."), emptyRow = element("tr", "empty", emptyCell);
const moreCell = element("td"), moreRow = element("tr", "more", moreCell);
spanVisible(byId("relayed"), [emptyCell, moreCell]);

class Row {
  #key = element("th", "k-key");
  #age = element("td", "k-age num");
  #text = element("td", "k-text");
  tr = element("tr", "", this.#key, this.#age, this.#text);
  /** The text as in the state; undefined without a value. */
  text;
  /** When the newest message came, on the page's clock; null while unknown. */
  at = null;

  constructor(key) {
    this.#key.scope = "row";
    put(this.#key, key.length > CHARS_MAX ? `${key.slice(0, CHARS_MAX)}…` : key);
  }

  draw(now) {
    put(this.#age, this.at === null ? "–" : duration(Math.max(0, now - this.at)));
    const isCut = this.text !== undefined && this.text.length > CHARS_MAX;
    put(this.#text, this.text === undefined ? "No value" : isCut ? `${this.text.slice(0, CHARS_MAX)}…` : this.text);
    this.#text.classList.toggle("dim", this.text === undefined);
  }
}

/** Where the string ends whose first character is at `from`: at a quote behind an even number of backslashes. */
function stringEnd(json, from) {
  for (let quote = json.indexOf('"', from); ; quote = json.indexOf('"', quote + 1)) {
    let first = quote;
    while (json[first - 1] === "\\") first -= 1;
    if ((quote - first) % 2 === 0) return quote + 1;
  }
}

/**
 * The values of an object's keys as they are written, so that a number keeps its digits. The text is JSON.
 * @returns {Map<string, string>}
 */
export function parts(json) {
  const found = new Map(), signs = /["[\]{},:]/g;
  let depth = 0, key = null, from = 0;
  for (let token; (token = signs.exec(json)); ) {
    const [sign] = token, ends = depth === 1 && (sign === "," || sign === "}");
    if (ends && key !== null) found.set(key, json.slice(from, token.index).trim());
    if (ends) key = null;
    else if (depth === 1 && sign === ":") from = signs.lastIndex;
    // A regular expression for whole strings would run out of its stack in a long one.
    if (sign === '"') signs.lastIndex = stringEnd(json, signs.lastIndex);
    if (sign === '"' && depth === 1 && key === null) key = JSON.parse(json.slice(token.index, signs.lastIndex));
    if (sign === "{" || sign === "[") depth += 1;
    else if (sign === "}" || sign === "]") depth -= 1;
  }
  return found;
}

/** Takes a state in. `isKept`: nobody knows when its messages came. */
export function takeState(json, isKept, now) {
  const values = parts(json);
  for (const key of values.keys()) if (!rows.has(key)) rows.set(key, new Row(key));
  for (const [key, row] of rows) {
    const text = values.get(key);
    if (row.text === text) continue;
    row.text = text;
    // The first state may be a kept one whose message was followed by another at once.
    row.at = isKept || isFirst ? null : now;
  }
  isFirst = false;
}

/** Takes in what the server knows: every key, and its age in ms or null. */
export function takeAges(ages, now) {
  for (const key of rows.keys()) if (!Object.hasOwn(ages, key) && rows.get(key).text === undefined) rows.delete(key);
  for (const key of Object.keys(ages)) {
    if (!rows.has(key)) rows.set(key, new Row(key));
    const row = rows.get(key);
    // A message with the same text changes nothing here, and is newer.
    if (typeof ages[key] === "number") row.at = Math.max(row.at ?? -Infinity, now - ages[key]);
  }
}

export function drawRelays(now) {
  const shown = [...rows.values()].slice(0, ROWS_MAX), order = shown.map(({ tr }) => tr);
  for (const row of shown) row.draw(now);
  if (rows.size > shown.length) {
    put(moreCell, `${rows.size - shown.length} more keys`);
    order.push(moreRow);
  }
  if (order.length === 0) order.push(emptyRow);
  place(body, order);
}

/** A line about the table. */
export function aboutRelays() {
  return `${rows.size} key${rows.size === 1 ? "" : "s"}`;
}
