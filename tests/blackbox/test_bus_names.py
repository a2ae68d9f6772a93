"""Over TLS the bus shows a certificate for a name of the settings: names that are told without TLS count for nothing."""
import json

import pytest
from certificates import TlsRedis
from impostor import Impostor
from instances import ENV, knows
from link import Link
from processes import free_port
from prometheus import scrape
from redis_gateways import BOTH, TRADES, publish, subscriber
from waiting import until

PASSWORD = "s3cret-of-the-bus"
NATS_LOGIN = f'authorization {{ user: gw, password: "{PASSWORD}" }}'


def is_up(weirgate):
    """Whether the bus is there, whichever gateway it is."""
    if "events_bus" in weirgate.health():
        return knows(weirgate, 1)
    return scrape(weirgate).sum("weirgate_bus_connected") == 1 and weirgate.ready_status() == 200


def nats_gateway(start_weirgate, kind, url, ca):
    if kind == "events":
        return start_weirgate("events", "--events-bus", url, "--nats-ca", ca, env=ENV)
    flag = "--bus" if kind == "channels" else "--nats-url"
    return start_weirgate(kind, flag, url, "--nats-ca", ca)


class Told:
    """Somebody on the path to a NATS server: writes another server into the line before TLS, and lets the rest pass."""

    def __init__(self, port):
        self.port, self.info = port, b""

    def __call__(self, data):
        if not data.startswith(b"INFO "):
            return data
        info = json.loads(data[5:])
        self.info = data
        return b"INFO " + json.dumps({**info, "connect_urls": [f"localhost:{self.port}"]}).encode() + b" \r\n"


NATS_KINDS = ["channels", "levels", "events"]


@pytest.mark.parametrize("kind", NATS_KINDS)
async def test_a_server_that_the_plain_first_line_names_gets_no_password(kind, start_nats, start_weirgate, started, certificates):
    server = start_nats(config=f"{certificates.nats_config()}\n{NATS_LOGIN}")
    impostor = Impostor(certificates.elsewhere)
    started.append(impostor)
    told = Told(impostor.port)
    async with Link(server.port, told).running() as link:
        weirgate = nats_gateway(start_weirgate, kind, f"tls://gw:{PASSWORD}@127.0.0.1:{link.port}", certificates.ca)
        await until(lambda: weirgate.get("/health")[0] == 200 and is_up(weirgate), 20, f"the bus\n{weirgate.log_tail()}")
        impostor.greeting = told.info
        link.cut()
        await until(lambda: impostor.told or impostor.refused >= 2, 30, f"the impostor is asked\n{weirgate.log_tail()}")
        assert impostor.told == []
        # The real one is found again.
        link.mend()
        await until(lambda: is_up(weirgate), 20, f"the bus again\n{weirgate.log_tail()}")
    assert impostor.told == []


@pytest.mark.parametrize("kind", NATS_KINDS)
async def test_a_server_of_the_cluster_shows_the_certificate_of_the_configured_name(kind, start_nats, start_weirgate, certificates):
    """The address of the URL is 127.0.0.1, and so is the name; the other server is called localhost, and has the certificate."""
    first, second = [start_nats(config=f"{certificates.nats_config()}\n{NATS_LOGIN}") for _ in range(2)]
    async with Link(first.port, Told(second.port)).running() as link:
        weirgate = nats_gateway(start_weirgate, kind, f"tls://gw:{PASSWORD}@127.0.0.1:{link.port}", certificates.ca)
        await until(lambda: weirgate.get("/health")[0] == 200 and is_up(weirgate), 20, f"the bus\n{weirgate.log_tail()}")
        link.cut()
        await until(lambda: "NATS is away" in weirgate.log(), 20, f"the loss\n{weirgate.log_tail()}")
        await until(lambda: is_up(weirgate), 20, f"the other server\n{weirgate.log_tail()}")


class Lie:
    """Somebody on the path to a sentinel without TLS: names another master for as long as `is_on`."""

    def __init__(self, master_port, port):
        self.is_on = True
        self._true, self._false = [self._answer(*at) for at in (("127.0.0.1", master_port), ("localhost", port))]

    @staticmethod
    def _answer(host, port):
        return f"*2\r\n${len(host)}\r\n{host}\r\n${len(str(port))}\r\n{port}\r\n".encode()

    def __call__(self, data):
        return data.replace(self._true, self._false) if self.is_on else data


@pytest.fixture
def master(started, certificates):
    """A master that shows a certificate for 127.0.0.1 and has a user with a password."""
    started.append(TlsRedis(certificates, "--user", "gw", "on", f">{PASSWORD}", "~*", "&*", "+@all"))
    return started[-1]


