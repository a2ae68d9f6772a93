"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
const isLimit = (s) => s.role !== "server";

// The shown case and measure.
const sizes = [...new Set(data.cases.map((c) => c.bytes))], counts = [...new Set(data.cases.map((c) => c.clients))];
const state = {
  bytes: sizes.at(-1), clients: counts.includes(1000) ? 1000 : counts.at(-1), measure: 1,
  reference: data.base ?? data.first, hidden: new Set(),
};
let number = 0;
const colours = Object.fromEntries(data.contestants.map((c) => [
  c.name,
  c.role === "server" ? `var(--c${number++ % 8})` : { limit: "var(--limit)", raw_limit: "var(--limit)", coalescing_limit: "var(--limit2)", floor: "var(--limit2)" }[c.role] ?? "var(--limit3)",
]));
const inCase = (bytes, clients) => data.cases.find((c) => c.bytes === bytes && c.clients === clients);
const shown = () => inCase(state.bytes, state.clients).servers.filter((s) => !state.hidden.has(s.name));

// Figures.
const grouped = (n) => Math.round(n).toLocaleString("en-US");
const short = (v) => (v === null || v === undefined ? "–" : v >= 100 ? grouped(v) : v >= 10 ? v.toFixed(1) : v.toFixed(2));
const median = (spread) => spread?.median ?? null;
const interval = (s) => (s ? `${short(s.median)} [${short(s.low)}–${short(s.high)}]` : "–");
const size = (bytes) => (bytes >= 1024 && bytes % 1024 === 0 ? `${grouped(bytes / 1024)} KB` : `${grouped(bytes)} B`);

// Elements.
function make(space, name, attributes, children) {
  const made = space ? document.createElementNS(space, name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (key === "style" && typeof value === "object") for (const [k, v] of Object.entries(value)) made.style.setProperty(k, v);
    else made.setAttribute(key, value);
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}
const html = (name, attributes = {}, ...children) => make(null, name, attributes, children);
const svg = (name, attributes = {}, ...children) => make(SVG, name, attributes, children);
const line = (x1, y1, x2, y2, more = {}) => svg("line", { x1, y1, x2, y2, ...more });
const text = (x, y, words, more = {}) => svg("text", { x, y, ...more }, words);

// Scales: from values to places.
function scale(low, high, from, to, log = false) {
  const f = log ? Math.log : (v) => v;
  const at = (v) => from + ((f(v) - f(low)) / (f(high) - f(low) || 1)) * (to - from);
  return Object.assign(at, { low, high, ticks: log ? logTicks(low, high) : linearTicks(low, high) });
}
function linearTicks(low, high, about = 5) {
  const rough = (high - low) / about, power = 10 ** Math.floor(Math.log10(rough || 1));
  const step = [1, 2, 2.5, 5, 10].map((m) => m * power).find((s) => s >= rough);
  const ticks = [];
  for (let tick = Math.ceil(low / step) * step; tick <= high + step / 1e6; tick += step) ticks.push(+tick.toPrecision(12));
  return ticks;
}
function logTicks(low, high) {
  const all = (steps) => {
    const ticks = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++)
      for (const step of steps) ticks.push(+(step * 10 ** power).toPrecision(6));
    return ticks.filter((tick) => tick >= low * 0.999 && tick <= high * 1.001);
  };
  const few = all([1, 2, 5]);
  if (few.length > 8) return all([1]);
  return few.length >= 3 ? few : all([1, 1.1, 1.2, 1.3, 1.4, 1.5, 1.75, 2, 2.5, 3, 4, 5, 6, 7, 8, 9]).concat(few).filter((t, i, a) => a.indexOf(t) === i);
}
// Leaves out labels that would overlap, except for `keep`.
function apart(ticks, at, room, keep) {
  const kept = ticks.includes(keep) ? [keep] : [];
  for (const tick of ticks) if (kept.every((other) => Math.abs(at(tick) - at(other)) >= room)) kept.push(tick);
  return kept;
}
const number1 = (v) => (v >= 1000 ? grouped(v) : String(+v.toPrecision(3)));

