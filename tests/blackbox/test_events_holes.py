"""What the replaced events gateway let happen, and weirgate does not. Each row of the contract and of docs/guides/migrate.md, and the test that fails where it happens again.

proxy
| anyone acts as any device: the proxy reaches a service's /gateway/handle, by tricks or without | `test_nobody_acts_as_another_device`, vector proxy_path_escape, tests/http_proxy/refused.rs |
| a cookie of one client's answer goes with the next one's request | `test_cookies_stay_with_whom_they_are_for`, vector proxy_cookie_leak |
| the token of the services goes where a client sends it | `test_the_token_of_the_services_goes_nowhere`, tests/http_proxy/streams.rs |
| GET, POST, PUT and DELETE only | vector proxy_methods, tests/http_proxy/streams.rs |
| a gzip answer is broken off | vector proxy_gzip |
| two Set-Cookie become one | `test_cookies_stay_with_whom_they_are_for`, tests/http_proxy/streams.rs |
| bodies are read whole | tests/http_proxy/large.rs |

messages
| a binary message ends the connection | vector binary_frame |
| an empty id is an id, one of any length too | vector connect_empty_id, `test_an_id_of_the_query_is_held_to_the_same_length` |
| `NaN` and half surrogate pairs pass as JSON; clients that parse them fail | `test_what_is_no_json_goes_nowhere` |
| deep JSON ends the connection | test_events_limits.py: `test_json_may_be_so_deep_and_no_deeper` |
| a message of any size is read before it is refused | test_events_limits.py: `test_a_message_over_its_limit_is_refused_and_one_far_over_it_ends_the_connection` |
| what waits is read without bound | tests/events_gateway.rs: `who_sends_too_much_is_not_read_until_there_is_room` |

services
| a service's broken JSON is the client's `unknown_event` | vector upstream_bad_json |
| a service that hangs takes the calls of all | test_events_limits.py: `test_a_service_that_hangs_is_nobody_elses_matter` |
| a service that is away is asked by everyone all the time | test_events_limits.py: `test_a_service_that_fails_is_left_alone_for_a_while` |
| a service that goes on for ever is never given up | tests/calls/main.rs: `a_slow_service_has_time_while_it_goes_on` |
| an answer of any size is read | tests/calls/main.rs: `an_answer_over_its_limit_is_not_read_to_its_end` |

broadcasts
| one client that does not read stops them | test_events_broadcast.py: `test_a_device_that_does_not_read_delays_nobody` |
| a stranger's body is parsed before the token is looked at | test_events_broadcast.py: `test_the_token_comes_before_the_body` |
| a body of any size is read | test_events_broadcast.py: `test_a_body_over_its_limit_is_refused` |
"""
import asyncio
import http.client
import json
import re

import pytest
from processes import ROOT
from services import TOKEN, device, post, push

GOOD = {"client": {"device_id": "victim", "connection_id": "x", "ip": "1.1.1.1"}, "message": {"event": "lobby.leave"}}


def test_the_rows_name_tests_and_vectors_that_are_there():
    tests = ROOT / "tests"
    text = "".join(path.read_text() for kind in ("*.py", "*.rs") for path in tests.rglob(kind))
    for row in [row for row in __doc__.splitlines() if row.startswith("|")]:
        named = row.split(" | ")[-1]
        defined = re.findall(r"`(\w+)`", named)
        vectors = re.findall(r"vector (\w+)", named)
        files = re.findall(r"tests/[\w/]+\.rs", named)
        assert defined or vectors or files, row
        assert all(f" {name}(" in text for name in defined), row
        assert all((tests / "vectors" / "events" / f"{vector}.json").exists() for vector in vectors), row
        assert all((ROOT / file).exists() for file in files), row


def urls(service, base=""):
    return {f"{name}_URL": service.url + base for name in ["LOBBY", "MEASUREMENT", "SIMULATION"]}


def proxied(weirgate, path, headers=(), body=None):
    """(status, headers) of a POST whose path goes out as it stands here."""
    link = http.client.HTTPConnection("127.0.0.1", weirgate.port, timeout=20)
    link.request("POST", path, json.dumps(body or {}), dict(headers))
    answer = link.getresponse()
    answer.read()
    link.close()
    return answer.status, answer.headers


async def received(client):
    return json.loads(await asyncio.wait_for(client.recv(), 20))


async def ask(client, event="lobby.x", data=None):
    await client.send(json.dumps({"event": event, "data": data or {}}))
    return await received(client)


