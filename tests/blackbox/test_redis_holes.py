"""What the replaced gateways on Redis let happen, and no longer can. Each row of both contracts, and the test that fails where it can.

trades
| a Host or target that makes no URL ends the process | `test_what_makes_no_url_hurts_nobody_else`, vector bad_host_header |
| Redis away for ten seconds at the start: deaf for good | `test_redis_away_for_long_at_the_start` |
| a client that does not read grows memory without bound | `test_who_does_not_read_costs_the_others_nothing` |
| leaving is a scan over all clients | benches/topics.rs |

channels
| any token admits | vectors auth_bogus, auth_key; tests/channels_gateway/admission.rs |
| patterns as regular expressions, a bypass | vector acl_user; src/wire/auth/glob/tests.rs against Redis itself |
| patterns as regular expressions, a stop | `test_patterns_made_to_take_for_ever`, src/wire/auth/glob/tests.rs |
| a client that leaves while it is answered hangs the process | `test_leaving_while_being_answered` |
| one publication that is no UTF-8 deafens everyone | `test_what_is_no_utf8_deafens_nobody`, vector payloads |
| one client that does not read stops everyone | `test_who_does_not_read_costs_the_others_nothing` |
| exact and pattern subscribers double each other's messages | vectors overlap_one_client, overlap_two_clients |
| a request that fails half-way leaves half of it | vector bad_requests; tests/channels_gateway/requests.rs |
| subscriptions made while Redis is away stay dead | `test_redis_away_for_long_at_the_start`, vector redis_lost |
"""
import asyncio
import pathlib
import socket

import clients
import pytest
from prometheus import scrape
from redis_gateways import BOTH, CHANNELS, TRADES, publish, subscriber
from waiting import until

MIB = 1 << 20
both = pytest.mark.parametrize("kind", BOTH, ids=lambda kind: kind.name)


async def answering(weirgate):
    await until(lambda: weirgate.get("/health")[0] == 200, 20, "an answer of /health")
    return weirgate


async def test_what_makes_no_url_hurts_nobody_else(redis_server, start_weirgate):
    weirgate = start_weirgate("trades", redis=redis_server).wait_ready()
    client = await subscriber(TRADES, weirgate, ["A"])
    for target, host in [("/", "a b"), ("/", "["), ("/", ""), ("//", "h"), ("http://[", "h"), ("/%zz", "h"), ("*", "h"), ("//[::", "h")]:
        request = clients.upgrade_request(weirgate.port).replace(b"/ws/stream", target.encode(), 1)
        request = request.replace(f"Host: 127.0.0.1:{weirgate.port}".encode(), f"Host: {host}".encode(), 1)
        with socket.create_connection(("127.0.0.1", weirgate.port), timeout=10) as link:
            link.sendall(request)
            assert link.recv(12).startswith(b"HTTP/1.1 "), (target, host)
    with redis_server.client() as redis:
        assert publish(redis, TRADES, "A", 1) == 1
    await client.wait_for(lambda c: c.prices == [1], 10, "the trade")
    assert weirgate.alive()


@both
async def test_redis_away_for_long_at_the_start(kind, redis_server, start_weirgate):
    redis_server.kill()
    weirgate = await answering(start_weirgate(kind.name, redis=redis_server))
    assert weirgate.ready_status() == 503
    client = await subscriber(kind, weirgate, ["A"])
    await asyncio.sleep(11)
    assert client.open and not weirgate.health()["redis_connected"]
    await asyncio.to_thread(redis_server.start)
    with redis_server.client() as redis:
        await until(lambda: publish(redis, kind, "A", 1) == 1, 20, "a subscription in Redis")
    await client.wait_for(lambda c: c.prices == [1], 10, "the first publication")
    assert weirgate.ready_status() == 200


