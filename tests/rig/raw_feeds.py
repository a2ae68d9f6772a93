"""A feed through a program that carries bytes over TLS and knows nothing of WebSockets."""
import subprocess
import time

from clients import TEXT, FrameReader, upgrade_request

COUNT = 5
SECONDS_MAX = 60


def head(port, path):
    """The lines of the request."""
    return upgrade_request(port, path).decode().split("\r\n")[:-2]


def read(command, request=()):
    """The first messages of the feed, out of the program's output; the lines of the request go to its input."""
    program = subprocess.Popen([str(part) for part in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        if request:
            program.stdin.write("\r\n".join([*request, "", ""]).encode())
            program.stdin.flush()
        return messages(program)
    finally:
        program.kill()
        program.communicate()


def messages(program):
    """The messages, once there are enough."""
    end, data, frames, got = time.monotonic() + SECONDS_MAX, b"", FrameReader(), []
    while b"\r\n\r\n" not in data:
        part = program.stdout.read1(65_536)
        assert part and time.monotonic() < end, f"{program.args[0]}: no response: {data[-300:]!r} {program.stderr.read()[-500:]!r}"
        data += part
    start, _, data = data.partition(b"\r\n\r\n")
    assert b"HTTP/1.1 101" in start, start
    while len(got) < COUNT:
        got += [payload for opcode, payload in frames.feed(data) if opcode == TEXT]
        assert time.monotonic() < end, f"{program.args[0]}: {len(got)} messages"
        data = program.stdout.read1(65_536)
        assert data, f"{program.args[0]} ended: {program.stderr.read()[-500:]!r}"
    return got[:COUNT]
