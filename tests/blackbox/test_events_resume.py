"""`weirgate events --history-ms`: a device that was cut off gets the pushes that it missed, or is told that it does not."""
import asyncio
import json

from instances import ENV, bus_flags, know_each_other, pushed
from prometheus import scrape
from services import device

HISTORY = ("--history-ms", "60000")


def start(start_weirgate, *more):
    instance = start_weirgate("events", *HISTORY, *more, env=ENV)
    instance.wait_ready()
    return instance


class Phone:
    """A device that keeps the numbers of its pushes and its newest position, and comes back with the position."""

    def __init__(self, instance, name, in_address=True):
        self.instance, self.name, self.in_address = instance, name, in_address
        self.numbers, self.answers, self.pos, self.client = [], [], None, None

    async def connect(self, instance=None):
        self.instance = instance or self.instance
        known = self.name if self.pos is None else f"{self.name}&since={self.pos}"
        self.client = await device(self.instance, known if self.in_address else None)
        if not self.in_address:
            await self.client.recv()
            data = {"device_id": self.name} | ({} if self.pos is None else {"since": self.pos})
            await self.client.send(json.dumps({"event": "identify", "request_id": "r", "data": data}))
        await self.take()
        return self.answers[-1]["data"]

    async def take(self):
        message = json.loads(await asyncio.wait_for(self.client.recv(), 20))
        self.pos = message.get("pos", self.pos)
        if message["type"] == "response":
            self.answers.append(message)
        else:
            self.numbers.append(message["data"]["n"])

    async def take_until(self, count):
        while len(self.numbers) < count:
            await self.take()

    def cut(self):
        """As if the network were gone: no close, and what is on its way is lost."""
        self.client.transport.abort()


async def test_devices_that_are_cut_off_again_and_again_miss_nothing_and_get_nothing_twice(start_weirgate):
    instance = start(start_weirgate)
    phones = [Phone(instance, f"d{n}", n % 2 == 0) for n in range(6)]
    first = await asyncio.gather(*(phone.connect() for phone in phones))
    assert first == [{"device_id": phone.name} for phone in phones]
    assert all(phone.pos for phone in phones), "a position before the first push"
    total = 0
    for cut in range(8):
        for phone in phones[cut % 3::3]:
            await phone.take_until(max(0, total - cut))
            phone.cut()
        for _ in range(5):
            await pushed(instance, {"n": total}, *(phone.name for phone in phones))
            total += 1
        for phone in phones[cut % 3::3]:
            assert await phone.connect() == {"device_id": phone.name, "recovered": True}
    for phone in phones:
        await phone.take_until(total)
        assert phone.numbers == list(range(total)), phone.name
    assert scrape(instance).sum("weirgate_resumes_total", outcome="recovered") == 16


async def test_another_instance_and_a_restarted_one_cannot_know(start_weirgate, redis_server):
    one, other = (start(start_weirgate, *bus_flags(redis_server)) for _ in range(2))
    await know_each_other([one, other])
    phone = Phone(one, "d")
    await phone.connect()
    await pushed(other, {"n": 0}, "d")
    await phone.take_until(1)
    phone.cut()
    await pushed(other, {"n": 1}, "d")
    assert await phone.connect(other) == {"device_id": "d", "recovered": False, "why": "epoch"}
    await pushed(one, {"n": 2}, "d")
    await phone.take_until(2)
    phone.cut()
    assert await phone.connect() == {"device_id": "d", "recovered": True}
    assert phone.numbers == [0, 2], "nothing of the missed follows `false`"


async def test_over_an_outage_of_the_bus_between_instances_no_device_resumes(start_weirgate, redis_server):
    one, other = (start(start_weirgate, *bus_flags(redis_server)) for _ in range(2))
    await know_each_other([one, other])
    phone = Phone(one, "d")
    await phone.connect()
    await pushed(one, {"n": 0}, "d")
    await phone.take_until(1)
    redis_server.kill()
    while (await pushed(other, {"n": 1}, "d"))["bus"] != "away" or (await pushed(one, {"n": 2}, "x"))["bus"] != "away":
        await asyncio.sleep(0.1)
    phone.cut()
    assert await phone.connect() == {"device_id": "d", "recovered": False, "why": "gap"}
    assert "pos" not in phone.answers[-1], "while pushes of the other instance are lost, no position is good"
    redis_server.start()
    await know_each_other([one, other])
    phone.cut()
    assert await phone.connect() == {"device_id": "d", "recovered": False, "why": "gap"}
    phone.cut()
    await pushed(other, {"n": 3}, "d")
    assert await phone.connect() == {"device_id": "d", "recovered": True}
    await phone.take_until(2)
    assert phone.numbers == [0, 3]


async def test_without_a_history_the_address_is_answered_only_if_it_asks(start_weirgate):
    instance = start_weirgate("events", env=ENV)
    instance.wait_ready()
    phone = Phone(instance, "d")
    phone.pos = "m0.7f3a09c2b11e.0.0"
    assert await phone.connect() == {"device_id": "d", "recovered": False, "why": "off"}
    async with device(instance, "e") as quiet:
        await pushed(instance, {"n": 1}, "e")
        push = {"type": "event", "event": "e", "request_id": None, "data": {"n": 1}, "error": None}
        assert json.loads(await quiet.recv()) == push
