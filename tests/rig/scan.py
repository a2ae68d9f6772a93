"""What people read of a gateway has no secret, and nothing that steers a terminal or forges a line, whoever writes what.

Makes gateways of all kinds with settings at random, secrets marked in all of them, puts hostile texts and more secrets
wherever strangers may write, and looks at all log lines (text and JSON), errors of wrong settings, --check in its three
formats, pages and metrics of the admin address, `top`, `tail` and `token inspect`.

Log lines are limited by the second, so the time of the gateways goes faster (clock.py).
"""
import asyncio
import os
import pathlib
import random
import re
import subprocess
import tempfile
import time

import nats as nats_client
import redis.asyncio as redis_client
from clock import Clock
from marks import OF_LOGS, Findings, hostile, secret
from processes import NatsServer, RedisServer, Weirgate, weirgate_binary
from scan_settings import GATEWAYS, good, token, wrong
from strangers import Service, publish, visit
from terminal import Terminal

STRANGERS, PUBLISHERS = 8, 2
# At the pages, while strangers come.
LOOKS = 5
PAGES = ["/metrics", "/stats", "/health", "/ready", "/operator/", "/operator/state", "/nothing"]
# So many times as fast time goes: budgets of lines fill up, and deadlines come early.
TIMES = [10, 20]
A_RUN_S = 30
TEXT_LINE = re.compile(rb"\d{4}-\d\d-\d\dT\S+Z +(?:TRACE|DEBUG|INFO|WARN|ERROR) ")


