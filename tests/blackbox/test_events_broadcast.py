"""`POST /internal/broadcast`: who may, how much, where; and that nobody's slowness is another's."""
import asyncio
import contextlib
import http.client
import json
import socket

import pytest
from clients import connect
from memory import memory_for
from processes import free_port
from prometheus import scrape
from services import TOKEN, device, push
from waiting import until

ENV = {"INTERNAL_AUTH_TOKEN": TOKEN}


def event(name, data):
    return {"type": "event", "event": name, "request_id": None, "data": data, "error": None}


async def received(client):
    return json.loads(await asyncio.wait_for(client.recv(), 20))


def head_only(port, *headers):
    """The status of a broadcast of which only the head is sent, and whether the connection then ends."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as link:
        lines = ["POST /internal/broadcast HTTP/1.1", "Host: a", *headers]
        link.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
        answer = http.client.HTTPResponse(link, method="POST")
        answer.begin()
        return answer.status, json.loads(answer.read())


async def test_the_token_comes_before_the_body(start_weirgate):
    weirgate = start_weirgate("events", env=ENV).wait_ready()
    # No byte of these bodies is ever sent: the answer cannot have waited for it.
    length = "Content-Length: 1000"
    for headers in [[length], [length, "X-Internal-Token: wrong"], [length, f"X-Internal-Token: {TOKEN}x"],
                    [length, f"X-Internal-Token: {TOKEN}", f"X-Internal-Token: {TOKEN}"]]:
        assert head_only(weirgate.port, *headers) == (403, {"detail": "Forbidden"}), headers
    without = start_weirgate("events").wait_ready()
    want = (500, {"detail": "INTERNAL_AUTH_TOKEN not configured"})
    assert head_only(without.port, length, f"X-Internal-Token: {TOKEN}") == want
    assert TOKEN not in weirgate.log() + without.log()


async def test_a_body_over_its_limit_is_refused(start_weirgate):
    # A broadcast has 3 % of the memory.
    weirgate = start_weirgate("events", "--memory-max", str(memory_for(67_108 * 30, 30)), env=ENV).wait_ready()
    announced = head_only(weirgate.port, f"Content-Length: {67_108 * 30 + 1}", f"X-Internal-Token: {TOKEN}")
    assert announced == (413, {"detail": "Content Too Large"})
    link = http.client.HTTPConnection("127.0.0.1", weirgate.port, timeout=20)
    # The answer may come, with the end of the connection, before everything is sent.
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        link.request("POST", "/internal/broadcast", iter([b"x" * 1_500_000] * 2), {"X-Internal-Token": TOKEN}, encode_chunked=True)
    assert link.getresponse().status == 413, "in chunks"
    assert push(weirgate, "e", {"x": "x" * 1_900_000}, "nobody") == (200, {"sent": 0})


async def test_bodies_that_are_not_finished_have_one_limit(start_weirgate):
    # All broadcasts have 4 % of the memory, one has 3 %.
    weirgate = start_weirgate("events", "--memory-max", str(memory_for(67_108 * 30, 30)), env=ENV).wait_ready()
    body = b'{"event":"e","data":{"x":"%s"},"targets":{}}' % (b"x" * 1_900_000)
    head = f"POST /internal/broadcast HTTP/1.1\r\nHost: a\r\nX-Internal-Token: {TOKEN}\r\nContent-Length: {len(body)}\r\n\r\n"
    with contextlib.ExitStack() as stack:
        links = [stack.enter_context(socket.create_connection(("127.0.0.1", weirgate.port), timeout=20)) for _ in range(20)]
        for link in links:
            # The response may come before everything is sent.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                link.sendall(head.encode() + body[:-1])

        def held():
            return scrape(weirgate).sum("weirgate_held", of="broadcast_bytes")
        await until(lambda: 0 < held() <= 67_108 * 40, 20, "the sum of the bodies is under its limit")

        def gave_way():
            return scrape(weirgate).sum("weirgate_held_gave_way_total", of="broadcast_bytes")
        await until(lambda: gave_way() >= 18, 20, "as many bodies as are over the limit give way")
        answer = http.client.HTTPResponse(links[0], method="POST")
        answer.begin()
        assert (answer.status, answer.getheader("Retry-After")) == (503, "1")
        assert push(weirgate, "e", {"x": "x" * 1_900_000}, "nobody") == (200, {"sent": 0})
    await until(lambda: held() == 0, 20, "nothing is held")


async def test_what_is_wrong_is_named(start_weirgate):
    weirgate = start_weirgate("events", env=ENV).wait_ready()
    status, answer = push(weirgate, "", None, 5)
    assert status == 422
    assert [wrong["loc"] for wrong in answer["detail"]] == [["body", "event"], ["body", "data"],
                                                           ["body", "targets", "device_ids", 0]]
    assert all(wrong["msg"] for wrong in answer["detail"])


@pytest.mark.parametrize("path", ["/internal/broadcast", "/metrics", "/stats"])
async def test_an_admin_address_has_it_and_the_public_port_does_not(start_weirgate, path):
    admin = free_port()
    weirgate = start_weirgate("events", "--admin-addr", f"127.0.0.1:{admin}", env=ENV)
    await until(lambda: weirgate.get("/healthz")[0] == 200, 20, "the start")
    assert weirgate.get(path)[0] == 404
    async with device(weirgate, "a") as client:
        assert push(weirgate, "e", {}, "a")[0] == 404
        assert push(weirgate, "e", {"n": 1}, "a", port=admin) == (200, {"sent": 1})
        assert await received(client) == event("e", {"n": 1})


async def test_a_device_that_does_not_read_delays_nobody(start_weirgate):
    weirgate = start_weirgate("events", env=ENV).wait_ready()
    stuck = await connect(weirgate.port, receive_bytes=4096, path="/ws?device_id=a")
    stuck.stop_reading()
    async with device(weirgate, "a") as client, device(weirgate, "b") as other:
        for n in range(200):
            answer = await asyncio.to_thread(push, weirgate, "e", {"n": n, "x": "x" * 20_000}, "a", "b", "b")
            assert answer[0] == 200
            assert (await received(client))["data"]["n"] == n
            assert [(await received(other))["data"]["n"] for _ in range(2)] == [n, n]
    await until(lambda: scrape(weirgate).sum("weirgate_client_closes_total", reason="send_queue_hard") == 1, 20,
                "the end of who does not read")


async def test_one_event_larger_than_a_send_queue_arrives(start_weirgate):
    weirgate = start_weirgate("events", env=ENV).wait_ready()
    large = {"x": "é" * 6_000_000}
    async with device(weirgate, "a", compression=None) as client:
        assert await asyncio.to_thread(push, weirgate, "large", large, "a") == (200, {"sent": 1})
        assert await received(client) == event("large", large)


async def test_the_order_of_broadcasts_is_kept(start_weirgate):
    weirgate = start_weirgate("events", env=ENV).wait_ready()
    async with device(weirgate, "a") as one, device(weirgate, "a") as two:
        for n in range(50):
            assert push(weirgate, "e", {"n": n}, "a") == (200, {"sent": 2})
        for client in [one, two]:
            assert [(await received(client))["data"]["n"] for _ in range(50)] == list(range(50))
    await until(lambda: scrape(weirgate).sum("weirgate_pushes_total") == 50, 10, "weirgate_pushes_total")
