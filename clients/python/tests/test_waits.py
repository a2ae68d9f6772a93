"""Waits that a program gives up, at every step: a cancelled or timed-out wait takes nothing and ends nothing. Seeded schedules on
the real asyncio clients, with a network of a few lines and a clock that the test moves. CLIENT_SCHEDULES=10000 for the long form."""
import asyncio
import json
import os
import random
from collections import deque

import pytest
import weirgate

SCHEDULES, STEPS = int(os.environ.get("CLIENT_SCHEDULES", "300")), 80


class Loop(asyncio.SelectorEventLoop):
    """An event loop that turns when the test says so, on the clock of the test."""

    now_s = 1000.0

    def time(self):
        return self.now_s

    def turn(self, times=1):
        for _ in range(times):
            self.call_soon(self.stop)
            self.run_forever()


class Link:
    """A connection in the shape of that of websockets; the test is the server."""

    close_code = close_reason = None

    def __init__(self, sends_pongs):
        self.sent, self.waiting, self.woken = deque(), deque(), None
        self.transport = self

    def abort(self):
        self.close_code = self.close_code or 1006
        self.put(None)

    def put(self, message):
        self.waiting.append(message)
        if self.woken and not self.woken.done():
            self.woken.set_result(None)

    async def __aiter__(self):
        while True:
            while not self.waiting:
                self.woken = asyncio.get_running_loop().create_future()
                await self.woken
            if (message := self.waiting.popleft()) is None:
                return
            yield json.dumps(message)

    async def send(self, text):
        self.sent.append(json.loads(text))

    async def close(self, code=1000, reason=""):
        await asyncio.sleep(0.01)
        self.abort()


def over(network, client_type):
    """`client_type` over the test's network."""
    class Client(client_type):
        async def _dial(self, url, token):
            await asyncio.sleep(0)
            if not network.is_up:
                raise OSError("away")
            network.link = Link(network)
            return network.link

    return Client


class Network:
    is_up = True
    link = None


class Wait:
    """Something that the program awaits, again and again, until it has succeeded; `make` makes the awaitable, `take` its result."""

    def __init__(self, loop, make, take=None):
        self.loop, self.make, self.take, self.task = loop, make, take, None

    def begin(self, timeout_s=None):
        async def wait():
            awaitable = self.make()
            return await (awaitable if timeout_s is None else asyncio.wait_for(awaitable, timeout_s))

        self.task = self.task or self.loop.create_task(wait())

    def look(self):
        """Takes the outcome of a wait that is over; returns whether it succeeded."""
        if self.task is None or not self.task.done():
            return False
        task, self.task = self.task, None
        if task.cancelled() or isinstance(task.exception(), TimeoutError):
            return False
        if self.take:
            self.take(task.result())
        return True

    def again(self):
        self.begin()
        return self.look()