class Scan:
    """The servers that all gateways share, and what was found so far."""

    def __init__(self, folder, seed):
        self.folder, self.rng = pathlib.Path(folder), random.Random(seed)
        self.redis, self.nats = RedisServer(), NatsServer()
        self.redis.client().execute_command("ACL", "SETUSER", "ann", "on", "nopass", "~*", "&*", "+@all")
        self.findings, self.services, self.urls = Findings(), [], []

    async def start(self):
        """Services, and connections to the buses."""
        for _ in range(3):
            self.services.append(Service(self.rng))
            self.urls.append(await self.services[-1].start())
        self.to_redis = redis_client.Redis(port=self.redis.port)
        self.to_nats = await nats_client.connect(self.nats.url)
        streams = self.to_nats.jetstream()
        for name, subject in [("LEVEL_SIGNALS", "levels.*"), ("MARKET_DATA", "market.*")]:
            await streams.add_stream(name=name, subjects=[subject], max_msgs=1000)

    async def stop(self):
        """Ends all that was started."""
        await self.to_nats.close()
        await self.to_redis.aclose()
        for server in [self.redis, self.nats]:
            server.discard()

    def run(self, where, *args, env=None, data=None, terminal=False):
        """Runs a command of weirgate to its end, perhaps in a terminal without colours, and looks at all that it says."""
        shown = Terminal() if terminal else None
        done = subprocess.run([weirgate_binary(), *args], env={**os.environ, "NO_COLOR": "1", **(env or {})}, input=data, timeout=A_RUN_S, check=False,
                              stdout=shown.slave if shown else subprocess.PIPE, stderr=subprocess.STDOUT)
        self.findings.look(where, shown.end().encode() if shown else done.stdout)

    async def settings(self, gateway, lines, seconds):
        """One set of settings: checks, wrong ones, and a gateway that serves strangers until it has written so many lines."""
        folder = pathlib.Path(tempfile.mkdtemp(dir=self.folder))
        world = good(self.rng, gateway, folder, self.redis, self.nats, self.urls)
        for form in ["text", "json", "env"]:
            more = self.rng.choice([[], ["--all"], ["--connect", "--connect-timeout-ms", "300"]])
            await asyncio.to_thread(self.run, f"{gateway} --check {form} {more}", gateway, *world.flags, "--check", "--format", form, *more, env=world.env)
        bad = {**world.env, **wrong(self.rng, world, folder)}
        for more in [["--check", "--format", self.rng.choice(["text", "json", "env"])], []]:
            flags = ["--log-format", world.log_format, "--drain-ms", "0"]
            await asyncio.to_thread(self.wrong_start, f"{gateway} with wrong settings {more}", [gateway, *flags, *more], bad)
        clock = Clock(folder, self.rng.choice(TIMES))
        weirgate = Weirgate(gateway, *world.flags, env={**world.env, **clock.env})
        try:
            await self.serve(world, weirgate, lines, seconds)
        finally:
            weirgate.kill()
            self.look_at_log(world, weirgate.log_path.read_bytes())
            weirgate.discard()

    def wrong_start(self, where, args, env):
        """A start that ends with an error, or waits for its bus: it is ended then."""
        with subprocess.Popen([weirgate_binary(), *args, "--port", "0"], env={**os.environ, **env}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as started:
            try:
                said, _ = started.communicate(timeout=0.7)
            except subprocess.TimeoutExpired:
                started.kill()
                said, _ = started.communicate()
        self.findings.look(where, said, OF_LOGS)

    async def serve(self, world, weirgate, lines, seconds):
        """Strangers at a gateway, and the pages and commands that show them."""
        world.port, weirgate.http_url = weirgate.port, f"http://127.0.0.1:{world.admin_port}"
        await asyncio.to_thread(weirgate.wait_for, "/health")
        end, log = time.monotonic() + seconds, weirgate.log_path
        going = lambda: time.monotonic() < end and weirgate.alive() and not self.is_enough(log, lines)

        async def again(act, *args):
            while going():
                await act(self.rng, world, *args)

        visits = [again(visit) for _ in range(STRANGERS)] + [again(publish, self.to_redis, self.to_nats) for _ in range(PUBLISHERS)]
        await asyncio.gather(*visits, self.read(world, weirgate, seconds))
        # The machine is slow, and the time fast.
        if not weirgate.alive() and "the loop hangs in a turn" not in weirgate.log():
            self.findings.faults.append((world.gateway, "ended", weirgate.log_tail()))

    def is_enough(self, log, lines):
        """Whether the log has so many lines; by its size, mostly."""
        size = log.stat().st_size
        return size > 100 * lines and log.read_bytes().count(b"\n") >= lines

    async def read(self, world, weirgate, seconds):
        """The pages of the admin address, and commands at the gateway, while strangers come."""
        for _ in range(LOOKS):
            for path in PAGES:
                status, _, body = await asyncio.to_thread(weirgate.get, path)
                self.findings.look(f"{world.gateway} {path} {status}", body.encode())
            await asyncio.sleep(seconds / LOOKS / 2)
        seen = f"{world.gateway} seen by"
        shown = token(self.rng, world.jwt_secret or secret(self.rng), sub=hostile(self.rng), role=hostile(self.rng), **{hostile(self.rng): hostile(self.rng)})
        inspected = {name: value for name, value in world.env.items() if name.startswith(("JWT_SECRET", "GATEWAY"))}
        await asyncio.to_thread(self.run, f"{seen} token inspect", "token", "inspect", "--gateway", "channels", env=inspected, data=shown.encode(), terminal=True)
        await asyncio.to_thread(self.run, f"{seen} top", "top", "--once", f"127.0.0.1:{world.admin_port}", terminal=True)
        name = {"channels": "scan:*" if world.bus == "redis" else "scan.>", "trades": "ABC", "events": "d1"}.get(world.gateway)
        subscribed = ["--subscribe", name] if name else []
        login = {"WEIRGATE_TOKEN": token(self.rng, world.jwt_secret, role="admin", sub="a")} if world.jwt_secret else {}
        await asyncio.to_thread(self.run, f"{seen} tail", "tail", f"ws://127.0.0.1:{world.port}{world.path}", "--count", "3", "--timeout-s", "1", *subscribed, env=login, terminal=True)

    def look_at_log(self, world, log):
        """All lines: each is one of weirgate's own, in one piece."""
        self.findings.look(f"{world.gateway} log {world.log_format}", log, OF_LOGS)
        lines = log.splitlines() if world.log_format == "json" else []
        for line in lines:
            if not (line.startswith(b"{") and line.endswith(b"}")):
                self.findings.faults.append((world.gateway, "no line of JSON", line[:200]))
                break


async def scan(settings, lines, seconds, seed, gateways=GATEWAYS):
    """Runs all settings; what was looked at and found."""
    with tempfile.TemporaryDirectory(prefix="weirgate-scan-") as folder:
        world = Scan(folder, seed)
        try:
            await world.start()
            for number in range(settings):
                await world.settings(gateways[number % len(gateways)], lines // settings, seconds)
        finally:
            await world.stop()
        return world.findings
