"""The bus between instances of events where its server moves (Redis Sentinel) or shows a certificate (TLS)."""
import asyncio
import contextlib
import itertools
import time

import pytest
import redis
from certificates import TlsRedis
from instances import ENV, know_each_other, pushed, received
from processes import RedisServer
from services import device
from waiting import until


@pytest.fixture
def replica(redis_server, started):
    """A redis-server that copies the first one."""
    started.append(RedisServer("--replicaof", f"127.0.0.1 {redis_server.port}"))
    return started[-1]


def sentinel_flags(sentinel):
    # The first sentinel is away.
    return ["--events-bus", "redis://sentinels", "--redis-sentinels", f"127.0.0.1:1,127.0.0.1:{sentinel}",
            "--redis-sentinel-master", "main", "--events-bus-wait-ms", "300"]


def knows_replica(sentinel, replica):
    with redis.Redis(port=sentinel) as connection:
        return any(int(one["port"]) == replica.port and one["master-link-status"] == "ok"
                   for one in connection.sentinel_slaves("main"))


async def test_pushes_go_on_over_the_server_that_the_sentinels_name(start_weirgate, redis_server, replica, sentinel):
    await until(lambda: knows_replica(sentinel, replica), 30, "the sentinel knows the replica")
    instances = [start_weirgate("events", *sentinel_flags(sentinel), env=ENV) for _ in range(2)]
    await know_each_other(instances)
    instances[0].logs(f"main (sentinels 127.0.0.1:1, 127.0.0.1:{sentinel})")
    async with device(instances[0], "a") as here, device(instances[1], "a") as there:
        got = {here: [], there: []}

        async def read(client):
            while True:
                got[client].append((await received(client, 60))["n"])
        readers = [asyncio.create_task(read(client)) for client in got]
        complete = {"sent": 2, "bus": "up", "instances": 2, "missing": []}
        pushes, end, killed = 0, time.monotonic() + 60, False
        whole_after = 0
        for n in itertools.count():
            assert time.monotonic() < end, f"no failover: {answer}\n{instances[0].log_tail()}"
            answer = await pushed(instances[n % 2], {"n": n}, "a")
            pushes += 1
            if n == 10:
                assert answer == complete
                redis_server.kill()
                killed = True
            whole_after = whole_after + 1 if killed and answer == complete else 0
            # In a row, after answers that told of the outage.
            if whole_after == 20:
                break
            await asyncio.sleep(0.02)
        await until(lambda: all(numbers and numbers[-1] == pushes - 1 for numbers in got.values()), 20, "the last push")
        for reader in readers:
            reader.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await reader
    for at, numbers in enumerate(got.values()):
        assert len(set(numbers)) == len(numbers), f"twice: {numbers}"
        for instance in range(2):
            own = [n for n in numbers if n % 2 == instance]
            assert own == sorted(own), f"not in order: {own}"
        # The devices of the instance that was asked get all, whatever the bus does.
        assert [n for n in numbers if n % 2 == at] == list(range(at, pushes, 2))
        assert set(numbers) >= {*range(11), *range(pushes - 20, pushes)}


@pytest.fixture(params=["redis", "nats"])
def tls_url(request, start_nats, started, certificates):
    """The URL of a bus of each kind over TLS."""
    if request.param == "nats":
        return f"tls://127.0.0.1:{start_nats(config=certificates.nats_config()).port}"
    started.append(TlsRedis(certificates))
    return f"rediss://127.0.0.1:{started[-1].tls_port}"


def authority(url, certificates):
    return ["--nats-ca" if url.startswith("tls:") else "--redis-ca-file", certificates.ca]


async def test_pushes_go_over_tls_with_an_authority_of_ones_own(start_weirgate, tls_url, certificates):
    flags = ["--events-bus", tls_url, *authority(tls_url, certificates), "--events-bus-wait-ms", "5000"]
    instances = [start_weirgate("events", *flags, env=ENV) for _ in range(2)]
    await know_each_other(instances)
    async with device(instances[1], "a", compression=None) as client:
        for n in range(3):
            # One of them is larger than a TLS record, and goes in several messages.
            data = {"n": n, "pad": "x" * (1_500_000 if n == 1 else 1)}
            assert await pushed(instances[0], data, "a") == {"sent": 1, "bus": "up", "instances": 2, "missing": []}
            assert await received(client) == data


@pytest.mark.parametrize("trusted", ["another", "the system's"])
async def test_an_unknown_authority_is_refused_and_said(start_weirgate, tls_url, other_certificates, trusted):
    ca = authority(tls_url, other_certificates) if trusted == "another" else []
    weirgate = start_weirgate("events", "--events-bus", tls_url, *ca, env=ENV).wait_ready()
    words = "invalid peer certificate: UnknownIssuer"
    await until(lambda: words in weirgate.log(), 20, f"the reason\n{weirgate.log_tail()}")
    line = next(line for line in weirgate.log().splitlines() if words in line)
    assert tls_url.split("//")[1] in line and ("the CA" in line or "certificates" in line), line
    assert (await pushed(weirgate, {}, "a"))["bus"] == "away"


async def test_a_nats_server_that_wants_a_certificate_gets_it(start_weirgate, start_nats, certificates):
    server = start_nats(config=certificates.nats_config(verify=True))
    flags = ["--events-bus", f"tls://127.0.0.1:{server.port}", "--nats-ca", certificates.ca]
    without = start_weirgate("events", *flags, env=ENV).wait_ready()
    await until(lambda: "ertificate" in without.log(), 20, f"the reason\n{without.log_tail()}")
    certificate, key = certificates.client
    more = ["--nats-cert", certificate, "--nats-key", key]
    await know_each_other([start_weirgate("events", *flags, *more, env=ENV) for _ in range(2)])
    assert (await pushed(without, {}, "a"))["bus"] == "away"