class World:
    """Channels and a device, and waits of every kind on them."""

    def __init__(self, seed):
        # The back-off of the clients.
        random.seed(seed)
        self.random, self.loop, self.faults = random.Random(seed), Loop(), []
        self.loop.set_exception_handler(lambda loop, context: self.faults.append(context))
        self.networks = Network(), Network()
        self.number, self.got, self.all, self.of_name, self.pongs, self.answers = 0, {}, [], [], 0, []

        async def make():
            feed, device = (over(network, kind)("ws://feed.example/", **options) for network, kind, options in zip(
                self.networks, (weirgate.Channels, weirgate.Devices), ({}, {"device_id": "d"}), strict=True))
            feed.on("data", lambda message: self.all.append(message["data"]))
            return feed, device, feed.subscribe("a")

        self.feed, self.device, self.sub = self.loop.run_until_complete(make())
        self.takers = [self.feed.iterate(), aiter(self.sub), aiter(self.sub)]
        self.taken = [[] for _ in self.takers]
        self.asked = 0
        self.waits = [
            *(Wait(self.loop, taker.__anext__, lambda one, n=n: self.taken[n].append(one["data"])) for n, taker in enumerate(self.takers)),
            # Two waits on one iteration.
            Wait(self.loop, self.takers[2].__anext__, lambda one: self.taken[2].append(one["data"])),
            Wait(self.loop, lambda: self.sub, self.same),
            Wait(self.loop, self.feed.ping),
            Wait(self.loop, self.ask, self.answered),
            Wait(self.loop, lambda: self.device.identify("d")),
        ]

    def same(self, one):
        assert one is self.sub

    async def ask(self):
        self.asked += 1
        number = self.asked
        try:
            assert await self.device.request("echo", {"n": number}) == {"n": number}
        except weirgate.RequestError as error:
            assert error.code == "lost"

    def answered(self, _):
        self.answers.append(self.asked)

    def serve(self):
        """The servers answer what has come."""
        feed, device = (network.link for network in self.networks)
        while feed and feed.sent:
            message = feed.sent.popleft()
            kind = {"subscribe": "subscribed", "ping": "pong"}[message["action"]]
            feed.put({"type": kind, "channels": message.get("channels"), "requestId": message["requestId"], "seq": 0})
        while device and device.sent:
            message = device.sent.popleft()
            device.put({"type": "response", "event": message["event"], "request_id": message["request_id"], "data": message["data"], "error": None})

    def publish(self):
        if self.networks[0].link and self.feed.subscriptions:
            self.number += 1
            self.networks[0].link.put({"type": "data", "seq": 0, "channel": "a", "pattern": None, "data": self.number})

    def step(self):
        wait = self.random.choice(self.waits)
        match self.random.randrange(12):
            case 0 | 1 | 2:
                wait.begin(self.random.choice([None, None, 0, 0.001, 0.02]))
            case 3 | 4 if wait.task:
                wait.task.cancel()
            case 5 | 6:
                self.publish()
            case 7:
                self.serve()
            case 8:
                self.loop.now_s += self.random.random() * 0.03
            case 9 if self.random.random() < 0.2:
                network = self.random.choice(self.networks)
                if network.link:
                    network.link.abort()
        if self.random.random() < 0.7:
            self.loop.turn()
        for one in self.waits:
            one.look()

    def settle(self, condition, what):
        """Turns with a healthy network until `condition` is true."""
        for _ in range(500):
            if condition():
                return
            self.serve()
            self.loop.now_s += 0.05
            self.loop.turn(3)
        raise AssertionError(what)

    def end(self):
        for wait in self.waits:
            if wait.task:
                wait.task.cancel()
        self.loop.turn(3)
        for wait in self.waits:
            wait.look()
        # Each kind of wait still works.
        self.settle(lambda: self.feed.subscriptions == ["a"] and self.device.status == "open", "both are open again")
        for number, wait in enumerate(self.waits[4:]):
            self.settle(wait.again, f"wait {number} succeeds")
        self.publish()
        self.settle(lambda: self.all and self.all[-1] == self.number, "the last message")
        for wait in self.waits[:3]:
            while self.number not in self.taken[self.waits.index(wait)]:
                self.settle(wait.again, "the messages that wait")
        # Nothing was lost, taken twice, or taken out of order.
        for taken in self.taken[:2]:
            assert taken == self.all
        assert sorted(self.taken[2]) == self.all

    def close(self):
        """`close()` is given up at every step, and so are the last waits."""
        last = [Wait(self.loop, taker.__anext__) for taker in self.takers]
        closing = [Wait(self.loop, self.feed.close), Wait(self.loop, self.device.close)]
        for wait in [*last, *closing]:
            wait.begin()
        for _ in range(self.random.randrange(6)):
            self.loop.turn()
            wait = self.random.choice([*last, *closing])
            if wait.task and self.random.random() < 0.5:
                wait.task.cancel()
                self.loop.turn()
                wait.task = None
                wait.begin()
        self.loop.turn(3)
        for wait in closing:
            self.settle(lambda: wait.task.done(), "close() returns")
            assert wait.task.cancelled() or wait.task.exception() is None
        for wait in last:
            self.settle(lambda: wait.task.done(), "a wait ends with the client")
            assert isinstance(wait.task.exception(), RuntimeError | StopAsyncIteration), wait.task
        for client in (self.feed, self.device):
            assert client.status == "closed"
        self.settle(lambda: not asyncio.all_tasks(self.loop), "nothing is left")
        assert not self.sub._waiters and not self.faults, self.faults
        self.loop.close()


def test_a_wait_that_is_given_up_takes_nothing_and_ends_nothing():
    taken = answers = 0
    for seed in range(SCHEDULES):
        world = World(seed)
        try:
            for _ in range(STEPS):
                world.step()
            world.end()
            world.close()
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error
        taken, answers = taken + len(world.all), answers + len(world.answers)
    assert taken > 4 * SCHEDULES and answers > SCHEDULES


def test_a_client_says_that_it_belongs_to_another_event_loop():
    """As with a global client and two calls of asyncio.run, or with a thread beside the event loop."""
    async def make():
        feed, device = (kind("ws://127.0.0.1:1/") for kind in (weirgate.Channels, weirgate.Devices))
        return feed, device, feed.subscribe("a"), feed.iterate()

    def uses(feed, device, wanted, items):
        async def answer():
            await wanted
        return [items.__anext__, aiter(wanted).__anext__, answer, feed.ping, lambda: device.request("x"), feed.close, lambda: feed.send("x"),
                lambda: feed.subscribe("b"), wanted.unsubscribe, feed.reconnect]

    def use_all(made, in_loop):
        async def use(one):
            result = one()
            if asyncio.iscoroutine(result) or asyncio.isfuture(result):
                await asyncio.wait_for(result, 5)
        for number, one in enumerate(uses(*made)):
            with pytest.raises(RuntimeError, match="belongs to the event loop"):
                in_loop(use(one))
            assert number < 10

    use_all(asyncio.run(make()), asyncio.run)

    async def beside():
        made = await make()
        await asyncio.to_thread(use_all, made, asyncio.run)
        # In its own event loop it works.
        assert made[0].subscribe("c").names == ["c"]
        for client in made[:2]:
            await client.close()
    asyncio.run(beside())
