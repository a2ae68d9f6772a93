"""The examples of docs/reference/publish-levels.md, each published to a real NATS in front of the program."""
import dataclasses
import json
import re

import pytest
from bus import publisher
from clients import connect
from processes import ROOT
from waiting import until

PAGE = ROOT / "docs" / "reference" / "publish-levels.md"
EXAMPLE = re.compile(
    r"^Published on `(?P<subject>[a-z.]+)`:\n\n```json\n(?P<published>.*?)```\n\n"
    r"Clients get(?P<how>:|, among other keys:| nothing, and the log says `+ ?(?P<log>[^\n]+?)`+\.)\n"
    r"(?:\n```json\n(?P<received>.*?)```\n)?", re.M | re.S)


@dataclasses.dataclass
class Example:
    subject: str
    published: str
    # Whether clients get exactly `received`, or more keys too.
    is_whole: bool
    # None where the message is bad.
    received: object
    log: str | None


def examples(text):
    return [Example(found["subject"], found["published"], found["how"] == ":",
                    json.loads(found["received"]) if found["received"] else None, found["log"])
            for found in EXAMPLE.finditer(text)]


EXAMPLES = examples(PAGE.read_text())


def missing(want, got, path="$"):
    """Yields where `got` has not what `want` says; objects of `got` may have further keys."""
    if isinstance(want, dict) and isinstance(got, dict):
        for key, inner in want.items():
            if key in got:
                yield from missing(inner, got[key], f"{path}.{key}")
            else:
                yield f"{path}.{key} is missing"
    elif isinstance(want, list) and isinstance(got, list) and len(want) == len(got):
        for at, (inner, other) in enumerate(zip(want, got)):
            yield from missing(inner, other, f"{path}[{at}]")
    elif type(want) is not type(got) or want != got:
        yield f"{path}: the page says {want}, clients get {got}"


def keys_in_order(value):
    """A value with objects as lists of pairs: equal only if the keys have the same order."""
    if isinstance(value, dict):
        return [(key, keys_in_order(inner)) for key, inner in value.items()]
    return [keys_in_order(inner) for inner in value] if isinstance(value, list) else value


def test_every_example_of_the_page_is_found():
    text = PAGE.read_text()
    assert len(EXAMPLES) == text.count("Published on `") >= 8
    assert text.count("```json") == sum(2 if example.log is None else 1 for example in EXAMPLES)
    assert {example.subject for example in EXAMPLES} == {"levels.signals", "market.flow"}
    assert [example for example in EXAMPLES if example.log] and [example for example in EXAMPLES if not example.is_whole]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.published.split("\n")[0][:40])
async def test_an_example(nats, start_weirgate, example):
    weirgate = start_weirgate(nats=nats).wait_ready()
    async with publisher(nats) as bus:
        client = await connect(weirgate.port)
        await bus.streams.publish(example.subject, example.published.encode())
        if example.log:
            await until(lambda: "bad message" in weirgate.log(), 10, "a line about the message")
            [line] = [line for line in weirgate.log().splitlines() if "bad message" in line]
            assert example.log in line and example.subject in line, line
            # What comes next shows that the bad message made nothing.
            await bus.streams.publish("market.flow", b'"next"')
            await client.wait_for(lambda c: c.messages > 0, 10, "the next message")
            assert client.messages == 1 and client.state() == {"flow": "next"}
            return
        await client.wait_for(lambda c: c.messages > 0, 10, "the state")
        state = client.state()
        assert list(missing(example.received, state)) == []
        if example.is_whole:
            assert keys_in_order(state) == keys_in_order(example.received), "other keys, or another order"


@pytest.mark.parametrize("wrong", [
    {"levels": {"levels": [{"id": "A", "level_price": 1.0}]}}, {"levels": {"levels": []}}, {"flow": 1},
    {"levels": {"ts": 1.0, "levels": [{"id": "A"}]}},
])
def test_a_wrong_example_is_noticed(wrong):
    assert list(missing(wrong, {"levels": {"ts": 1, "levels": [{"id": "A", "level_price": 0.0, "more": 1}]}}))
