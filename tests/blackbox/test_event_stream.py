"""Event streams (Server-Sent Events) of every gateway, read from plain sockets and with curl."""
import contextlib
import itertools
import json
import re
import signal
import socket
import subprocess
import time

import pytest
from event_stream import ACCEPT, Stream
from processes import ROOT, system_binary
from prometheus import scrape
from services import TOKEN, push
from tokens import jwt
from waiting import patient


@pytest.fixture
def stream():
    """stream(weirgate, path, *headers, sends=…) → Stream, closed with the test"""
    with contextlib.ExitStack() as stack:
        yield lambda weirgate, *args, **kwargs: stack.enter_context(contextlib.closing(Stream(weirgate.port, *args, **kwargs)))


def wait_for(condition, seconds, what):
    begin = time.monotonic()
    while not condition():
        assert time.monotonic() - begin < patient(seconds), f"not within {seconds} s: {what}"
        time.sleep(0.05)


def clients(weirgate):
    metrics = scrape(weirgate)
    return metrics.sum("weirgate_clients"), metrics.sum("weirgate_event_stream_clients")


def test_curl_prints_the_states_of_the_demo(start_weirgate):
    weirgate = start_weirgate("demo").wait_ready()
    argv = [system_binary("curl", "curl"), "-sSN", "-H", ACCEPT, f"{weirgate.http_url}/ws/stream"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as curl:
        lines = (line.rstrip("\n") for line in curl.stdout)
        assert next(lines).startswith("retry: ") and next(lines) == ""
        for _ in range(3):
            assert "levels" in json.loads(next(lines).removeprefix("data: ")) and next(lines) == ""
        assert clients(weirgate) == (1, 1)
        curl.kill()
    # Long before the next comment: 20 s.
    wait_for(lambda: clients(weirgate) == (0, 0), 5, "curl is gone")
    # With a reset, if it had not read all.
    metrics = scrape(weirgate)
    assert sum(metrics.sum("weirgate_client_closes_total", reason=reason) for reason in ("peer_gone", "socket_error")) == 1


def commands_of_the_page():
    """What docs/reference/event-stream.md tells to run, by the port that it names."""
    page = (ROOT / "docs/reference/event-stream.md").read_text()
    commands = re.findall(r"```sh\n(curl .*?)```", page, re.S)
    return {int(re.search(r"localhost:(\d+)", command)[1]): command for command in commands}


@pytest.mark.parametrize("name, port, said", [("demo", 8000, "levels"), ("channels", 8889, "channels")])
def test_the_commands_of_the_page(start_weirgate, redis_server, name, port, said):
    system_binary("curl", "curl")
    flags = [] if name == "demo" else ["--event-stream"]
    weirgate = start_weirgate(name, *flags, redis=redis_server).wait_ready()
    command = "exec " + commands_of_the_page()[port].replace(f":{port}", f":{weirgate.port}")
    with subprocess.Popen(["bash", "-c", command], stdout=subprocess.PIPE, text=True) as curl:
        texts = (line.removeprefix("data: ") for line in curl.stdout if line.startswith("data: "))
        assert any(said in json.loads(text) for text in itertools.islice(texts, 3))
        curl.kill()


def test_the_answer_and_the_pages_beside_it(start_weirgate, stream):
    weirgate = start_weirgate("demo").wait_ready()
    answer = stream(weirgate, "/ws/stream", "Origin: https://page.example")
    assert answer.status == 200
    wanted = {"content-type": "text/event-stream", "cache-control": "no-store, no-transform", "x-accel-buffering": "no", "connection": "close",
              "access-control-allow-origin": "https://page.example", "vary": "Origin"}
    assert answer.headers == wanted
    assert stream(weirgate, "/nothing").status == 404
    # A connection that has carried a page.
    link = socket.create_connection(("127.0.0.1", weirgate.port))
    for _ in range(2):
        page = Stream(weirgate.port, "/health", link=link)
        assert page.status == 200, "whatever it accepts"
        page.reader.read(int(page.headers["content-length"]))
    later = stream(weirgate, "/ws/stream", link=link)
    assert later.status == 200 and "levels" in json.loads(later.event()[1])
    assert clients(weirgate) == (2, 2)
    refused = stream(weirgate, "/ws/stream", sends=["x"] * 33)
    assert (refused.status, json.loads(refused.reader.read())) == (
        400, {"detail": "too many parameters send in one request"})


def test_channels_subscribe_by_the_query(start_weirgate, redis_server, stream):
    weirgate = start_weirgate("channels", "--event-stream", redis=redis_server).wait_ready()
    one = {"action": "subscribe", "channels": ["market:tick:A"]}
    client = stream(weirgate, "/ws", sends=[one, {"action": "ping", "requestId": "p"}, "no JSON"])
    assert client.until(lambda m: m["type"] == "subscribed")["channels"] == ["market:tick:A"]
    assert client.until(lambda m: m["type"] == "pong")["requestId"] == "p"
    assert client.until(lambda m: m["type"] == "error")
    redis_server.client().publish("market:tick:A", json.dumps({"n": 1}))
    assert client.until(lambda m: m["type"] == "data")["data"] == {"n": 1}


def test_messages_of_the_query_count_for_the_rate(start_weirgate, redis_server, stream):
    weirgate = start_weirgate("trades", "--event-stream", "--messages-per-second-max", "2", redis=redis_server).wait_ready()
    client = stream(weirgate, "/", sends=[{"action": "ping"}] * 4)
    pongs = [client.until(lambda m: m["type"] != "success") for _ in range(3)]
    assert [m["type"] for m in pongs] == ["pong", "pong", "error"]
    assert scrape(weirgate).sum("weirgate_requests_limited_total") == 2


def test_trades_subscribe_by_the_query(start_weirgate, redis_server, stream):
    weirgate = start_weirgate("trades", "--event-stream", redis=redis_server).wait_ready()
    client = stream(weirgate, "/ws", sends=[{"action": "subscribe", "symbols": ["aapl"]}])
    assert client.until(lambda m: "subscribed" in m.get("data", {}))["data"]["subscribed"] == ["AAPL"]
    redis_server.client().publish("channel:trade:AAPL", json.dumps({"price": 1.5}))
    assert client.until(lambda m: m["type"] == "trade")["data"]["price"] == 1.5
    # Pages stay pages, and other paths stay what they are.
    assert stream(weirgate, "/health").headers["content-type"] == "application/json"
    assert stream(weirgate, "/other").status == 426


def test_devices_identify_by_the_query_and_get_pushes(start_weirgate, service, stream):
    lobby = service(lambda asked: {"device": asked["client"]["device_id"]})
    weirgate = start_weirgate("events", "--event-stream", "--lobby-url", lobby.url, env={"INTERNAL_AUTH_TOKEN": TOKEN}).wait_ready()
    identify = {"event": "identify", "request_id": "1", "data": {"device_id": "d1"}}
    client = stream(weirgate, "/ws", sends=[identify, {"event": "lobby.create", "request_id": "2", "data": {}}])
    assert client.until(lambda m: m.get("request_id") == "2")["data"] == {"device": "d1"}
    assert push(weirgate, "lobby.updated", {"n": 1}, "d1") == (200, {"sent": 1})
    assert client.until(lambda m: m["type"] == "event")["data"] == {"n": 1}


def test_a_token_comes_in_a_header_or_the_query(start_weirgate, redis_server, stream):
    secret = "a-secret-of-32-bytes-for-the-tests!"
    env = {"REQUIRE_AUTH": "true", "JWT_SECRET": secret}
    weirgate = start_weirgate("trades", "--event-stream", redis=redis_server, env=env).wait_ready()
    token = jwt(secret, sub="u", exp=int(time.time()) + 60)
    for path, headers in ((f"/?token={token}", []), ("/", [f"Authorization: Bearer {token}"])):
        assert "connectionId" in json.loads(stream(weirgate, path, *headers).event()[1])["data"]
    refused = stream(weirgate, "/?token=wrong")
    assert refused.status == 200, "an EventSource cannot see another status"
    assert [(kind, json.loads(data)) for kind, data in refused.end()] == [
        ("close", {"code": 1008, "reason": "Authentication failed"})]


@pytest.mark.parametrize("name, status", [("channels", 404), ("trades", 426)])
def test_it_is_off_unless_set(start_weirgate, redis_server, stream, name, status):
    weirgate = start_weirgate(name, redis=redis_server).wait_ready()
    assert stream(weirgate, "/ws").status == status


def test_a_page_of_another_origin_is_refused(start_weirgate, stream):
    weirgate = start_weirgate("demo", "--allowed-origins", "https://example.com").wait_ready()
    assert stream(weirgate, "/ws/stream", "Origin: https://example.org").status == 403
    assert stream(weirgate, "/ws/stream", "Origin: https://example.com").status == 200
    for said in ("Sec-Fetch-Site: cross-site", "Sec-Fetch-Site: same-site", "Sec-Fetch-Mode: no-cors", "Referer: https://example.org/",
                 "User-Agent: Mozilla/5.0"):
        refused = stream(weirgate, "/ws/stream", said)
        assert (refused.status, json.loads(refused.reader.read())) == (403, {"detail": "Origin not allowed"}), said
    assert scrape(weirgate).sum("weirgate_client_closes_total", reason="policy") == 6
    for said in ("Sec-Fetch-Site: same-origin", "Referer: https://example.com/page", "User-Agent: curl/8.5.0"):
        assert stream(weirgate, "/ws/stream", said).status == 200, said


def test_a_stop_ends_a_stream_with_the_close_event(start_weirgate, stream):
    weirgate = start_weirgate("demo").wait_ready()
    client, half = stream(weirgate, "/ws/stream"), stream(weirgate, "/ws/stream")
    half.link.shutdown(socket.SHUT_WR)
    for one in (client, half):
        one.event()
    weirgate.send(signal.SIGTERM)
    for one in (client, half):
        *messages, (kind, data) = one.end()
        assert {kind for kind, _ in messages} <= {"message"}
        assert (kind, json.loads(data)) == ("close", {"code": 1012, "reason": ""})
        one.close()
    assert weirgate.wait(5) == 0


def test_the_close_event_has_the_code_of_the_settings(start_weirgate, stream):
    weirgate = start_weirgate("demo", "--stop-code", "1001").wait_ready()
    client = stream(weirgate, "/ws/stream")
    client.event()
    weirgate.send(signal.SIGTERM)
    kind, data = client.end()[-1]
    assert (kind, json.loads(data)) == ("close", {"code": 1001, "reason": ""})
    client.close()
    assert weirgate.wait(5) == 0


def test_a_client_that_has_ended_its_side_reads_on_and_is_found_when_it_goes(start_weirgate, stream):
    weirgate = start_weirgate("demo", "--rate-hz", "1").wait_ready()
    client = stream(weirgate, "/ws/stream")
    client.link.shutdown(socket.SHUT_WR)
    for _ in range(5):
        assert client.event()[0] == "message"
    assert clients(weirgate) == (1, 1)
    client.close()
    wait_for(lambda: clients(weirgate) == (0, 0), 5, "the client is gone")


def test_a_unix_socket_has_event_streams_too(start_weirgate, tmp_path):
    path = tmp_path / "http.sock"
    weirgate = start_weirgate("demo", "--listen", f"unix:{path}", "--listen", "127.0.0.1").wait_ready()
    link = socket.socket(socket.AF_UNIX)
    link.connect(str(path))
    client = Stream(weirgate.port, "/ws/stream", link=link)
    link.shutdown(socket.SHUT_WR)
    for _ in range(5):
        assert client.event()[0] == "message"
    assert clients(weirgate) == (1, 1)
    client.close()
    wait_for(lambda: clients(weirgate) == (0, 0), 5, "the client is gone")


def test_a_reader_that_stops_is_conflated_and_dropped(start_weirgate, stream):
    weirgate = start_weirgate("demo", "--rate-hz", "100", "--send-queue-stall-ms", "3000").wait_ready()
    good, stuck = stream(weirgate, "/ws/stream"), stream(weirgate, "/ws/stream", receive_bytes=4096)
    stuck.event()

    def dropped():
        good.event()
        return clients(weirgate) == (1, 1)
    wait_for(dropped, 15, "not dropped")
    metrics = scrape(weirgate)
    assert metrics.sum("weirgate_client_closes_total", reason="send_stalled") == 1
    assert metrics.sum("weirgate_messages_conflated_total") > 0
