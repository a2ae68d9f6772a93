"""The gateways as programs: the rig of the black-box tests, and the fixtures that start them."""
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT / "tests" / "rig"), str(ROOT / "clients" / "python" / "src")]

import pytest  # noqa: E402
from processes import RedisServer, Weirgate  # noqa: E402
from services import Service  # noqa: E402


@pytest.fixture
def started():
    """Things to end after the test, newest first."""
    things = []
    yield things
    for thing in reversed(things):
        thing.discard()


@pytest.fixture
def start_weirgate(started):
    """start_weirgate(subcommand, *flags, redis=…, env=…) → Weirgate, ready; `port`: that of one that has ended."""
    def start(*args, port=None, **kwargs):
        if port is not None:
            kwargs["env"] = {**kwargs.get("env", {}), "WS_PORT": str(port)}
        one = Weirgate(*args, **kwargs)
        started.append(one)
        if port is not None:
            one.port, one.http_url = port, f"http://127.0.0.1:{port}"
        return one.wait_ready()
    return start


@pytest.fixture
def redis_server(started):
    """A redis-server with nothing in it."""
    started.append(RedisServer())
    return started[-1]


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
