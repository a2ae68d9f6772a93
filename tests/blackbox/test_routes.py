"""`weirgate events --route`: events of one's own, beside the three services of the contract."""
import asyncio
import json
import subprocess
import urllib.request

import pytest
from processes import free_port, weirgate_binary
from prometheus import Metrics, scrape
from services import Service, device


async def answer(client, event, data=None):
    await client.send(json.dumps({"event": event, "request_id": "r", "data": data or {}}))
    return json.loads(await asyncio.wait_for(client.recv(), 20))


def flags(*routes):
    return [flag for route in routes for flag in ("--route", route)]


def by_service(numbers, name, **labels):
    """The value of a metric for each service."""
    services = {have["service"] for found, have, _ in numbers.samples if found == name}
    return {service: numbers.sum(name, service=service, **labels) for service in services}


def get(port, path):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=20) as answer:
        return answer.read().decode()


async def test_a_route_leads_where_the_three_of_the_contract_lead(start_weirgate, service):
    """The most specific counts; the body, its numbers and the answer are as of the three; the rest is unknown as ever."""
    orders = service(lambda asked: {"orders": asked["message"]["event"]})
    vip = service(lambda asked: (409, {"detail": "sold out"}))
    lobby = service(lambda asked: {"lobby": asked["message"]["event"]})
    weirgate = start_weirgate("events", *flags(f"orders.*={orders.url}/", f"orders.vip.*={vip.url}/base", f"carts.*={orders.url}", f"lobby.chat.say={orders.url}"),
                              env={"LOBBY_URL": lobby.url}).wait_ready()
    async with device(weirgate, "d1") as client:
        for event, name in [("orders.create", "orders"), ("orders.", "orders"), ("carts.add", "orders"), ("lobby.chat.say", "orders"),
                            ("lobby.chat", "lobby"), ("lobby.create", "lobby"), ("role.get", "lobby")]:
            assert (await answer(client, event, {"n": 1.5}))["data"] == {name: event}, event
        assert (await answer(client, "orders.vip.buy"))["error"] == {
            "code": "upstream_error", "message": "Upstream error (409): sold out", "details": None}
        for event in ["orders", "order.create", "Orders.create", "identify", "vip.x"]:
            assert (await answer(client, event))["error"] == {
                "code": "unknown_event", "message": f"Unknown event '{event}'", "details": None}
    first = orders.asked[0]
    assert first["client"].pop("connection_id") and first == {
        "client": {"device_id": "d1", "ip": "127.0.0.1"}, "message": {"event": "orders.create", "request_id": "r", "data": {"n": 1.5}}}
    calls = by_service(scrape(weirgate), "weirgate_upstream_calls_total", outcome="answered")
    # Two routes to one URL are one service.
    assert calls == {"orders.*": 4, "lobby": 3, "orders.vip.*": 0, "measurement": 0, "simulation": 0}
    assert [line for line in weirgate.lines_with("  Routes:") if f"orders.*={orders.url} orders.vip.*={vip.url}/base" in line]


async def test_a_service_of_a_route_that_is_away_is_named_everywhere_and_holds_up_nobody(start_weirgate, service):
    gone, admin = free_port(), free_port()
    lobby = service(lambda asked: {"ok": True})
    weirgate = start_weirgate("events", "--admin-addr", f"127.0.0.1:{admin}", *flags(f"orders.*=http://127.0.0.1:{gone}"),
                              env={"LOBBY_URL": lobby.url, "RATE_LIMIT_BURST": "1000"}).wait_for("/health")
    async with device(weirgate, "d1") as client:
        for _ in range(21):
            assert (await answer(client, "orders.get"))["error"]["message"] == "Upstream unreachable"
        assert (await answer(client, "lobby.get"))["error"] is None
        assert list(weirgate.health()["services_away"]) == ["orders.*"]
        numbers = Metrics(get(admin, "/metrics"))
        for name in ["weirgate_service_away", "weirgate_upstream_circuit_open"]:
            assert by_service(numbers, name) == {"lobby": 0, "measurement": 0, "simulation": 0, "orders.*": 1}
        assert numbers.sum("weirgate_upstream_calls_skipped_total", service="orders.*") >= 1
        assert {"name": "orders.*", "away": True} in json.loads(get(admin, "/operator/state"))["services"]
        assert json.loads(get(admin, "/ready"))["ready"]
        back = Service(lambda asked: {"ok": True}, port=gone)
        try:
            async with asyncio.timeout(20):
                while (await answer(client, "orders.get"))["error"]:
                    await asyncio.sleep(0.2)
        finally:
            back.stop()
    assert weirgate.health()["services_away"] == {}
    assert "orders.*" in weirgate.lines_with("a service answers again")[0]


def check(*argv, **env):
    ran = subprocess.run([weirgate_binary(), "events", *argv], env=env, text=True, capture_output=True)
    return ran.returncode, ran.stdout + ran.stderr


@pytest.mark.parametrize("routes, words", [
    (["orders.*=http://ann:s3cret@orders"], ["--route is \"***\"", "EVENTS=URL with http://HOST:PORT/PATH"]),
    (["orders.*=http://ann:p s3cret=x@orders"], ["--route is \"***\""]),
    (["orders.*=http://orders?key=s3cret"], ["--route is \"***\"", "without a user and a query"]),
    (["orders.*=orders:8000"], ["http://HOST:PORT/PATH", "after orders.*="]),
    (["http://ann:s3cret@orders"], ["EVENTS=URL"]),
    (["*=http://orders"], ["--route is \"*\"", "orders.*"]),
    (["gateway.*=http://orders"], ["nor gateway.*"]),
    (["lobby.*=http://orders"], ["--route is \"lobby.*\"", "these go to lobby"]),
    (["orders.*=http://a", "orders.*=http://b"], ["--route is \"orders.*\"", "these go to orders.*"]),
    ([f"r{n}=http://a" for n in range(33)], ["at most 32 routes"]),
])
def test_a_wrong_route_ends_the_start_without_its_secret(routes, words):
    status, text = check("--check", *flags(*routes))
    assert status == 2 and all(word in text for word in words), text
    assert "s3cret" not in text


def test_a_check_shows_and_asks_the_services_of_routes(service):
    urls = {name: service(lambda _: None).url for name in ("LOBBY_URL", "MEASUREMENT_URL", "SIMULATION_URL")}
    orders, away = service(lambda _: None).url, f"http://127.0.0.1:{free_port()}"
    env = {**urls, "INTERNAL_AUTH_TOKEN": "thirty-two bytes of a test secret"}
    status, text = check("--check", "--connect", *flags(f"orders.*={orders}"), **env)
    assert status == 0 and f"the service orders.* at {orders} answered 501" in text, text
    status, text = check("--check", "--connect", WEIRGATE_ROUTE=f"orders.*={orders} carts.*={away}/", **env)
    assert status == 1 and f"the service carts.* at {away} does not answer" in text, text
    assert f"orders.*={orders} carts.*={away}" in text, "the settings in force"
