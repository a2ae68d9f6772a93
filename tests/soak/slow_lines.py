#!/usr/bin/env python3
"""Clients on slow lines stay: 20 kB/s behind 600 KiB of queue, and messages of 60 kB at 1,500 B/s upwards.

    slow_lines.py [--seconds 300] [--only WORD]

Each gateway direct, over TLS, and behind nginx, HAProxy, Caddy, Apache and Varnish with the files of deploy/. Exit status 1 if a client was cut,
if nothing came for longer than the queue of its line lasts, or if a state of levels was over 5 s old in the second half.
"""
import argparse
import asyncio
import contextlib
import dataclasses
import http.client
import json
import pathlib
import re
import socket
import sys
import tempfile
import time

sys.path[:0] = [str(pathlib.Path(__file__).resolve().parents[1] / "rig")]

import measured
import websockets
from processes import RedisServer, Weirgate, free_port
from proxies import Apache, Caddy, Haproxy, Nginx, Varnish
from prometheus import scrape
from services import TOKEN, push
from tls import Authority
from waiting import until

QUEUE_BYTES = 600 * 1024
DOWN_BYTES_PER_S = 20_000
UP_BYTES_PER_S = 1_500
UP_MESSAGE_BYTES = 60_000
# A little less than the line takes, so that the queue stays.
FEED_BYTES_PER_S = 19_000
MESSAGE_BYTES = 1_000
SILENCE_MAX_S = 10
AGE_MAX_S = 5
PATHS = {"levels": "/ws/stream", "trades": "/", "channels": "/ws", "events": "/ws?device_id=%s"}
ROUTES = {"direct": None, "TLS": None, "nginx": Nginx, "HAProxy": Haproxy, "Caddy": Caddy, "Apache": Apache, "Varnish": Varnish}
SUBSCRIBE = {"trades": {"action": "subscribe", "symbols": ["A"]}, "channels": {"action": "subscribe", "channels": ["market:tick:A"]}}


class SlowLine:
    """A relay whose client gets so many bytes a second from a long queue, and sends so many."""

    def __init__(self, to_port, down_bytes_per_s=None, up_bytes_per_s=None):
        self.to_port, self.rates, self.port = to_port, {"down": down_bytes_per_s, "up": up_bytes_per_s}, None
        self.queued_bytes_max = 0

    async def listen(self):
        server = await asyncio.start_server(self._take, "127.0.0.1", 0, limit=4_096)
        self.port = server.sockets[0].getsockname()[1]
        return server

    async def _take(self, reader, writer):
        # No other queue than that of the line: the kernel would keep megabytes.
        link = socket.socket()
        link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_384)
        # Not the address of a trusted proxy.
        link.bind(("127.0.0.5", 0))
        link.setblocking(False)
        await asyncio.get_running_loop().sock_connect(link, ("127.0.0.1", self.to_port))
        there, far = await asyncio.open_connection(sock=link, limit=4_096)
        with contextlib.suppress(OSError, ExceptionGroup, asyncio.CancelledError):
            await asyncio.gather(self._forward(there, writer, "down"), self._forward(reader, far, "up"))
        for one in (writer, far):
            one.close()

    async def _forward(self, reader, writer, way):
        rate, queue, queued = self.rates[way], asyncio.Queue(), [0]
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._drain(queue, queued, writer, rate))
            while data := await reader.read(4_096):
                queue.put_nowait(data)
                queued[0] += len(data)
                self.queued_bytes_max = max(self.queued_bytes_max, queued[0])
                # Upwards the queue is in the client's own socket.
                while rate and queued[0] > (QUEUE_BYTES if way == "down" else 0):
                    await asyncio.sleep(0.02)
            queue.put_nowait(None)

    async def _drain(self, queue, queued, writer, rate):
        due = time.monotonic()
        while data := await queue.get():
            writer.write(data)
            await writer.drain()
            queued[0] -= len(data)
            if rate:
                due = max(due, time.monotonic() - 0.2) + len(data) / rate
                await asyncio.sleep(max(0.0, due - time.monotonic()))
        writer.close()


@dataclasses.dataclass
class Stay:
    """A client and what became of it."""
    gateway: str
    route: str
    way: str
    line: SlowLine
    bytes: int = 0
    messages: int = 0
    silence_s: float = 0.0
    oldest_s: float = 0.0
    lived_s: float = 0.0
    end: str = ""


async def stay(one, context, seconds):
    """Reads, and answers pings, until the time is over or the client is cut."""
    scheme, tls = ("wss", {"ssl": context, "server_hostname": "localhost"}) if one.route == "TLS" else ("ws", {})
    url = f"{scheme}://127.0.0.1:{one.line.port}{PATHS[one.gateway].replace('%s', one.route)}"
    begin = heard_at = time.monotonic()
    sending = None
    # One that the line takes at its pace: the library must not wait for a pong itself.
    async with websockets.connect(url, compression=None, ping_interval=None, max_size=None, open_timeout=60, close_timeout=1, **tls) as client:
        if one.gateway in SUBSCRIBE:
            await client.send(json.dumps(SUBSCRIBE[one.gateway]))
        if one.way == "up":
            sending = asyncio.create_task(send_up(one, client))
        try:
            while (left := begin + seconds - time.monotonic()) > 0:
                with contextlib.suppress(TimeoutError):
                    message = await asyncio.wait_for(client.recv(), left)
                    one.silence_s = max(one.silence_s, time.monotonic() - heard_at)
                    heard_at = time.monotonic()
                    if one.gateway == "levels" and time.monotonic() - begin > seconds / 2:
                        one.oldest_s = max(one.oldest_s, age_s(message))
                    if one.way == "down":
                        one.bytes, one.messages = one.bytes + len(message), one.messages + 1
        except websockets.ConnectionClosed as error:
            one.end = str(error)
        one.lived_s = time.monotonic() - begin
        if sending:
            sending.cancel()
        client.transport.abort()