@both
async def test_who_does_not_read_costs_the_others_nothing(kind, redis_server, start_weirgate):
    weirgate = start_weirgate(kind.name, redis=redis_server).wait_ready()
    good = await subscriber(kind, weirgate, ["A"])
    stuck = await subscriber(kind, weirgate, ["A"], receive_bytes=4096)
    stuck.stop_reading()
    before = peak_bytes(weirgate)
    count, pad = 1_000, "x" * 64 * 1024
    with redis_server.client() as redis:
        for n in range(count):
            publish(redis, kind, "A", n, pad)
            if n % 4 == 3:
                # So that the reader is never the one that is late.
                await good.wait_for(lambda c: len(c.prices) == n + 1, 20, f"publication {n}")
    assert good.prices == list(range(count))
    grown = peak_bytes(weirgate) - before
    assert grown < 24 * MIB, f"{grown / MIB:.1f} MiB more for 64 MiB that one client does not read"
    closes = scrape(weirgate)
    assert closes.sum("weirgate_client_closes_total", reason="send_queue_hard") == 1
    assert closes.sum("weirgate_client_closes_total") == 1
    stuck.abort()


def peak_bytes(weirgate):
    """The most memory that was resident so far."""
    status = pathlib.Path(f"/proc/{weirgate.pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


@both
async def test_what_is_no_utf8_deafens_nobody(kind, redis_server, start_weirgate):
    weirgate = start_weirgate(kind.name, redis=redis_server).wait_ready()
    client = await subscriber(kind, weirgate, ["A"])
    if kind is CHANNELS:
        # A pattern hears of every channel of the family, as that of the trades gateway does.
        await subscriber(CHANNELS, weirgate, ["*"])
    with redis_server.client() as redis:
        channel = kind.channel("A")
        for name, payload in [(channel, b"\xff\xfe"), (channel.encode() + b"\xff", b"{}"), (channel, b'{"price":"\xc3"}'), (channel, b"\x00")]:
            assert redis.publish(name, payload) >= 1
        publish(redis, kind, "A", 7)
    await client.wait_for(lambda c: c.prices[-1:] == [7], 10, "the good one")
    assert weirgate.alive() and client.open


async def test_leaving_while_being_answered(redis_server, start_weirgate):
    weirgate = start_weirgate("channels", redis=redis_server).wait_ready()
    good = await subscriber(CHANNELS, weirgate, ["good"])
    for round_ in range(40):
        leaving = await asyncio.gather(*(clients.connect(weirgate.port, path="/ws") for _ in range(5)))
        for n, client in enumerate(leaving):
            client.say(CHANNELS.subscribe([f"{round_}:{n}:{name}" for name in range(50)]))
            client.say({"action": "ping"})
            client.abort()
    await until(lambda: weirgate.health()["clients_connected"] == 1, 20, "those who left gone")
    with redis_server.client() as redis:
        await until(lambda: redis.pubsub_channels() == [CHANNELS.channel("good").encode()], 20, "nothing of theirs left in Redis")
        publish(redis, CHANNELS, "good", 1)
    await good.wait_for(lambda c: c.prices == [1], 10, "what is published to who stayed")


async def test_patterns_made_to_take_for_ever(redis_server, start_weirgate):
    weirgate = start_weirgate("channels", redis=redis_server).wait_ready()
    client = await clients.connect(weirgate.port, path="/ws")
    hard = ["market:tick:" + "a*" * 2_000 + "b", "market:tick:" + "(a+)+" * 10 + "$*", "*" * 20_000 + "x", "market:tick:" + "[a-z]*" * 500,
            "?" * 5_000 + "*"]
    client.say({"action": "subscribe", "channels": hard})
    client.say({"action": "ping"})
    await client.wait_for(lambda c: b'"pong"' in c.newest, 20, "the answer behind the patterns")
    other = await subscriber(CHANNELS, weirgate, ["A"])
    with redis_server.client() as redis:
        publish(redis, CHANNELS, "a" * 30, 1)
        publish(redis, CHANNELS, "A", 2)
    await other.wait_for(lambda c: c.prices == [2], 20, "data beside the patterns")
