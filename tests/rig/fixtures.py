"""The fixtures: a nats-server, a redis-server, weirgate and services, started for a single test and ended with the test."""
import asyncio
import inspect
import time

import over_tls
import pytest
import redis
from processes import NatsServer, Process, RedisServer, Weirgate, free_port, system_binary
from services import Service


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem):
    """Runs `async def` tests, each in a separate event loop."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = pyfuncitem._fixtureinfo.argnames
    asyncio.run(pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in names}))
    return True


@pytest.fixture
def started():
    """Things to end after the test, newest first; their last output is shown if the test failed."""
    things = []
    yield things
    for thing in reversed(things):
        process = getattr(thing, "process", thing)
        if process is not None:
            print(process.log_tail())
        thing.discard()


@pytest.fixture
def start_nats(started):
    """start_nats(max_payload=bytes, config=lines) → NatsServer"""
    def start(**kwargs):
        started.append(NatsServer(**kwargs))
        return started[-1]
    return start


@pytest.fixture
def nats(start_nats):
    """A nats-server with JetStream and an empty store."""
    return start_nats()


@pytest.fixture
def redis_server(started):
    """An empty redis-server."""
    started.append(RedisServer())
    return started[-1]


@pytest.fixture(scope="session")
def led_over_tls(request):
    """(certificate, key) of every gateway with OVER_TLS=1, else None."""
    if not over_tls.is_on():
        return None
    over_tls.lead(request.getfixturevalue("authority").context())
    return request.getfixturevalue("local_certificate")


@pytest.fixture
def start_weirgate(started, led_over_tls, request):
    """start_weirgate(subcommand, *flags, nats=…, redis=…, env=…, files_max=…) → Weirgate, not waited for"""
    def start(subcommand="levels", *more, **kwargs):
        args = (subcommand, *more)
        stays_plain = not led_over_tls or request.node.get_closest_marker("plain")
        flags, tls_port = ([], None) if stays_plain else over_tls.flags(args, led_over_tls)
        started.append(Weirgate(*args, *flags, **kwargs))
        if tls_port:
            over_tls.ports[started[-1].listens_at] = tls_port
        return started[-1]
    return start


@pytest.fixture
def service():
    """service(answer) → a Service, ended with the test."""
    services = []

    def start(*args):
        services.append(Service(*args))
        return services[-1]
    yield start
    for one in services:
        one.stop()


@pytest.fixture
def sentinel(redis_server, start_sentinel):
    """The port of a sentinel for the server, under the name `main`."""
    return start_sentinel(redis_server.port)


@pytest.fixture
def start_sentinel(started, tmp_path):
    """start_sentinel(master_port, *lines) → the port of a sentinel for that server, under the name `main`"""
    return lambda master_port, *lines: _sentinel(started, tmp_path, master_port, lines)


def _sentinel(started, folder, master_port, lines):
    port, config = free_port(), folder / f"sentinel-{len(list(folder.iterdir()))}.conf"
    # Long enough for a busy machine: a slow master is not replaced.
    config.write_text("\n".join([
        f"port {port}", "bind 127.0.0.1", f"dir {folder}", f"sentinel monitor main 127.0.0.1 {master_port} 1",
        "sentinel down-after-milliseconds main 1500", "sentinel failover-timeout main 6000", *lines, ""]))
    started.append(Process([system_binary("redis-server", "redis-server"), config, "--sentinel"]))
    end = time.monotonic() + 20
    while time.monotonic() < end:
        try:
            if redis.Redis(port=port).execute_command("SENTINEL", "get-master-addr-by-name", "main"):
                return port
        except redis.ConnectionError:
            time.sleep(0.05)
    raise AssertionError(started[-1].log_tail())
