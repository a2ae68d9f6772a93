"""A Redis that asks its clients for certificates (`tls-auth-clients yes`), with an ACL user."""
import asyncio
import shutil
import subprocess

import pytest
from certificates import TlsRedis
from processes import free_port, weirgate_binary
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


async def test_the_bus_of_events_and_publish_show_it_too(server, start_weirgate, certificates):
    certificate, key = certificates.client
    url = f"rediss://gate:se%40cret@127.0.0.1:{server.tls_port}"
    own = ["--redis-ca-file", certificates.ca, "--redis-cert", certificate, "--redis-key", key]
    weirgate = start_weirgate("events", "--events-bus", url, *own)
    await until(lambda: server.client().pubsub_channels(), 20, "the bus")
    checked = await asyncio.to_thread(subprocess.run, [weirgate_binary(), "events", "--events-bus", url, *own, "--check", "--connect", "--port", "0"],
                                      capture_output=True, text=True)
    # The services of the gateway are away.
    assert "may publish to weirgate.events" in checked.stdout and weirgate.alive(), checked
    publish_it = [weirgate_binary(), "publish", url, "a", "hello", "--ca-file", certificates.ca]
    for more, status, words in [(["--cert", certificate, "--key", key], 0, ""), (["--cert", certificate], 2, "--key"), ([], 1, "")]:
        done = await asyncio.to_thread(subprocess.run, [*publish_it, *more], capture_output=True, text=True)
        assert done.returncode == status and words in done.stderr, (more, done)


@pytest.mark.parametrize("kind", BOTH, ids=lambda kind: kind.name)
async def test_a_sentinel_and_its_master_ask_for_certificates(kind, started, certificates, start_sentinel, start_weirgate):
    tls = certificates.redis_config(port := free_port())
    server = TlsRedis(certificates, "--tls-auth-clients", "yes")
    started.append(server)
    # The sentinel speaks TLS with the master, and with clients at a port of its own.
    start_sentinel(server.tls_port, *tls, "tls-auth-clients yes", "tls-replication yes")
    certificate, key = certificates.client
    flags = ["--redis-url", "rediss://ignored", "--redis-sentinels", f"rediss://127.0.0.1:{port}", "--redis-sentinel-master", "main",
             "--redis-ca-file", certificates.ca, "--redis-cert", certificate, "--redis-key", key]
    weirgate = start_weirgate(kind.name, *flags).wait_ready()
    client = await subscriber(kind, weirgate, ["A"])
    with server.client() as redis:
        await until(lambda: publish(redis, kind, "A", 7) > 0, 10, "the name asked for")
    await client.wait_for(lambda c: c.prices, 10, "data")
    checked = await asyncio.to_thread(subprocess.run, [weirgate_binary(), kind.name, *flags, "--check", "--connect", "--port", "0"],
                                      capture_output=True, text=True)
    assert checked.returncode == 0 and f"the sentinel at 127.0.0.1:{port}" in checked.stdout, checked


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


async def test_the_files_are_read_again_at_each_connection(server, start_weirgate, certificates, tmp_path):
    kind, (certificate, key), trusted = BOTH[0], certificates.client, tmp_path / "ca.pem"
    shutil.copy(certificates.ca, trusted)
    own = ["--redis-cert", certificate, "--redis-key", key, "--redis-ca-file", trusted]
    weirgate = start_weirgate(*flags(kind, server, certificates, *own)).wait_ready()
    trusted.write_text("none")
    with server.client() as redis:
        redis.execute_command("CLIENT", "KILL", "USER", "gate")
    await until(lambda: f"no certificates to trust in {trusted}" in weirgate.log(), 20, "the file is named")
    shutil.copy(certificates.ca, trusted)
    weirgate.wait_ready()
