"""Hostile clients, a crowd for each kind of attack. None of them expects anything from the gateway; all end by themselves."""
import asyncio
import contextlib
import json

from raw import BINARY, CLOSE, DEFLATE, PING, PONG, TEXT, Raw, bomb, frame, garbage

KIB = 1024
ATTACKS = []


def attack(crowd):
    """Registers an attack by one connection; `crowd` of them come at once."""
    def register(one):
        ATTACKS.append((one, crowd))
        return one
    return register


async def run(entry, target, rng, seconds=20):
    """A crowd of one kind against a gateway. What the gateway does with its members is not looked at."""
    one, crowd = entry

    async def member():
        await asyncio.sleep(rng.random())
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(seconds):
                await one(target, rng)

    await asyncio.gather(*(member() for _ in range(crowd)))


@contextlib.asynccontextmanager
async def plain(target, **kwargs):
    """A TCP connection, closed or reset at the end."""
    raw = await Raw.open(target.port, **kwargs)
    try:
        yield raw
    finally:
        raw.close(reset=id(raw) % 3 == 0)


@contextlib.asynccontextmanager
async def upgraded(target, **kwargs):
    """A WebSocket, closed or reset at the end without a close frame."""
    raw = await Raw.upgraded(target.port, target.path, **kwargs)
    try:
        yield raw
    finally:
        raw.close(reset=id(raw) % 3 == 0)


@attack(10)
async def says_nothing(target, rng):
    async with plain(target) as raw:
        await raw.drain(rng.uniform(2, 14))


@attack(10)
async def slow_head(target, rng):
    async with plain(target) as raw:
        await raw.send(b"GET %s HTTP/1.1\r\nHost: x\r\n" % target.path.encode())
        for _ in range(30):
            await raw.send(b"X-%d: y\r\n" % rng.randrange(99))
            await asyncio.sleep(0.5)


@attack(10)
async def endless_head(target, rng):
    async with plain(target) as raw:
        await raw.send(b"GET / HTTP/1.1\r\nHost: x\r\n")
        for n in range(100):
            await raw.send(b"X-Header-%d: %s\r\n" % (n, b"y" * 400))
        await raw.drain(3)


@attack(10)
async def no_http(target, rng):
    async with plain(target) as raw:
        await raw.send(rng.choice([garbage(2 * KIB), b"\x16\x03\x01\x02\x00\x01" + garbage(500), b"GET / HTTP/1.1\r\n\r\n",
                                   b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\r\n" * 1000, b"\0" * 5000]))
        await raw.drain(3)


@attack(5)
async def slow_body(target, rng):
    async with plain(target) as raw:
        await raw.send(b"POST /v1/measurement/up HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nx")
        for _ in range(15):
            await asyncio.sleep(1)
            await raw.send(b"x")


@attack(5)
async def pipelined_requests(target, rng):
    async with plain(target) as raw:
        for _ in range(10):
            await raw.send(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\nGET /nothing HTTP/1.1\r\nHost: x\r\n\r\n" * 2)
            await raw.drain(0.5)


@attack(10)
async def bad_frames(target, rng):
    async with upgraded(target) as raw:
        await raw.send(rng.choice([
            frame(TEXT, b"unmasked", masked=False), frame(3, b"?"), frame(TEXT, b"x", reserved=0x20), frame(PING, b"x" * 200),
            frame(PING, b"x", final=False), frame(0, b"nothing before"), frame(TEXT, b"\xff\xfe\xfd"), frame(CLOSE, b"\x03"),
            frame(TEXT, b"not compressed", reserved=0x40), b"\x81\xff\xff\xff\xff\xff\xff\xff\xff\xff" + bytes(4),
            garbage(3 * KIB)]))
        await raw.drain(3)


@attack(3)
async def too_large(target, rng):
    async with upgraded(target) as raw:
        await raw.send(frame(BINARY, bytes(3 * KIB * KIB)))
        await raw.drain(2)


@attack(5)
async def never_ending_fragments(target, rng):
    async with upgraded(target) as raw:
        await raw.send(frame(TEXT, b"[", final=False))
        for _ in range(40):
            await raw.send(frame(0, b" " * KIB, final=False))
            await asyncio.sleep(0.1)


@attack(8)
async def bombs(target, rng):
    async with upgraded(target, extra=(DEFLATE,)) as raw:
        zeros = bomb(bytes(900 * KIB))
        for _ in range(10):
            await raw.send(zeros)
            if not await raw.drain(0.5):
                break


@attack(5)
async def echo_of_bombs(target, rng):
    """A request that comes back as large as it went in, where a gateway does so."""
    async with upgraded(target, extra=(DEFLATE,)) as raw:
        request = bomb(json.dumps({"action": "ping", "event": "nothing", "requestId": "x" * 900 * KIB}).encode())
        for _ in range(10):
            await raw.send(request)
            if not await raw.drain(0.5):
                break


@attack(4)
async def ping_flood(target, rng):
    async with upgraded(target, receive_bytes=4096) as raw:
        pings = frame(PING, b"x" * 100) * 100
        for _ in range(60):
            await raw.send(pings)
            await asyncio.sleep(0.1)


@attack(4)
async def message_flood(target, rng):
    async with upgraded(target) as raw:
        for _ in range(20):
            await raw.send(frame(TEXT, target.ask) * 20)
            if not await raw.drain(0.3):
                break


@attack(4)
async def never_reads(target, rng):
    async with upgraded(target, receive_bytes=4096) as raw:
        await raw.send(frame(TEXT, target.ask))
        await asyncio.sleep(18)


@attack(4)
async def never_reads_for_long(target, rng):
    """Longer than the stall limit; the others of this file leave before."""
    async with upgraded(target, receive_bytes=4096) as raw:
        await raw.send(frame(TEXT, target.ask))
        await asyncio.sleep(45)


@attack(4)
async def reads_slowly(target, rng):
    async with upgraded(target, receive_bytes=4096) as raw:
        await raw.send(frame(TEXT, target.ask))
        await raw.drain(15, step=256, pause=0.2)


@attack(8)
async def half_closes(target, rng):
    async with upgraded(target) as raw:
        await raw.send(frame(TEXT, target.ask) + b"\x81")
        raw.half_close()
        await raw.drain(10)


@attack(5)
async def closes_and_stays(target, rng):
    async with upgraded(target) as raw:
        await raw.send(frame(CLOSE, b"\x03\xe8") + frame(TEXT, b"and more"))
        await asyncio.sleep(8)


@attack(5)
async def wrong_pongs(target, rng):
    async with upgraded(target) as raw:
        await raw.send(frame(PONG, b"nobody asked") * 50 + frame(PING))
        await raw.drain(5)


@attack(10)
async def resets(target, rng):
    for stage in range(5):
        raw = await Raw.open(target.port)
        with contextlib.suppress(OSError):
            if stage:
                await raw.send(b"GET %s HTTP/1.1\r\n" % target.path.encode())
        raw.close(reset=True)
        raw = await Raw.upgraded(target.port, target.path)
        with contextlib.suppress(OSError):
            await raw.send(frame(TEXT, target.ask)[:stage * 3])
        raw.close(reset=True)
        await asyncio.sleep(0.1)