// A plot with both axes; `draw` gets the scales.
function frame(section, { height = 260, x, y, xLabel, yLabel, xTicks, left = 46 }, draw) {
  const figure = document.querySelector(`#${section} figure`);
  const width = figure.clientWidth || 560, right = width - 14, bottom = height - 36, top = 12;
  const xs = x(left, right), ys = y(bottom, top);
  const out = svg("svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img", "aria-label": document.querySelector(`#${section} h2`).textContent });
  for (const tick of ys.ticks) {
    out.append(line(left, ys(tick), right, ys(tick), { class: "grid" }));
    out.append(text(left - 7, ys(tick) + 4, number1(tick), { "text-anchor": "end" }));
  }
  for (const [tick, words] of xTicks?.(xs) ?? xs.ticks.map((t) => [t, number1(t)])) {
    out.append(line(xs(tick), top, xs(tick), bottom, { class: "grid" }));
    out.append(text(xs(tick), bottom + 16, words, { "text-anchor": xs(tick) > right - 14 ? "end" : "middle" }));
  }
  out.append(line(left, bottom, right, bottom, { class: "axis" }));
  out.append(text(right, bottom + 32, xLabel, { "text-anchor": "end" }), text(left, top - 3, yLabel));
  draw(out, xs, ys, { left, right, top, bottom });
  figure.replaceChildren(out);
}

// Lines with a tip that follows the pointer: series are `{name, points: [[x, y, stands]]}`.
function lines(out, xs, ys, box, series, words) {
  const path = (points) => points.map(([x, y], i) => `${i ? "L" : "M"}${xs(x).toFixed(1)} ${ys(y).toFixed(1)}`).join("");
  for (const { name, points } of series) {
    const style = { stroke: colours[name], fill: "none" }, common = { "stroke-width": 2, "stroke-linejoin": "round" };
    let run = [];
    const end = (stands) => {
      if (run.length > 1) out.append(svg("path", { d: path(run), style, ...common, ...(stands ? {} : { "stroke-dasharray": "1 4", "stroke-linecap": "round" }) }));
    };
    points.forEach((point, i) => {
      const stands = point[2] !== false;
      if (i && stands !== (points[i - 1][2] !== false)) {
        end(!stands);
        run = run.slice(-1);
      }
      run.push(point);
    });
    if (points.length) end(points.at(-1)[2] !== false);
  }
  const guide = line(0, box.top, 0, box.bottom, { class: "guide", visibility: "hidden" });
  const catcher = svg("rect", {
    x: box.left, y: box.top, width: box.right - box.left, height: box.bottom - box.top, fill: "transparent",
    onpointermove: (event) => {
      const area = catcher.getBoundingClientRect();
      const at = box.left + ((event.clientX - area.left) / area.width) * (box.right - box.left);
      const nearest = (points) => points.reduce((a, b) => (Math.abs(xs(b[0]) - at) < Math.abs(xs(a[0]) - at) ? b : a));
      const filled = series.filter((s) => s.points.length);
      if (!filled.length) return;
      const x = filled.map((s) => nearest(s.points)).reduce((a, b) => (Math.abs(xs(b[0]) - at) < Math.abs(xs(a[0]) - at) ? b : a))[0];
      guide.setAttribute("x1", xs(x));
      guide.setAttribute("x2", xs(x));
      guide.setAttribute("visibility", "visible");
      const values = filled.map((s) => [s.name, s.points.find((p) => p[0] === x)]).filter(([, p]) => p);
      values.sort((a, b) => b[1][1] - a[1][1]);
      tip(event, words.x(x), values.map(([name, p]) => [colours[name], name, words.y(p[1]) + (p[2] === false ? " refused" : "")]));
    },
    onpointerleave: () => {
      guide.setAttribute("visibility", "hidden");
      tip(null);
    },
  });
  out.append(guide, catcher);
}
function tip(event, heading, rows) {
  const box = $("tip");
  box.hidden = !event;
  if (!event) return;
  const row = ([colour, name, value]) => html("div", {}, html("i", { style: { "--color": colour } }), html("span", {}, name), html("span", {}, value));
  box.replaceChildren(html("b", {}, heading), ...rows.map(row));
  const { width, height } = box.getBoundingClientRect();
  const left = event.clientX + 16 + width > innerWidth ? event.clientX - width - 12 : event.clientX + 16;
  box.style.left = `${Math.max(4, left)}px`;
  box.style.top = `${Math.max(4, Math.min(event.clientY - height / 2, innerHeight - height - 4))}px`;
}
const hover = (heading, rows) => ({ onpointermove: (event) => tip(event, heading, rows), onpointerleave: () => tip(null) });

