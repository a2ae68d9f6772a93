"""Clients from which weirgate does not read for a while: they keep nothing once they have gone, and starve nobody."""
import asyncio
import json
import socket
import struct
import threading
import time

import pytest
from clients import PING, TEXT, client_frame, upgrade_request
from memory import PROGRAM
from prometheus import scrape
from services import device
from waiting import until

PATHS = {"levels": "/ws/stream", "trades": "/", "channels": "/ws", "events": "/ws?device_id=d"}
MIB = 1024 * 1024


def paused(weirgate, reason):
    return scrape(weirgate).sum("weirgate_clients_paused", reason=reason)


def raw_client(weirgate, path):
    """A socket behind its 101 that takes few bytes at once."""
    link = socket.socket()
    link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    link.settimeout(20)
    link.connect(("127.0.0.1", weirgate.port))
    link.sendall(upgrade_request(weirgate.port, path))
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += link.recv(1)
    assert head.startswith(b"HTTP/1.1 101"), head
    return link


def end(link, how):
    """`half`: the client ends its side and stays; `reset`: nothing is left of it."""
    if how == "half":
        link.shutdown(socket.SHUT_WR)
    else:
        link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        link.close()


async def gone(weirgate, descriptors):
    """Far below every deadline of weirgate: what takes longer was not seen."""
    await until(lambda: scrape(weirgate).sum("weirgate_connections", phase="open") == 0, 5, "its session")
    await until(lambda: scrape(weirgate).sum("process_open_fds") <= descriptors, 5, "its descriptor")
    await until(lambda: scrape(weirgate).sum("weirgate_clients_paused") == 0, 10, "weirgate_clients_paused")


@pytest.mark.parametrize("how", ["half", "reset"])
@pytest.mark.parametrize("gateway", PATHS)
async def test_a_client_that_goes_while_its_pongs_wait_keeps_nothing(gateway, how, start_weirgate, request):
    servers = {"levels": {"nats": "nats"}, "trades": {"redis": "redis_server"}, "channels": {"redis": "redis_server"}}
    kwargs = {name: request.getfixturevalue(fixture) for name, fixture in servers.get(gateway, {}).items()}
    weirgate = start_weirgate(gateway, **kwargs).wait_ready()
    descriptors = scrape(weirgate).sum("process_open_fds")
    link = raw_client(weirgate, PATHS[gateway])
    # More than weirgate and the kernel take of the pongs, and less than the window of a receiver: the end arrives.
    link.sendall(client_frame(PING, b"x" * 125) * 450)
    await until(lambda: paused(weirgate, "pongs") == 1, 20, "a client that is not read")
    end(link, how)
    await gone(weirgate, descriptors)
    await until(lambda: scrape(weirgate).sum("weirgate_clients_ended_unread_total") == 1, 10, "weirgate_clients_ended_unread_total")
    link.close()


@pytest.mark.parametrize("how", ["half", "reset"])
async def test_a_device_that_goes_with_too_many_messages_keeps_nothing(how, start_weirgate, service):
    release = threading.Event()
    lobby = service(lambda asked: release.wait(60))
    env = {"LOBBY_URL": lobby.url, "HTTP_TIMEOUT_SECONDS": "60", "RATE_LIMIT_BURST": "1000"}
    weirgate = start_weirgate("events", env=env).wait_ready()
    descriptors = scrape(weirgate).sum("process_open_fds")
    link = raw_client(weirgate, PATHS["events"])
    link.sendall(b"".join(client_frame(TEXT, b'{"event":"lobby.%d"}' % n) for n in range(100)))
    await until(lambda: paused(weirgate, "unanswered") == 1, 20, "a device that is not read")
    end(link, how)
    # Beside the connection to the service.
    await gone(weirgate, descriptors + 1)
    release.set()
    forwarded = [f"lobby.{n}" for n in range(100 if how == "half" else 65)]
    await until(lambda: lobby.events() == forwarded, 20, "what was sent before the end")
    link.close()


async def test_devices_over_the_limit_wait_and_keep_nothing_once_they_have_gone(start_weirgate, service):
    """One address fills its room with messages for a service that hangs; a device of another address does not notice."""
    release = threading.Event()
    lobby = service(lambda asked: release.wait(60))
    simulation = service(lambda asked: asked["message"]["data"])
    env = {"LOBBY_URL": lobby.url, "SIMULATION_URL": simulation.url, "HTTP_TIMEOUT_SECONDS": "60"}
    weirgate = start_weirgate("events", "--memory-max", str(64 * MIB + PROGRAM), env=env).wait_ready()
    room = 64 * MIB // 1000 * 30 / 2
    devices = [await device(weirgate, f"d{n}") for n in range(60)]
    text = json.dumps({"event": "lobby.x", "data": {"x": "y" * 60_000}})
    for one in devices:
        await one.send(text)
    await until(lambda: paused(weirgate, "room") > 40, 20, "devices without room")
    began, turns = time.monotonic(), scrape(weirgate).sum("weirgate_loop_turns_total")
    await asyncio.sleep(1)
    turns = scrape(weirgate).sum("weirgate_loop_turns_total") - turns
    assert turns < 50 * (time.monotonic() - began), "the loop turns for devices that it may not read"
    assert room - 60_100 < scrape(weirgate).sum("weirgate_event_waiting_bytes") < room + 60_100
    async with device(weirgate, "other", local_addr=("127.0.0.2", 0)) as other:
        for n in range(20):
            await other.send(json.dumps({"event": "simulation.run", "data": {"n": n, "x": "y" * 60_000}}))
            assert json.loads(await asyncio.wait_for(other.recv(), 20))["data"]["n"] == n
    assert scrape(weirgate).sum("weirgate_event_waiting_bytes") < room + 60_100
    descriptors = scrape(weirgate).sum("process_open_fds")
    for one in devices:
        one.transport.abort()
    await gone(weirgate, descriptors - len(devices))
    await until(lambda: scrape(weirgate).sum("weirgate_clients_ended_unread_total") >= 40, 10, "weirgate_clients_ended_unread_total")
    release.set()
    await until(lambda: scrape(weirgate).sum("weirgate_event_waiting_bytes") == 0, 20, "answers to what was taken")
    assert 16 <= len(lobby.asked) + scrape(weirgate).sum("weirgate_messages_forgotten_total") <= 20

@pytest.mark.parametrize("gateway", PATHS)
async def test_a_client_in_the_middle_of_a_message_is_not_silent(gateway, start_weirgate, request):
    """1,500 B/s against a pong within four seconds: the pong stands behind the message."""
    servers = {"levels": {"nats": "nats"}, "trades": {"redis": "redis_server"}, "channels": {"redis": "redis_server"}}
    kwargs = {name: request.getfixturevalue(fixture) for name, fixture in servers.get(gateway, {}).items()}
    weirgate = start_weirgate(gateway, "--ping-interval-ms", "2000", "--pong-timeout-ms", "4000", **kwargs).wait_ready()
    link = raw_client(weirgate, PATHS[gateway])
    message = client_frame(TEXT, b"x" * 12_000)
    for at in range(0, len(message) - 1_500, 1_500):
        link.sendall(message[at : at + 1_500])
        await asyncio.sleep(1)
    assert scrape(weirgate).sum("weirgate_client_closes_total") == 0
    await until(lambda: scrape(weirgate).sum("weirgate_client_closes_total", reason="pong_timeout") == 1, 10, "silence in the middle")
    link.close()