@pytest.mark.parametrize("base", ["", "/base/"])
def test_nobody_acts_as_another_device(base, start_weirgate, service):
    inner = service()
    weirgate = start_weirgate("events", env=urls(inner, base)).wait_ready()
    for path in ["/v1/simulation/gateway/handle", "/v1/simulation//gateway/handle", "/v1/simulation/%67ateway/handle",
                 "/v1/simulation/Gateway/handle", "/v1/simulation/gateway%2fhandle", "/v1/simulation/gateway;x/handle",
                 "/v1/simulation/./gateway/handle", "/v1/simulation/x/../gateway/handle", "/v1/simulation/%5cgateway/handle",
                 "/v1/simulation/%2567ateway/handle", "/v1/simulation/internal/broadcast",
                 "/v1/simulation/x/%2e%2e/gateway/handle", "/v1/measurement/../../gateway/handle",
                 "/v1/measurement/%2e%2e/%2e%2e/gateway/handle", "/v1/jobs/..%2f..%2fgateway/handle",
                 "/v1/jobs/%252e%252e/%252e%252e/gateway/handle", "/v1/jobs/..\\..\\gateway\\handle", "/gateway/handle"]:
        status, _ = proxied(weirgate, path, body=GOOD)
        assert status in (400, 404), path
    assert inner.asked == []
    for path in ["/v1/simulation/run", "/v1/measurement/gateway", "/v1/jobs/internal"]:
        assert proxied(weirgate, path, body=GOOD)[0] == 200, path
    assert len(inner.asked) == 3, "the service was there to be reached"


def test_a_page_of_another_origin_sends_nothing_to_a_service(start_weirgate, service):
    inner = service()
    weirgate = start_weirgate("events", "--allowed-origins", "https://good.example", env=urls(inner)).wait_ready()
    for headers in [{"Origin": "https://bad.example"}, {"Origin": "null", "Sec-Fetch-Site": "cross-site"}]:
        assert proxied(weirgate, "/v1/jobs/run", headers)[0] == 403, headers
    assert inner.asked == []
    for headers in [{}, {"Origin": "https://good.example"}, {"Origin": "https://own.example", "Sec-Fetch-Site": "same-origin"}]:
        assert proxied(weirgate, "/v1/jobs/run", headers)[0] == 200, headers
    assert len(inner.asked) == 3


async def test_cookies_stay_with_whom_they_are_for(start_weirgate, service):
    inner = service(lambda asked: (200, {}, {"Set-Cookie": "sid=alice; Path=/", "set-cookie": "theme=dark"}))
    weirgate = start_weirgate("events", env=urls(inner)).wait_ready()
    async with device(weirgate, "alice") as alice, device(weirgate, "bob") as bob:
        for client in [alice, bob, alice]:
            assert (await ask(client))["type"] == "response"
    for headers in [{"Cookie": "sid=carol"}, {}]:
        status, answered = proxied(weirgate, "/v1/jobs/login", headers)
        assert (status, answered.get_all("Set-Cookie")) == (200, ["sid=alice; Path=/", "theme=dark"])
    assert [headers["Cookie"] for headers in inner.headers] == [None, None, None, "sid=carol", None]


async def test_the_token_of_the_services_goes_nowhere(start_weirgate, service):
    inner = service()
    weirgate = start_weirgate("events", env={**urls(inner), "INTERNAL_AUTH_TOKEN": TOKEN}).wait_ready()
    assert proxied(weirgate, "/v1/jobs/x", {"X-Internal-Token": TOKEN, "X-Other": "y"})[0] == 200
    async with device(weirgate, "d", additional_headers={"X-Internal-Token": TOKEN}) as client:
        await ask(client)
    assert [headers["X-Other"] for headers in inner.headers] == ["y", None]
    assert TOKEN not in str([headers.items() for headers in inner.headers])


async def test_an_id_of_the_query_is_held_to_the_same_length(start_weirgate, service):
    inner = service()
    weirgate = start_weirgate("events", env=urls(inner)).wait_ready()
    for device_id in ["x" * 201, "%F0%9F%98%80" * 201, "good&device_id="]:
        async with device(weirgate, device_id) as client:
            assert (await received(client))["event"] == "gateway.identify_required", device_id
            assert (await ask(client))["error"]["code"] == "unauthenticated"
    assert inner.asked == []
    async with device(weirgate, "%F0%9F%98%80" * 200) as client:
        assert (await ask(client))["type"] == "response"
    assert inner.asked[0]["client"]["device_id"] == "😀" * 200


async def test_what_is_no_json_goes_nowhere(start_weirgate, service):
    answers = []
    inner = service(lambda asked: (200, answers.pop(0).encode()))
    weirgate = start_weirgate("events", env={**urls(inner), "INTERNAL_AUTH_TOKEN": TOKEN}).wait_ready()
    url = f"{weirgate.http_url}/internal/broadcast"
    async with device(weirgate, "d") as client:
        for value in ["NaN", "-Infinity", r'"\ud800"', "01", "\ufeff1"]:
            await client.send('{"event":"lobby.x","data":{"a":%s}}' % value)
            assert (await received(client))["error"]["message"] == "Invalid JSON message", value
            body = '{"event":"e","data":{"a":%s},"targets":{"device_ids":["d"]}}' % value
            assert post(url, body.encode(), {"X-Internal-Token": TOKEN})[0] == 422, value
        assert inner.asked == []
        for value in ["NaN", "[Infinity]", r'"\udc00"', "{}{}", "\u00a0"]:
            answers.append(value)
            assert (await ask(client))["error"]["message"] == "Upstream sent invalid JSON", value
        answers.append("1e999")
        assert (await ask(client))["data"] == float("inf"), "a number, whatever its size"
        assert push(weirgate, "e", {}, "d") == (200, {"sent": 1})
