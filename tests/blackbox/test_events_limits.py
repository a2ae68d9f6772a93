"""The events gateway's limits towards devices and services, and what it says of them."""
import asyncio
import hashlib
import json
import threading

import pytest
import websockets
from prometheus import scrape
from services import device
from waiting import until
from websockets.exceptions import ConnectionClosed


def ask(event, request_id=None, data=None):
    return json.dumps({"event": event, "request_id": request_id, "data": data or {}})


async def received(client):
    return json.loads(await asyncio.wait_for(client.recv(), 20))


def code(answer):
    return answer["error"] and answer["error"]["code"]


async def test_the_line_of_an_end_says_which_device_it_was(start_weirgate):
    """Named in the query, or by its first message."""
    weirgate = start_weirgate("events", "--log-format", "json").wait_ready()
    async with device(weirgate, "in-the-query"):
        pass
    url = f"ws://127.0.0.1:{weirgate.port}/ws"
    async with websockets.connect(url) as client:
        assert (await received(client))["event"]
        await client.send(ask("identify", "1", {"device_id": "d" * 80}))
        assert (await received(client))["data"] == {"device_id": "d" * 80}

    def users():
        lines = [json.loads(line) for line in weirgate.log().splitlines() if line.startswith("{")]
        return [line.get("user") for line in lines if line["message"] == "connection ended" and line["path"] == "/ws"]
    ids = ["in-the-query", "d" * 80]
    hashes = [f"sha256:{hashlib.sha256(id.encode()).hexdigest()[:12]}" for id in ids]
    await until(lambda: users() == hashes, 10, "two lines")


@pytest.mark.parametrize("gateway", ["events", "trades", "channels"])
async def test_no_line_of_the_log_has_a_part_of_a_query(start_weirgate, redis_server, gateway):
    told = "in-the-query"
    weirgate = start_weirgate(gateway, redis=redis_server, env={"RUST_LOG": "weirgate=trace"}).wait_ready()
    query = "&".join(f"{name}={told}" for name in ["device_id", "userId", "token", "since", "x"])
    async with websockets.connect(f"ws://127.0.0.1:{weirgate.port}/ws?{query}") as client:
        await client.send(ask("identify", "1", {"device_id": told}))
    for path in ["/health", "/nothing", "/ws", "/ws/stream"]:
        weirgate.get(f"{path}?{query}")
    await until(lambda: "connection ended" in weirgate.log(), 10, "the line of the end")
    assert told not in weirgate.log()


async def test_a_service_that_hangs_is_nobody_elses_matter(start_weirgate, service):
    release = threading.Event()
    lobby = service(lambda asked: release.wait(60))
    simulation = service(lambda asked: asked["message"]["data"])
    env = {"LOBBY_URL": lobby.url, "SIMULATION_URL": simulation.url, "HTTP_TIMEOUT_SECONDS": "60"}
    weirgate = start_weirgate("events", env=env).wait_ready()
    # An address has at most half of the slots, so these come from many.
    address = lambda n: {"X-Forwarded-For": f"198.51.100.{n + 1}"}  # noqa: E731
    stuck = [await device(weirgate, f"s{n}", additional_headers=address(n)) for n in range(120)]
    for client in stuck:
        await client.send(ask("lobby.x"))
    await until(lambda: len(lobby.asked) == 80, 20, "all calls that one service may have")
    async with device(weirgate, "d") as client:
        for n in range(20):
            await client.send(ask("simulation.run", str(n), {"n": n}))
            answer = await received(client)
            assert (answer["request_id"], answer["data"]) == (str(n), {"n": n})
    in_flight = scrape(weirgate).sum("weirgate_upstream_calls_in_flight", service="lobby")
    assert in_flight == 80
    release.set()
    for client in stuck:
        assert (await received(client))["data"] is True
        await client.close()
    await until(lambda: scrape(weirgate).sum("weirgate_upstream_calls_total", service="lobby", outcome="answered") == 120, 10, "weirgate_upstream_calls_total")
    await until(lambda: scrape(weirgate).sum("weirgate_upstream_call_duration_seconds_count", service="lobby") == 120, 10, "weirgate_upstream_call_duration_seconds_count")