// The plots.
function ratioPlot() {
  const servers = shown(), all = inCase(state.bytes, state.clients).servers;
  const reference = all.find((s) => s.name === state.reference);
  const figure = document.querySelector("#ratio figure");
  $("ratio").hidden = !reference;
  if (!reference) return;
  const rows = servers.filter((s) => s !== reference).map((s) => ({
    server: s,
    spread: s.against.find((a) => a.name === reference.name)?.cpu,
    rounds: s.rounds.map((r, i) => [r.cpu_us_per_delivery / reference.rounds[i]?.cpu_us_per_delivery, r.disturbed || reference.rounds[i]?.disturbed]).filter(([v]) => isFinite(v)),
  })).filter((row) => row.spread || row.rounds.length);
  const own = (s) => s.rounds.map((r, i) => r.cpu_us_per_delivery / reference.rounds[i]?.cpu_us_per_delivery).filter(isFinite);
  rows.forEach((row) => (row.spread ??= spreadOf(own(row.server))));
  const width = figure.clientWidth || 1100, narrow = width < 560, left = narrow ? 104 : 160, right = width - (narrow ? 96 : 150), step = 34;
  const height = rows.length * step + 40, bottom = height - 28;
  const values = rows.flatMap((r) => [r.spread.low, r.spread.high, ...r.rounds.map(([v]) => v)]);
  const low = Math.min(0.95, ...values) * 0.98, high = Math.max(1.05, ...values) * 1.02;
  const xs = scale(low, high, left, right, true);
  const out = svg("svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img", "aria-label": "CPU ratios" });
  for (const tick of xs.ticks) {
    out.append(line(xs(tick), 4, xs(tick), bottom, { class: "grid" }));
  }
  for (const tick of apart(xs.ticks, xs, 30, 1)) out.append(text(xs(tick), bottom + 17, number1(tick), { "text-anchor": "middle" }));
  out.append(line(xs(1), 4, xs(1), bottom, { class: "one" }));
  rows.forEach(({ server, spread, rounds }, i) => {
    const y = 4 + step * (i + 0.5), colour = colours[server.name];
    out.append(text(left - 12, y + 4, server.name, { class: "name", "text-anchor": "end" }));
    for (const [v, disturbed] of rounds)
      out.append(svg("circle", { cx: xs(v), cy: y, r: 2.5, style: disturbed ? { fill: "none", stroke: colour, opacity: 0.5 } : { fill: colour, opacity: 0.35 } }));
    out.append(line(xs(spread.low), y, xs(spread.high), y, { style: { stroke: colour }, "stroke-width": 5, "stroke-linecap": "round", opacity: 0.55 }));
    out.append(svg("circle", { cx: xs(spread.median), cy: y, r: 6, style: { fill: colour, stroke: "var(--card)" }, "stroke-width": 2 }));
    out.append(text(width - 2, y + 4, narrow ? short(spread.median) : interval(spread), { class: "value", "text-anchor": "end" }));
    out.append(svg("rect", { x: 0, y: y - step / 2, width, height: step, fill: "transparent", ...hover(`${server.name} / ${reference.name}`, [[colour, "median", short(spread.median)], [colour, "95 % interval", `${short(spread.low)}–${short(spread.high)}`], [colour, "rounds", `${short(spread.min)}–${short(spread.max)}`]]) }));
  });
  figure.replaceChildren(out);
}
// For a limit against a server: the JSON has no such figure.
function spreadOf(values) {
  const v = [...values].sort((a, b) => a - b), n = v.length;
  return { n, median: (v[(n - 1) >> 1] + v[n >> 1]) / 2, low: v[0], high: v.at(-1), min: v[0], max: v.at(-1) };
}
function percentilePlot() {
  const nines = (share) => -Math.log10(1 - share);
  const series = shown().map((s) => ({ name: s.name, points: s.curve.filter((p) => p.ms > 0).map((p) => [nines(p.share), p.ms, p.stands]) }));
  const all = series.flatMap((s) => s.points);
  const ms = all.map((p) => p[1]);
  const end = Math.max(2, ...all.map((p) => p[0]));
  const marks = [[0, "0"], [nines(0.5), "50 %"], [1, "90 %"], [2, "99 %"], [3, "99.9 %"], [4, "99.99 %"]];
  frame("percentiles", {
    x: (from, to) => scale(0, end, from, to),
    y: (from, to) => scale(Math.min(...ms, 1) * 0.9, Math.max(...ms, 2) * 1.1, from, to, true),
    xTicks: () => marks.filter(([at]) => at <= end), xLabel: "share of deliveries", yLabel: "ms",
  }, (out, xs, ys, box) => lines(out, xs, ys, box, series, {
    x: (at) => `${+((1 - 10 ** -at) * 100).toFixed(at >= 3 ? 3 : at >= 2 ? 2 : 1)} % of deliveries within`, y: (v) => `${short(v)} ms`,
  }));
}
function timePlot() {
  const at = (i) => (data.rate ? i / data.rate : i);
  const series = shown().map((s) => ({ name: s.name, points: s.over_time_ms.map((m, i) => [at(i), m[state.measure]]).filter((p) => p[1] > 0) }));
  const all = series.flatMap((s) => s.points), ms = all.map((p) => p[1]);
  const high = Math.max(...ms, 0.1), low = Math.min(...ms, high);
  frame("time", {
    x: (from, to) => scale(0, Math.max(...all.map((p) => p[0]), 1e-9), from, to),
    // A server that falls behind would flatten the others.
    y: (from, to) => (high > low * 50 ? scale(low * 0.9, high * 1.1, from, to, true) : scale(0, high * 1.08, from, to)),
    xLabel: data.rate ? "seconds since the first message" : "message", yLabel: "ms",
  }, (out, xs, ys, box) => lines(out, xs, ys, box, series, { x: (x) => (data.rate ? `${x.toFixed(2)} s` : `message ${x + 1}`), y: (v) => `${short(v)} ms` }));
}
function clientsPlot() {
  $("clients").hidden = counts.length < 2;
  // Without a neighbour, the other plot would be alone in the row.
  $("bytes").classList.toggle("wide", counts.length > 1);
  if (counts.length < 2) return;
  const named = shown().map((s) => s.name);
  const of = (name, clients) => inCase(state.bytes, clients).servers.find((s) => s.name === name).cpu_us_per_delivery;
  const series = named.map((name) => ({ name, points: counts.map((c) => [c, of(name, c)]).filter((p) => p[1]).sort((a, b) => a[0] - b[0]) }));
  const most = Math.max(...series.flatMap((s) => s.points.map((p) => p[1].high)), 1);
  frame("clients", {
    x: (from, to) => scale(Math.min(...counts), Math.max(...counts), from + 12, to - 12, true),
    y: (from, to) => scale(0, most * 1.05, from, to),
    xTicks: () => counts.map((c) => [c, grouped(c)]), xLabel: "clients", yLabel: "µs per delivery",
  }, (out, xs, ys, box) => {
    series.forEach(({ name, points }, i) => {
      const style = { stroke: colours[name] }, aside = (i - (series.length - 1) / 2) * 3;
      for (const [c, s] of points) {
        out.append(line(xs(c) + aside, ys(s.low), xs(c) + aside, ys(s.high), { style, "stroke-width": 3, opacity: 0.4, "stroke-linecap": "round" }));
        out.append(svg("circle", { cx: xs(c), cy: ys(s.median), r: 4, style: { fill: colours[name] } }));
      }
    });
    lines(out, xs, ys, box, series.map((s) => ({ name: s.name, points: s.points.map(([c, p]) => [c, p.median]) })), { x: (c) => `${grouped(c)} clients`, y: (v) => `${short(v)} µs` });
  });
}
const PARTS = [
  ["server", "cpu_us_per_delivery", 1], ["ksoftirqd", "ksoftirqd_us_per_delivery", 0.7],
  ["NATS", "nats_us_per_delivery", 0.45], ["clients and publisher", "loadtest_us_per_delivery", 0.22],
];
function bars(section, rows, unit, step, parts) {
  const figure = document.querySelector(`#${section} figure`);
  const width = figure.clientWidth || 560, narrow = width < 480, left = narrow ? 100 : 132, right = width - 78, height = rows.length * step + 8 + (parts ? 26 : 0);
  const xs = scale(0, Math.max(...rows.map((r) => r.total), 1e-9), left, right);
  const out = svg("svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img", "aria-label": document.querySelector(`#${section} h2`).textContent });
  rows.forEach(({ name, total, values }, i) => {
    const y = 4 + step * i;
    let x = left;
    out.append(text(left - 12, y + step / 2 + 4, name, { class: "name", "text-anchor": "end" }));
    values.forEach(([, value, opacity]) => {
      const w = xs(value) - left;
      if (w > 0) out.append(svg("rect", { x, y: y + 5, width: Math.max(w - 1, 0.5), height: step - 10, rx: 2, style: { fill: colours[name], opacity } }));
      x += w;
    });
    out.append(text(x + 8, y + step / 2 + 4, `${short(total)} ${unit}`, { class: "value" }));
    out.append(svg("rect", { x: 0, y, width, height: step, fill: "transparent", ...hover(name, values.map(([what, v]) => [colours[name], what, `${short(v)} ${unit}`])) }));
  });
  let x = narrow ? 0 : left;
  for (const [what, , opacity] of parts ?? []) {
    out.append(svg("rect", { x, y: height - 18, width: 11, height: 11, rx: 2, style: { fill: "var(--soft)", opacity } }), text(x + 16, height - 8, what));
    x += 26 + what.length * 6.4;
  }
  figure.replaceChildren(out);
}
function machinePlot() {
  const rows = shown().map((s) => {
    const values = PARTS.map(([what, key, opacity]) => [what, median(s[key]) ?? 0, opacity]);
    return { name: s.name, values, total: values.reduce((sum, v) => sum + v[1], 0) };
  });
  bars("machine", rows, "µs", 32, PARTS);
}
function bytesPlot() {
  const rows = shown().map((s) => ({ name: s.name, total: median(s.bytes_per_delivery) ?? 0, values: [["bytes", median(s.bytes_per_delivery) ?? 0, 0.85]] }));
  bars("bytes", rows, "B", 24);
}
function table() {
  const servers = inCase(state.bytes, state.clients).servers;
  const cells = ["server µs", data.base && `of ${data.base}`, data.first && `of ${data.first}`, "machine µs", "p50 ms", "p99 ms", "p99.9 ms", data.base && "p99 ratio", "deliveries/s", "handshake µs", "calls", "lost", "refused p99", "disturbed"];
  const ratio = (s, name, key) => (s.name === name ? "1" : interval(s.against.find((a) => a.name === name)?.[key]));
  const row = (s) => [
    interval(s.cpu_us_per_delivery), data.base && ratio(s, data.base, "cpu"), data.first && ratio(s, data.first, "cpu"),
    short(median(s.machine_us_per_delivery)), short(median(s.p50_ms)), short(median(s.p99_ms)), short(median(s.p999_ms)), data.base && ratio(s, data.base, "p99"),
    grouped(median(s.deliveries_per_s) ?? 0), interval(s.cpu_us_per_handshake), s.syscalls_per_delivery === null ? "–" : s.syscalls_per_delivery.toFixed(3), grouped(s.lost),
    `${s.refused.p99} of ${s.rounds.length}`, `${s.disturbed} of ${s.rounds.length}`,
  ];
  const head = html("thead", {}, html("tr", {}, html("th", {}, ""), ...cells.filter(Boolean).map((c) => html("th", { scope: "col" }, c))));
  const body = servers.map((s) => html("tr", {}, html("th", { scope: "row" }, html("i", { style: { "--color": colours[s.name] } }), s.name), ...row(s).filter((c) => c !== null).map((c) => html("td", {}, c))));
  document.querySelector("#figures table").replaceChildren(head, html("tbody", {}, ...body));
}