def age_s(message):
    """How old a state of the demo is."""
    return time.time() - int(re.search(r'"ts":(\d+)', message)[1]) / 1000


async def send_up(one, client):
    """A message after the other, each as soon as the one before has left the library."""
    message = json.dumps({"action": "ping", "event": "ping", "fill": "x" * (UP_MESSAGE_BYTES - 60)})
    with contextlib.suppress(websockets.ConnectionClosed):
        while True:
            await client.send(message)
            one.bytes, one.messages = one.bytes + len(message), one.messages + 1
            await asyncio.sleep(UP_MESSAGE_BYTES / UP_BYTES_PER_S)


async def feed(redis, events):
    """As much at once as the queue of a line holds, then what the line takes."""
    fill = "x" * MESSAGE_BYTES
    trade, tick = json.dumps({"price": 1.5, "exchange": fill}), json.dumps(fill)

    async def publish(count):
        for _ in range(count):
            redis.publish("channel:trade:A", trade)
            redis.publish("market:tick:A", tick)
        for _ in range(count // 10):
            await asyncio.to_thread(push, events, "e", {"fill": fill * 10}, *ROUTES)
    await publish(QUEUE_BYTES // MESSAGE_BYTES)
    while True:
        await publish(20)
        await asyncio.sleep(20 * (MESSAGE_BYTES + 150) / FEED_BYTES_PER_S)


def start(stack, authority, redis):
    """The gateways by name, each with TLS too."""
    certificate, key = authority.sign("local", "IP:127.0.0.1", "DNS:localhost")

    def one(gateway, *flags, **more):
        port = free_port()
        tls = ("--tls-port", str(port), "--tls-cert", str(certificate), "--tls-key", str(key))
        weirgate = Weirgate(gateway, "--trusted-proxies", "127.0.0.1", *flags, *tls, **more)
        stack.callback(weirgate.discard)
        weirgate.tls_port = port
        return weirgate.wait_ready()
    # `demo` is levels with a market of its own: 60 kB/s, of which the client of a slow line gets the newest.
    return {"levels": one("demo", "--rate-hz", "20"), "trades": one("trades", redis=redis), "channels": one("channels", redis=redis),
            "events": one("events", env={"INTERNAL_AUTH_TOKEN": TOKEN})}


async def run(seconds, only):
    with contextlib.ExitStack() as stack:
        folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
        redis = RedisServer()
        stack.callback(redis.discard)
        authority = Authority(folder)
        gateways, context, stays = start(stack, authority, redis), authority.context(), []
        for (gateway, weirgate), (route, proxy) in ((g, r) for g in gateways.items() for r in ROUTES.items()):
            if only and not any(word in (gateway, route) for word in only):
                continue
            port = weirgate.tls_port if route == "TLS" else weirgate.port
            if proxy:
                stack.callback((made := proxy(weirgate.port)).discard)
                await until(lambda port=made.port: answers(port), 20, f"{route} serves")
                port = made.port
            for way, rates in (("down", {"down_bytes_per_s": DOWN_BYTES_PER_S}), ("up", {"up_bytes_per_s": UP_BYTES_PER_S})):
                stays.append(Stay(gateway, route, way, SlowLine(port, **rates)))
        for one in stays:
            await one.line.listen()
        feeding = asyncio.create_task(feed(redis.client(), gateways["events"]))
        done = await asyncio.gather(*(stay(one, context, seconds) for one in stays), return_exceptions=True)
        feeding.cancel()
        for one, how in zip(stays, done):
            one.end = one.end or (repr(how) if how else "")
        return report(stays, {name: closes_of(weirgate) for name, weirgate in gateways.items()}, seconds)


def closes_of(weirgate):
    """Reasons of the gateway's own closes, with their counts."""
    return {labels["reason"]: int(n) for name, labels, n in scrape(weirgate).samples if name == "weirgate_client_closes_total" and n}


def answers(port):
    link = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        link.request("GET", "/health")
        return link.getresponse().status == 200
    except OSError:
        return False
    finally:
        link.close()


def report(stays, closes, seconds):
    faults = 0
    print(f"{'gateway':9} {'route':8} {'way':5} {'stayed':>8} {'messages':>9} {'kB':>8} {'queue KiB':>10} {'silence s':>10} {'oldest s':>9}")
    for one in stays:
        wrong = one.end or ("silent" if one.way == "down" and (one.silence_s > SILENCE_MAX_S or not one.messages) else "")
        wrong = wrong or ("old" if one.oldest_s > AGE_MAX_S else "")
        faults += bool(wrong)
        print(f"{one.gateway:9} {one.route:8} {one.way:5} {one.lived_s:7.0f}s {one.messages:9} {one.bytes / 1000:8.0f} "
              f"{one.line.queued_bytes_max / 1024:10.0f} {one.silence_s:10.1f} {one.oldest_s:9.1f}  {wrong}")
    print(f"{faults} of {len(stays)} clients were cut, silent or had old states within {seconds} s; closes: {closes}")
    return faults


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--only", nargs="*", help="gateways or routes")
    return parser


def main(args):
    return 1 if asyncio.run(run(args.seconds, args.only)) else 0


if __name__ == "__main__":
    measured.run(arguments(), main)