async def test_what_a_client_sent_before_it_went_is_forwarded(start_weirgate, service):
    release = threading.Event()
    lobby = service(lambda asked: release.wait(60))
    weirgate = start_weirgate("events", env={"LOBBY_URL": lobby.url, "HTTP_TIMEOUT_SECONDS": "60"}).wait_ready()
    client = await device(weirgate, "d")
    for n in range(5):
        await client.send(ask(f"lobby.{n}"))
    await until(lambda: lobby.asked, 20, "the first call")
    client.transport.abort()
    await until(lambda: scrape(weirgate).sum("weirgate_clients") == 0, 20, "its end")
    release.set()
    await until(lambda: len(lobby.asked) == 5, 20, "the others")
    assert lobby.events() == [f"lobby.{n}" for n in range(5)]


async def test_a_stop_lets_calls_finish_and_forwards_what_waits(start_weirgate, service):
    called, release = threading.Event(), threading.Event()

    def answer(asked):
        called.set()
        return release.wait(60)
    lobby = service(answer)
    weirgate = start_weirgate("events", "--stop-timeout-ms", "20000", env={"LOBBY_URL": lobby.url}).wait_ready()
    async with device(weirgate, "d") as client:
        for n in range(3):
            await client.send(ask(f"lobby.{n}"))
        await asyncio.to_thread(called.wait, 20)
        # A ping's answer: all three have been read.
        await asyncio.wait_for(await client.ping(), 20)
    weirgate.send(15)
    await asyncio.sleep(0.3)
    assert weirgate.alive(), "it waits for the call"
    release.set()
    assert weirgate.wait(20) == 0
    assert lobby.events() == ["lobby.0", "lobby.1", "lobby.2"]


async def test_a_service_that_fails_is_left_alone_for_a_while(start_weirgate, service):
    gone = service(lambda asked: None)
    gone.stop()
    weirgate = start_weirgate("events", env={"LOBBY_URL": gone.url, "RATE_LIMIT_BURST": "1000"}).wait_ready()
    async with device(weirgate, "d") as client:
        for _ in range(25):
            await client.send(ask("lobby.x"))
            assert (await received(client))["error"]["message"] == "Upstream unreachable"
    metrics = scrape(weirgate)
    assert metrics.sum("weirgate_upstream_circuit_open", service="lobby") == 1
    assert metrics.sum("weirgate_upstream_circuit_open", service="simulation") == 0
    called = metrics.sum("weirgate_upstream_calls_total", service="lobby", outcome="unreachable")
    skipped = metrics.sum("weirgate_upstream_calls_skipped_total", service="lobby")
    assert called + skipped == 25 and called >= 20 and skipped >= 1
    assert metrics.sum("weirgate_event_errors_total", code="upstream_error") == 25


async def test_a_redirect_is_a_line_in_the_log_once_for_each_place(start_weirgate, service):
    lobby = service(lambda asked: (asked["message"]["data"]["status"], b"", {"Location": asked["message"]["data"]["place"]}))
    weirgate = start_weirgate("events", "--log-format", "json", env={"LOBBY_URL": lobby.url}).wait_ready()
    async with device(weirgate, "d") as client:
        for status, place in [(302, "/a?token=s3cret"), (308, "/a"), (301, "/b"), (200, "/c"), (307, "/b")]:
            await client.send(ask("lobby.x", data={"status": status, "place": place}))
            answer = await received(client)
            assert (answer["type"], answer["data"]) == ("response", None), "no body, of type JSON"
    weirgate.lines_with("redirect", '"status":301')
    lines = [json.loads(line) for line in weirgate.lines_with("redirect")]
    assert [(line["level"], line["service"], line["status"], line["place"]) for line in lines] == [
        ("WARN", "lobby", 302, "/a"), ("WARN", "lobby", 301, "/b")]
    assert "s3cret" not in weirgate.log()


async def test_an_answer_in_an_unknown_coding_says_so(start_weirgate, service):
    lobby = service(lambda asked: (asked["message"]["data"]["status"], b"\x0b\x02\x80{}\x03", {"Content-Encoding": "Br"}))
    weirgate = start_weirgate("events", env={"LOBBY_URL": lobby.url}).wait_ready()
    async with device(weirgate, "d") as client:
        for status, message in [(200, "Upstream sent the unknown Content-Encoding 'br'"),
                                (503, "Upstream error (503): the unknown Content-Encoding 'br'")]:
            await client.send(ask("lobby.x", data={"status": status}))
            assert (await received(client))["error"] == {"code": "upstream_error", "message": message, "details": None}


