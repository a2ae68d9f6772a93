"""Dropped clients: each has a line and a place on the operator's page, with what waited, whatever is refused beside it."""
import asyncio
import json

import websockets
from clients import upgrade_request
from redis_gateways import TRADES, publish, subscriber
from test_operator_state import started, state
from tokens import fresh_token
from waiting import until

SECRET = "thirty-two bytes of a test secret"
HARD_BYTES = 64 * 1024


def lines(weirgate, **fields):
    found = (json.loads(line) for line in weirgate.log().splitlines())
    return [line for line in found if fields.items() <= line.items()]


async def refusals(port, stop):
    """Requests from pages of another origin, about 200 a second."""
    while not stop.is_set():
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(upgrade_request(port, "/", ["Origin: https://elsewhere.example"]))
        await reader.read()
        writer.close()
        await asyncio.sleep(0.003)


async def test_no_refusal_hides_a_dropped_client(redis_server, start_weirgate):
    bytes_max = ["--send-queue-soft-bytes", str(HARD_BYTES), "--send-queue-hard-bytes", str(HARD_BYTES)]
    flags = ["--log-format", "json", "--allowed-origins", "https://example.com", *bytes_max]
    weirgate, admin = await started(start_weirgate, "trades", *flags, redis=redis_server)
    dropped = [await subscriber(TRADES, weirgate, ["AAPL"], receive_bytes=4096) for _ in range(100)]
    for client in dropped:
        client.stop_reading()
    stop = asyncio.Event()
    refused = asyncio.create_task(refusals(weirgate.port, stop))
    redis = redis_server.client()

    def all_dropped():
        for _ in range(8):
            publish(redis, TRADES, "AAPL", 1, "x" * 8_192)
        return state(admin)["closes"].get("send_queue_hard") == 100
    await until(all_dropped, 30, "100 dropped clients", every=0.05)
    await asyncio.sleep(0.5)
    stop.set()
    await refused
    # A survey of before may be shown.
    is_shown = lambda: len([end for end in state(admin)["ends"] if end["reason"] == "send_queue_hard"]) == 100
    await until(is_shown, 10, "each on the page")
    assert lines(weirgate, reason="policy", refusal="origin"), "refusals have lines too"
    shown = [end for end in state(admin)["ends"] if end["reason"] == "send_queue_hard"]
    logged = lines(weirgate, message="connection ended", reason="send_queue_hard")
    assert len(logged) == 100, len(logged)
    for line in logged:
        assert line["level"] == "WARN" and line["limit"] == f"--send-queue-hard-bytes {HARD_BYTES}", line
        assert line["waited_bytes"] > HARD_BYTES / 2 and line["waited_messages"] > 3 and line["untaken_ms"] >= 0, line
        assert line["why"] in ("client", "unclear"), line
    for end in shown:
        assert (end["limit"], end["why"] in ("client", "unclear")) == (f"--send-queue-hard-bytes {HARD_BYTES}", True), end
        assert end["waited_bytes"] > HARD_BYTES / 2 and end["waited_messages"] > 3, end


async def test_a_refused_token_has_its_user_if_its_signature_is_good(start_weirgate):
    env = {"REQUIRE_AUTH": "true", "REDIS_URL": "redis://127.0.0.1:1", "JWT_SECRET": SECRET}
    weirgate = start_weirgate("channels", "--log-format", "json", env=env).wait_for("/health")
    stranger = fresh_token(SECRET, role="nobody-knows-it", sub="ann")
    forged = fresh_token("another secret of thirty-two bytes", role="user", sub="eve")
    for token in (stranger, forged):
        async with websockets.connect(f"ws://127.0.0.1:{weirgate.port}/ws?token={token}") as client:
            await asyncio.wait_for(client.wait_closed(), 60)
    await until(lambda: lines(weirgate, refusal="signature"), 10, "both lines")
    [refused], [unknown] = lines(weirgate, refusal="role"), lines(weirgate, refusal="signature")
    assert refused["user"] == "ann" and "user" not in unknown and '"eve"' not in weirgate.log()


async def test_the_limit_by_address_is_named_in_the_line_and_on_the_page(nats, start_weirgate):
    flags = ["--log-format", "json", "--connections-per-ip-max", "3"]
    weirgate, admin = await started(start_weirgate, "levels", *flags, nats=nats)
    held = [await websockets.connect(weirgate.ws_url) for _ in range(3)]
    try:
        await websockets.connect(weirgate.ws_url)
    except websockets.InvalidStatus as refusal:
        assert refusal.response.status_code == 503
    await until(lambda: lines(weirgate, reason="connections_per_ip"), 10, "the line")
    [line] = lines(weirgate, reason="connections_per_ip")
    assert line["limit"] == "--connections-per-ip-max 3"

    def is_shown():
        limits = {limit["name"]: (limit["now"], limit["max"]) for limit in state(admin)["limits"]}
        return limits.get("--connections-per-ip-max") == (3, 3)
    await until(is_shown, 10, "3 of 3")
    for client in held:
        await client.close()