@pytest.fixture
def impostor(started, certificates):
    """A server that shows a certificate of the same authority for localhost."""
    started.append(Impostor(certificates.elsewhere))
    return started[-1]


def redis_gateway(start_weirgate, kind, sentinel, certificates, *more):
    """A gateway whose sentinel is asked where its master with TLS is; `more` are flags that begin with `tls-`."""
    url = f"rediss://gw:{PASSWORD}@nowhere.invalid"
    env = ENV if kind == "events" else {}
    flags = ["--events-bus" if kind == "events" else "--redis-url", url, "--redis-sentinels", sentinel, "--redis-sentinel-master", "main",
             "--redis-ca-file", certificates.ca]
    return start_weirgate(kind, *flags, *(f"--redis-{one}" for one in more), env=env)


REDIS_KINDS = ["trades", "channels", "events"]


@pytest.mark.parametrize("kind", REDIS_KINDS)
async def test_a_sentinel_without_tls_names_no_master_with_tls(kind, master, impostor, start_sentinel, start_weirgate, certificates):
    sentinel = start_sentinel(master.tls_port, *certificates.redis_config(free_port()), "tls-replication yes")
    async with Link(sentinel, Lie(master.tls_port, impostor.port)).running() as link:
        weirgate = redis_gateway(start_weirgate, kind, f"127.0.0.1:{link.port}", certificates)
        await until(lambda: not weirgate.alive() or impostor.told, 20, "the end of the start")
        assert impostor.told == []
        assert weirgate.wait(10) == 2
    words = f"--redis-sentinels: the sentinel 127.0.0.1:{link.port} has no TLS"
    remedy = f"write rediss:// for each sentinel, or set --redis-tls-name"
    weirgate.logs(words, remedy)


@pytest.mark.parametrize("kind", REDIS_KINDS)
async def test_the_name_of_the_settings_decides_whatever_a_sentinel_says(kind, master, impostor, start_sentinel, start_weirgate,
                                                                         certificates):
    sentinel = start_sentinel(master.tls_port, *certificates.redis_config(free_port()), "tls-replication yes")
    lie = Lie(master.tls_port, impostor.port)
    lie.is_on = False
    async with Link(sentinel, lie).running() as link:
        weirgate = redis_gateway(start_weirgate, kind, f"127.0.0.1:{link.port}", certificates, "tls-name=127.0.0.1")
        await until(lambda: weirgate.get("/health")[0] == 200 and is_up(weirgate), 20, f"the bus\n{weirgate.log_tail()}")
        lie.is_on = True
        await until(lambda: impostor.told or impostor.refused >= 2, 30, f"the impostor is asked\n{weirgate.log_tail()}")
        weirgate.logs("not valid for name", f"localhost:{impostor.port}")
        lie.is_on = False
        await until(lambda: is_up(weirgate), 20, f"the master again\n{weirgate.log_tail()}")
        for gateway in (one for one in BOTH if one.name == kind):
            client = await subscriber(gateway, weirgate, ["A"])
            with master.client() as connection:
                assert publish(connection, gateway, "A", 1) == 1
            await client.wait_for(lambda c: c.prices == [1], 10, "the publication")
    assert impostor.told == []


@pytest.mark.parametrize("kind", REDIS_KINDS)
async def test_a_sentinel_with_tls_is_believed_if_it_is_the_configured_one(kind, master, impostor, start_sentinel, start_weirgate,
                                                                           certificates):
    tls_port = free_port()
    start_sentinel(master.tls_port, *certificates.redis_config(tls_port), "tls-replication yes")
    async with Link(tls_port).running() as link:
        weirgate = redis_gateway(start_weirgate, kind, f"rediss://:{PASSWORD}@127.0.0.1:{link.port}", certificates)
        await until(lambda: weirgate.get("/health")[0] == 200 and is_up(weirgate), 20, f"the bus\n{weirgate.log_tail()}")
        # From here on somebody else answers in its place.
        link.to_port = impostor.port
        await until(lambda: impostor.told or impostor.refused >= 3, 30, f"the impostor is asked\n{weirgate.log_tail()}")
        assert is_up(weirgate), "the connection to the master stays"
    assert impostor.told == []


def test_a_name_for_a_certificate_needs_tls(start_weirgate, redis_server):
    wrong = start_weirgate(TRADES.name, "--redis-tls-name", "redis.example", redis=redis_server)
    assert wrong.wait(20) == 2
    wrong.logs("--redis-tls-name: a server without TLS has no certificate; write rediss://")
    wrong = start_weirgate(TRADES.name, "--redis-tls-name", "a b", redis=redis_server)
    assert wrong.wait(20) == 2 and "allowed: a DNS name or an IP address" in wrong.log()
