"""The contracts in Python, to compare weirgate with: oracle.py reads questions, writes answers.

A question is a count of parts, then each part with its length before it (32 bits, big-endian); an answer is the
same. The first part names the reader. A reader that compares answers with one part, which is empty where Python
makes the same of the input as weirgate made.
"""
import decimal
import posixpath
import struct
import sys
import urllib.parse

sys.dont_write_bytecode = True
from gateways import broadcasts, channels, channels_requests, events_requests, trades, trades_requests  # noqa: E402
from inflate import deflated, inflated  # noqa: E402
from levels import levels  # noqa: E402
from tokens import tokens  # noqa: E402

sys.setrecursionlimit(20_000)


def thousandths(text, ours):
    """What round(value, 3) is worth, in thousandths; but never nothing for something."""
    wide = decimal.Context(prec=2000)
    rounded = decimal.Decimal(float(text)).quantize(decimal.Decimal("0.001"), decimal.ROUND_HALF_EVEN, wide)
    assert float(rounded) == round(float(text), 3)
    python = int(rounded.scaleb(3, wide)) or int(float(text) > 0)
    return "" if python == int(ours) else f"{text}: {ours}, Python has {python}"


def paths(*readings):
    for reading in readings:
        text = reading.decode("utf-8", "replace")
        try:
            yield urllib.parse.urlsplit(text).path.encode()
        except ValueError:
            # No URL for this reader: nothing is reached.
            yield b"/"
        yield posixpath.normpath(text).encode()


COMPARE = {reader.__name__.encode(): reader for reader in (
    levels, trades, channels, channels_requests, trades_requests, events_requests, broadcasts, tokens, deflated, thousandths)}


def read(count):
    data = sys.stdin.buffer.read(count)
    if len(data) < count:
        sys.exit()
    return data


def number():
    return struct.unpack(">I", read(4))[0]


def main():
    out = sys.stdout.buffer
    while True:
        name, *parts = [read(number()) for _ in range(number())]
        if name == b"paths":
            answer = list(paths(*parts))
        elif name == b"inflated":
            answer = inflated(*parts)
        else:
            answer = [COMPARE[name](*parts).encode("utf-8", "backslashreplace")]
        out.write(struct.pack(">I", len(answer)))
        for one in answer:
            out.write(struct.pack(">I", len(one)) + one)
        out.flush()


main()
