"""Brokers that are killed and frozen, services that hang and go away: once each in the first minute, then by chance."""
import asyncio


class Faults:
    """Brings outages about and notes them for the stages that feel them."""

    def __init__(self, nats, redis, services, outages, rng, say):
        self.nats, self.redis, self.services = nats, redis, services
        self.outages, self.rng, self.say = outages, rng, say
        self.done = {}
        self.kinds = [self.killed_nats, self.hanging_service, self.killed_redis, self.frozen_nats, self.service_away,
                      self.frozen_redis]

    async def one(self, kind, seconds):
        """One outage of so many seconds."""
        self.done[kind.__name__] = self.done.get(kind.__name__, 0) + 1
        self.say(f"{kind.__name__.replace('_', ' ')} for {seconds:.0f} s")
        await kind(seconds)

    async def first_minute(self):
        """Each kind once, and over within the minute."""
        await asyncio.sleep(5)
        for kind in self.kinds:
            await self.one(kind, 3)
            await asyncio.sleep(4)

    async def for_ever(self, period_s):
        """Each kind in turn, at random times, about `period_s` apart for each broker."""
        while True:
            for kind in self.rng.sample(self.kinds, len(self.kinds)):
                await asyncio.sleep(period_s * self.rng.uniform(0.5, 1.5))
                longest = min(20, max(4, period_s / 2))
                await self.one(kind, self.rng.uniform(2, longest))

    async def _restarted(self, outages, server, seconds):
        outages.begin()
        try:
            await asyncio.to_thread(server.kill)
            await asyncio.sleep(seconds)
        finally:
            await asyncio.to_thread(server.start)
            outages.end()

    async def _frozen(self, outages, freeze, thaw, seconds):
        outages.begin()
        try:
            freeze()
            await asyncio.sleep(seconds)
        finally:
            thaw()
            outages.end()

    async def killed_nats(self, seconds):
        await self._restarted(self.outages["nats"], self.nats, seconds)

    async def killed_redis(self, seconds):
        await self._restarted(self.outages["redis"], self.redis, seconds)

    async def frozen_nats(self, seconds):
        await self._frozen(self.outages["nats"], self.nats.freeze, self.nats.thaw, seconds)

    async def frozen_redis(self, seconds):
        await self._frozen(self.outages["redis"], self.redis.freeze, self.redis.thaw, seconds)

    async def hanging_service(self, seconds):
        service = self.rng.choice(list(self.services.values()))
        await self._frozen(self.outages["services"], service.hang, service.go_on, seconds + 2)

    async def service_away(self, seconds):
        service = self.rng.choice(list(self.services.values()))
        self.outages["services"].begin()
        try:
            await service.stop()
            await asyncio.sleep(seconds)
        finally:
            await service.start()
            self.outages["services"].end()