async def test_json_may_be_so_deep_and_no_deeper(start_weirgate, service):
    def deep(levels):
        return "[" * levels + "]" * levels
    lobby = service(lambda asked: (200, deep(asked["message"]["data"]["levels"]).encode()))
    env = {"LOBBY_URL": lobby.url, "RATE_LIMIT_BURST": "1000"}
    weirgate = start_weirgate("events", env=env).wait_ready()
    async with device(weirgate, "d") as client:
        for levels, wrong in [(510, None), (511, "bad_request"), (20_000, "bad_request")]:
            await client.send('{"event":"lobby.x","data":{"levels":1,"x":%s}}' % deep(levels))
            assert code(await received(client)) == wrong, levels
        for levels, wrong in [(512, None), (513, "upstream_error"), (200_000, "upstream_error")]:
            await client.send(ask("lobby.x", data={"levels": levels}))
            answer = json.loads((await asyncio.wait_for(client.recv(), 20)).replace(deep(512), "1"))
            assert code(answer) == wrong, levels


async def test_a_message_over_its_limit_is_refused_and_one_far_over_it_ends_the_connection(start_weirgate):
    weirgate = start_weirgate("events", env={"MAX_MESSAGE_BYTES": "400000"}).wait_ready()
    async with device(weirgate, "d") as client:
        for size in [400_001, 1_600_000]:
            await client.send("x" * size)
            assert code(await received(client)) == "message_too_large"
        await client.send("x" * 400_000)
        assert code(await received(client)) == "bad_request"
        await client.send("x" * 1_600_001)
        with pytest.raises(ConnectionClosed) as closed:
            await received(client)
        assert closed.value.rcvd.code == 1009


async def test_who_does_not_read_for_a_while_gets_all_its_answers(start_weirgate, service):
    lobby = service(lambda asked: (200, json.dumps([asked["message"]["request_id"], "x" * 700_000]).encode()))
    weirgate = start_weirgate("events", env={"LOBBY_URL": lobby.url, "RATE_LIMIT_BURST": "100"}).wait_ready()
    async with device(weirgate, "d", compression=None) as client:
        client.transport.pause_reading()
        for n in range(40):
            await client.send(ask("lobby.x", str(n)))
        # What the kernels between them hold is asked for, and no more.
        seen = -1
        while len(lobby.asked) != seen:
            seen = len(lobby.asked)
            await asyncio.sleep(0.5)
        assert 1 <= seen < 40
        client.transport.resume_reading()
        assert [(await received(client))["data"][0] for _ in range(40)] == [str(n) for n in range(40)]


async def test_services_hear_whose_address_and_which_trace_it_is(start_weirgate, service):
    lobby = service(lambda asked: 1)
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"
    for proxies, given, ip in [("", "10.9.9.9, 203.0.113.7", "203.0.113.7"), ("10.0.0.1", "203.0.113.7", "127.0.0.1"),
                               ("*", "203.0.113.7", "203.0.113.7")]:
        forwarded = {"X-Forwarded-For": given, "traceparent": trace}
        lobby.asked.clear()
        lobby.headers.clear()
        weirgate = start_weirgate("events", env={"LOBBY_URL": lobby.url, "FORWARDED_ALLOW_IPS": proxies}).wait_ready()
        async with device(weirgate, "d", additional_headers=forwarded) as one, device(weirgate, "d") as two:
            for client in [one, two, two]:
                await client.send(ask("lobby.x"))
                await received(client)
        assert [asked["client"]["ip"] for asked in lobby.asked] == [ip, "127.0.0.1", "127.0.0.1"], proxies
        traces = [headers["traceparent"] for headers in lobby.headers]
        assert traces[0] == trace and len(set(traces)) == 3, "each call without one begins its own"


async def test_contents_are_never_logged(start_weirgate, service):
    lobby = service(lambda asked: (500, b"word-of-the-service"))
    env = {"LOBBY_URL": lobby.url, "RUST_LOG": "trace"}
    weirgate = start_weirgate("events", env=env).wait_ready()
    async with device(weirgate, "d") as client:
        for text in [ask("lobby.x", data={"a": "word-of-the-device"}), "word-of-the-device", ask("word-of-the-device")]:
            await client.send(text)
            assert code(await received(client))
    weirgate.send(15)
    assert weirgate.wait(20) == 0
    assert "word-of-the" not in weirgate.log()
