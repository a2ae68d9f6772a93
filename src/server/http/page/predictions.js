// The viewport's targets: what the model expects of the levels near the spot.
import { byId, decimal, element, number, object, objects, percent, place, put, scale, shares, signed, spanVisible, split, text, words, decoration } from "./values.js";

const ROWS_MAX = 6;

const body = byId("targets");
const emptyCell = element("td"), emptyRow = element("tr", "none", emptyCell);
spanVisible(byId("predictions"), [emptyCell]);
const rows = new Map();

class Row {
  tr = element("tr");
  usedAt = 0;
  #price = element("span", "price");
  #name = element("span", "sub");
  #tradeable = element("span");
  #tradeableFill = element("i");
  #break = element("span", "a");
  #bounce = element("span", "b");
  #split = split();
  #strength = element("td", "t-strength num");
  #soon = element("td", "t-soon num");
  #later = element("td", "t-later num");
  #similar = element("td", "t-similar num");

  constructor() {
    const head = element("th", "t-level", this.#price, " ", this.#name);
    head.scope = "row";
    this.tr.append(
      head,
      element("td", "t-tradeable", this.#tradeable, decoration("span", "track", this.#tradeableFill)),
      element("td", "t-odds", element("div", "ends", this.#break, this.#bounce), this.#split.bar),
      this.#strength, this.#soon, this.#later, this.#similar,
    );
  }

  draw({ target, price, name }, now) {
    this.usedAt = now;
    put(this.#price, decimal(price, 2));
    put(this.#name, name);
    const tradeable = number(target.p_tradeable_2), breaks = number(target.p_break), bounces = number(target.p_bounce);
    put(this.#tradeable, percent(tradeable));
    scale(this.#tradeableFill, tradeable);
    const [a, b] = shares(breaks, bounces);
    put(this.#break, a);
    put(this.#bounce, b);
    this.#split.set(breaks, bounces);
    put(this.#strength, number(target.strength_signed) === null ? "–" : signed(number(target.strength_signed), 2));
    const times = object(object(target.time_to_threshold).t1), similar = object(target.retrieval);
    put(this.#soon, percent(number(times["60"])));
    put(this.#later, percent(number(times["120"])));
    put(this.#similar, decimal(number(similar.n_neighbors), 0));
  }
}

/** Draws the targets nearest to the spot, highest price first. `nameOf`: names of levels by their id. */
export function drawPredictions(state, spot, nameOf, now) {
  const targets = objects(object(state.viewport).targets).map((target) => {
    const id = text(target.level_id);
    const distance = number(target.distance), price = number(target.level_price);
    const away = spot !== null && price !== null ? Math.abs(price - spot) : distance === null ? Infinity : Math.abs(distance);
    return { target, id, price, away, name: nameOf.get(id) ?? words(id) };
  });
  const nearest = targets.sort((a, b) => a.away - b.away || 0).slice(0, ROWS_MAX);
  nearest.sort((a, b) => (b.price ?? -Infinity) - (a.price ?? -Infinity) || 0);
  const order = nearest.map((entry, n) => {
    const key = entry.id || `#${n}`;
    if (!rows.has(key) || rows.get(key).usedAt === now) rows.set(key, new Row());
    rows.get(key).draw(entry, now);
    return rows.get(key).tr;
  });
  for (const [key, row] of rows) if (row.usedAt !== now) rows.delete(key);
  if (order.length === 0) {
    put(emptyCell, state.viewport === undefined ? "No viewport in the last message." : "The viewport has no targets.");
    order.push(emptyRow);
  }
  place(body, order);
  put(byId("predictions-about"), targets.length > ROWS_MAX ? `the ${ROWS_MAX} nearest of ${targets.length}` : "");
}
