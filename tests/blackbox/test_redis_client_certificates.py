"""A Redis that asks its clients for certificates (`tls-auth-clients yes`), with an ACL user."""
import asyncio
import subprocess

import pytest
from certificates import TlsRedis
from processes import weirgate_binary
from redis_gateways import BOTH, publish, subscriber
from waiting import until


@pytest.fixture
def server(started, certificates):
    # The last line of a setting counts.
    server = TlsRedis(certificates, "--tls-auth-clients", "yes")
    started.append(server)
    with server.client() as redis:
        redis.execute_command("ACL", "SETUSER", "gate", "on", ">se@cret", "~*", "&*", "+@all")
    return server


def flags(kind, server, certificates, *more):
    url = f"rediss://gate:se%40cret@127.0.0.1:{server.tls_port}/1"
    return [kind.name, "--redis-url", url, "--redis-ca-file", str(certificates.ca), *map(str, more)]


@pytest.mark.parametrize("kind", BOTH, ids=lambda kind: kind.name)
async def test_a_gateway_shows_its_certificate_and_logs_in_as_a_user(kind, server, start_weirgate, certificates):
    certificate, key = certificates.client
    own = ["--redis-cert", certificate, "--redis-key", key]
    weirgate = start_weirgate(*flags(kind, server, certificates, *own)).wait_ready()
    client = await subscriber(kind, weirgate, ["A"])
    with server.client() as redis:
        await until(lambda: publish(redis, kind, "A", 7) > 0, 10, "the name asked for")
        assert {one["user"] for one in redis.client_list() if "cmd" in one} >= {"gate"}
    await client.wait_for(lambda c: c.prices, 10, "data")
    client.abort()
    checked = await asyncio.to_thread(subprocess.run, [weirgate_binary(), *flags(kind, server, certificates, *own), "--check", "--connect"],
                                      capture_output=True, text=True)
    assert checked.returncode == 0, checked


async def test_without_a_certificate_the_bus_is_away_and_a_wrong_file_is_named(server, start_weirgate, certificates):
    kind, (certificate, key) = BOTH[0], certificates.client
    weirgate = start_weirgate(*flags(kind, server, certificates)).wait_for("/health")
    await until(lambda: "Redis is away" in weirgate.log(), 20, "the refusal")
    for more, words in [
        (["--redis-cert", certificate], "is set without --redis-key"),
        (["--redis-cert", key, "--redis-key", key], f"{key} does not hold certificates"),
        (["--redis-cert", certificate, "--redis-key", certificate], f"{certificate} does not hold a private key"),
    ]:
        checked = subprocess.run([weirgate_binary(), *flags(kind, server, certificates, *more), "--check"], capture_output=True, text=True)
        assert checked.returncode != 0 and words in checked.stdout + checked.stderr, checked
