"""Draws the way of a message from the publisher to the client's program, with the metric of each step: docs/images/way.svg.

    python3 scripts/way_picture.py
"""
import html
import pathlib

PICTURE = pathlib.Path(__file__).parent.parent / "docs/images/way.svg"
TITLE = "The way of a message from the publisher to the client's program, and the metric of each step"
STAGE = "weirgate_stage_duration_seconds"
# A place on the way, and who it belongs to.
PLACES = [
    ("Publisher", None),
    ("The bus has stored it", None),
    ("weirgate's bus socket", "recv_us with --stamp"),
    ("Feed: parsed, encoded", None),
    ("In every send queue", None),
    ("Written to the first client", None),
    ("Written to the last client", None),
    ("The client's program", None),
]
# From place to place: the metric, and a stage or the labels of the metric.
STEPS = [
    (0, 1, "no metric of weirgate: the acknowledgement of the bus", ""),
    (1, 2, f'{STAGE}{{stage="bus"}}', "JetStream and Redis streams; weirgate_consumer_lag_messages beside it"),
    (2, 3, 'stage="bus_to_feed", then stage="feed"', "weirgate_loop_turn_duration_seconds, weirgate_late_seconds_total"),
    (3, 4, 'stage="queue"', ""),
    (4, 5, 'stage="first_write": counts from the bus socket', "weirgate_behind"),
    (5, 6, 'stage="last_write": counts from the bus socket', "weirgate_slow_clients{why} for clients that take no bytes"),
    (6, 7, "weirgate_pong_seconds: ping to pong, both ways", "one way: the client's clock less recv_us"),
]
WIDTH, TOP, ROW, BOX = 600, 12, 64, 30
STYLE = ("text{font:13px sans-serif;fill:#24292f}.small{font-size:11px}.box{fill:#f3f5f8;stroke:#8a8f98}.own{fill:#dde9fc;stroke:#2f6fde}"
         ".way{stroke:#8a8f98;stroke-width:2;fill:none}@media(prefers-color-scheme:dark){text{fill:#d7dbe0}.box{fill:#22262d}.own{fill:#1c2f52}}")


def text(x, y, words, small=False):
    kind = ' class="small"' if small else ""
    return f'<text x="{x}" y="{y}"{kind}>{html.escape(words)}</text>'


def picture():
    height = TOP * 2 + ROW * (len(PLACES) - 1) + BOX
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" role="img">',
             f"<title>{html.escape(TITLE)}</title>", f"<style>{STYLE}</style>"]
    for n, (name, note) in enumerate(PLACES):
        y = TOP + n * ROW
        own = "own" if 2 <= n <= 6 else "box"
        parts.append(f'<rect class="{own}" x="8" y="{y}" width="220" height="{BOX}" rx="5"/>')
        parts.append(text(20, y + 20, name))
        if note:
            parts.append(text(240, y + 20, note))
    for start, end, metric, beside in STEPS:
        y = TOP + start * ROW + BOX
        parts.append(f'<path class="way" d="M118 {y}V{TOP + end * ROW}m-5 -7l5 7l5 -7"/>')
        middle = y + (ROW - BOX) / 2 + (5 if not beside else -1)
        parts.append(text(140, middle, metric))
        if beside:
            parts.append(text(140, middle + 14, beside, small=True))
    return "\n".join([*parts, "</svg>"]) + "\n"


if __name__ == "__main__":
    PICTURE.write_text(picture())
