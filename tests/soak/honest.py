"""Honest clients of a gateway in a process of their own: they ask, read everything, and note how long they wait."""
import asyncio
import contextlib
import json
import multiprocessing
import os
import time

import clients
from clients import CLOSE, PING, PONG, TEXT, client_frame

# Seconds between two questions of a client.
ASKS_EACH_S = 4
SOURCE = "127.0.0.10"


class Honest(clients.Client):
    """A client that asks by pings, or a device by requests; data with a time `t` count too."""

    def __init__(self, *args):
        super().__init__(*args)
        self.asked_at, self.worst, self.answers = None, 0.0, 0

    def ask(self, by_request):
        now = time.monotonic()
        if self.asked_at is not None:
            # The last question has no answer yet.
            self.note(now - self.asked_at)
            return
        self.asked_at = now
        if by_request:
            self.say({"event": "lobby.quick", "request_id": "1"})
        else:
            self.transport.write(client_frame(PING, b"t"))

    def note(self, waited):
        self.worst = max(self.worst, waited)

    def take(self, opcode, payload):
        if opcode == PING:
            self.transport.write(client_frame(PONG, payload))
        elif opcode == CLOSE:
            self.close_code = int.from_bytes(payload[:2], "big")
        elif opcode == PONG or opcode == TEXT and b'"request_id":"1"' in payload:
            self.answered()
        elif opcode == TEXT:
            self.messages += 1
            # The time at which the feed sent it stands in the price of a trade and in the data of a channel.
            _, found, rest = payload.partition(b'"price":')
            if found and (sent := float(rest.partition(b",")[0].partition(b"}")[0])) > 1e9:
                self.note(time.time() - sent)
            if b'"type":"error"' in payload:
                self.answers -= 1

    def answered(self):
        if self.asked_at is not None:
            self.note(time.monotonic() - self.asked_at)
            self.asked_at, self.answers = None, self.answers + 1


async def enter(at, n, source=SOURCE):
    """A client that is subscribed."""
    client = await clients.connect(at.port, path=at.path.format(n), make=Honest, source=source)
    if at.subscribe:
        client.transport.write(client_frame(TEXT, at.subscribe))
    return client


async def newcomers(at, over, figures):
    """Every half second somebody new comes, asks, has an answer and goes."""
    n = 0
    while not over.is_set():
        n += 1
        began = time.monotonic()
        try:
            async with asyncio.timeout(10):
                client = await enter(at, f"new{n}", "127.0.0.11")
                client.ask(at.by_request)
                await client.wait_for(lambda c: c.answers > 0, 10, "an answer")
                client.abort()
            figures["new ms"] = max(figures["new ms"], 1e3 * (time.monotonic() - began))
        except (OSError, AssertionError, TimeoutError) as error:
            figures["refused"] += 1
            if os.environ.get("SHOW"):
                print(f"at_once: somebody new: {error!r}"[:300], flush=True)
        await asyncio.sleep(0.5)


async def live(at, count, pipe):
    crowd = []
    while len(crowd) < count:
        crowd += await asyncio.gather(*(enter(at, len(crowd) + k) for k in range(min(50, count - len(crowd)))))
    pipe.send("connected")
    await asyncio.to_thread(pipe.recv)
    figures, over = {"refused": 0, "new ms": 0.0}, asyncio.Event()
    new = asyncio.create_task(newcomers(at, over, figures))
    stop = asyncio.create_task(asyncio.to_thread(pipe.recv))
    for client in crowd:
        client.worst = 0.0
    own_late, turn = 0.0, 0
    step = ASKS_EACH_S / count
    due = time.monotonic()
    while not stop.done():
        crowd[turn % count].ask(at.by_request)
        turn += 1
        due += step
        late = time.monotonic() - due
        own_late = max(own_late, late)
        if late < 0:
            await asyncio.sleep(-late)
        elif turn % 20 == 0:
            await asyncio.sleep(0)
        if late > 1:
            due = time.monotonic()
    over.set()
    with contextlib.suppress(asyncio.CancelledError):
        await new
    lates = sorted(1e3 * client.worst for client in crowd)
    pipe.send({"dropped": sum(not client.open for client in crowd), "late ms": lates[-1], "late p50 ms": lates[len(lates) // 2],
               "answers": sum(client.answers for client in crowd), "messages": sum(client.messages for client in crowd),
               "own ms": 1e3 * own_late, **figures})


def work(at, count, pipe, is_first):
    if is_first:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    else:
        os.nice(5)
    asyncio.run(live(at, count, pipe))


class Crowd:
    """The process of the honest clients."""

    def __init__(self, at, count, is_first=False):
        self.pipe, theirs = multiprocessing.Pipe()
        self.process = multiprocessing.Process(target=work, args=(at, count, theirs, is_first), daemon=True)
        self.process.start()

    def wait_connected(self):
        assert self.pipe.poll(60) and self.pipe.recv() == "connected"

    def begin(self):
        self.pipe.send("begin")

    def end(self):
        """What they noticed."""
        self.pipe.send("end")
        assert self.pipe.poll(60), "the honest clients do not come back"
        return self.pipe.recv()

    def kill(self):
        self.process.kill()
