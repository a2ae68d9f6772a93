"""Draws what one message costs with one client, out of target/pace: docs/images/pace.svg. `make pace` first.

Each line is a gateway at a rate; the dots are medians: the raw limit (one thread), the floor (a bus thread, a channel and a
loop, nothing else) and weirgate, all on the same bus.
"""

import json
import pathlib

ROOT = pathlib.Path(__file__).resolve().parent.parent
PACE = ROOT / "target/pace"
PICTURE = ROOT / "docs/images/pace.svg"
ROWS = [
    (f"{gateway}, {rate:,}/s", PACE / f"{name}-{rate}" / "result.json")
    for gateway, name in [
        ("levels on JetStream", "levels"),
        ("channels on NATS", "channels-nats"),
        ("channels on Redis", "channels-redis"),
        ("trades on Redis", "trades-redis"),
    ]
    for rate in (500, 5000)
]
SERVERS = [("raw limit", "#8a8f98"), ("floor", "#d08a00"), ("weirgate", "#2f6fde")]
PANELS = [("CPU for a message, µs", lambda s: s["cpu_us_per_message"]["median"]), ("p50, publisher to client, µs", lambda s: 1e3 * s["p50_ms"]["median"])]
LABELS, PANEL, LINE, TOP, GAP = 200, 270, 26, 62, 40


def text(x, y, words, more=""):
    """Words at a place."""
    return f'<text x="{x:.0f}" y="{y:.0f}" {more}>{words}</text>'


def values(path, of):
    """The median of each server with one client, in the order of SERVERS."""
    one = next(case for case in json.loads(path.read_text())["cases"] if case["clients"] == 1)
    servers = {server["name"]: server for server in one["servers"]}
    return [of(servers[name]) for name, _ in SERVERS]


def panel(left, title, of):
    """The dots of all rows, on an axis from 0."""
    rows = [values(path, of) for _, path in ROWS]
    step = next(step for step in (10, 20, 50, 100) if max(map(max, rows)) <= 5 * step)
    x = lambda value: left + PANEL * value / (5 * step)
    bottom = TOP + LINE * len(rows)
    parts = [text(left, TOP - 26, title, 'class="title"')]
    for tick in range(6):
        at = x(tick * step)
        parts.append(f'<line class="grid" x1="{at:.0f}" y1="{TOP - 8}" x2="{at:.0f}" y2="{bottom - 8}"/>')
        parts.append(text(at, bottom + 10, tick * step, 'class="tick"'))
    for index, row in enumerate(rows):
        y = TOP + LINE * index + 4
        parts.append(f'<line class="span" x1="{x(min(row)):.1f}" y1="{y}" x2="{x(max(row)):.1f}" y2="{y}"/>')
        parts += [f'<circle cx="{x(value):.1f}" cy="{y}" r="5" fill="{colour}"><title>{value:.0f}</title></circle>' for value, (_, colour) in zip(row, SERVERS)]
    return parts


def picture():
    """The whole picture, readable on a light and on a dark page."""
    height, width = TOP + LINE * len(ROWS) + 24, LABELS + len(PANELS) * (PANEL + GAP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img">',
        "<title>One message of 300 bytes to one client: CPU and latency of the raw limit, the floor and weirgate</title>",
        "<style>text{font:13px sans-serif;fill:#24292f}.tick{text-anchor:middle;font-size:11px}.title{font-weight:600}"
        ".grid{stroke:#8a8f98;stroke-opacity:.3}.span{stroke:#8a8f98;stroke-width:2}"
        "@media(prefers-color-scheme:dark){text{fill:#e6edf3}}</style>",
    ]
    for index, (name, colour) in enumerate(SERVERS):
        parts.append(f'<circle cx="{LABELS + 8 + 110 * index}" cy="14" r="5" fill="{colour}"/>')
        parts.append(text(LABELS + 18 + 110 * index, 18, name))
    parts += [text(0, TOP + LINE * index + 8, label) for index, (label, _) in enumerate(ROWS)]
    for index, (title, of) in enumerate(PANELS):
        parts += panel(LABELS + index * (PANEL + GAP), title, of)
    return "\n".join([*parts, "</svg>", ""])


if __name__ == "__main__":
    PICTURE.write_text(picture())
    print(PICTURE.relative_to(ROOT))