// Texts and choices.
function choice(label, values, words, key) {
  const buttons = values.map((value) => html("button", { type: "button", "aria-pressed": state[key] === value, onclick: () => { state[key] = value; draw(); } }, words(value)));
  return html("span", { class: "choice" }, ...(label ? [html("span", {}, label)] : []), ...buttons);
}
function controls() {
  const choices = [];
  if (counts.length > 1) choices.push(choice("Clients", counts, grouped, "clients"));
  if (sizes.length > 1) choices.push(choice("Payload", sizes, size, "bytes"));
  $("cases").replaceChildren(...choices);
  const references = data.contestants.filter((c) => c.role === "limit" || c.role === "coalescing_limit" || c.name === data.first).map((c) => c.name);
  $("references").replaceChildren(references.length > 1 ? choice("to", references, String, "reference") : html("span", { class: "choice" }, `to ${references[0] ?? ""}`));
  $("measures").replaceChildren(choice("", [0, 1, 2], (i) => ["p50", "p99", "the last client"][i], "measure"));
  $("legend").replaceChildren(...data.contestants.map(({ name }) => html("button", {
    type: "button", "aria-pressed": !state.hidden.has(name),
    onclick: () => { state.hidden.has(name) ? state.hidden.delete(name) : state.hidden.add(name); draw(); },
  }, html("i", { style: { "--color": colours[name] } }), name)));
}
function words() {
  const servers = data.contestants.filter((c) => !isLimit(c)).map((c) => c.name);
  const named = servers.length > 3 ? `${servers[0]} and ${servers.length - 1} other servers` : servers.join(", ");
  const limit = data.contestants.some((c) => isLimit(c) && c.tls) ? "raw TLS limit" : "raw limit";
  const title = servers.length ? `${named} beside the ${limit}` : `The ${limit} beside itself`;
  $("title").textContent = data.base ? title : servers.join(" beside ");
  document.title = $("title").textContent;
  const pace = data.in_flight ? `${data.in_flight} messages in flight` : `${data.rate} messages a second`;
  $("load").textContent = [
    `${counts.map(grouped).join(", ")} clients`, sizes.map(size).join(", "), pace, `${data.rounds} rounds of ${data.messages_per_round} messages`,
    data.deflate && "deflate", data.pinned && "pinned", `${data.machine.cpus} CPUs ${data.machine.cpu_model}`, `Linux ${data.machine.kernel}`,
  ].filter(Boolean).join(" · ");
  const all = data.cases.flatMap((c) => c.servers), parts = all.reduce((n, s) => n + s.rounds.length, 0);
  const sum = (of) => all.reduce((n, s) => n + of(s), 0);
  const warnings = [
    [sum((s) => s.lost + s.not_rising + s.closed), (n) => `${grouped(n)} messages lost or out of order, or clients closed.`],
    [sum((s) => s.disturbed), (n) => `The host or other programs disturbed ${n} of ${parts} parts: CPU ratios tolerate this, latencies do not.`],
    [sum((s) => s.refused.p99), (n) => `The p99 of ${n} of ${parts} parts is refused: loadtest itself was late.`],
  ];
  $("warnings").replaceChildren(...warnings.filter(([n]) => n).map(([n, say]) => html("p", {}, say(n))));
  const commands = data.contestants.filter((c) => c.command).map((c) => html("div", {}, `${c.name}: `, html("code", {}, c.command)));
  $("about").replaceChildren(html("div", {}, `Made by loadtest ${data.version} from result.json, which has every sample.`), ...commands);
}
function draw() {
  controls();
  for (const plot of [ratioPlot, percentilePlot, timePlot, clientsPlot, machinePlot, bytesPlot, table]) plot();
}
words();
draw();
let width = innerWidth;
addEventListener("resize", () => {
  if (innerWidth !== width) draw();
  width = innerWidth;
});
