"""Where Redis is, asked of a real sentinel: nothing else tells it."""
import time

import pytest
import redis
from processes import Process, free_port, system_binary
from redis_gateways import BOTH, publish, subscriber
from waiting import until


@pytest.fixture
def sentinel(redis_server, started, tmp_path):
    """The port of a sentinel that knows the server as `main`."""
    port, config = free_port(), tmp_path / "sentinel.conf"
    config.write_text(f"port {port}\nbind 127.0.0.1\ndir {tmp_path}\nsentinel monitor main 127.0.0.1 {redis_server.port} 1\n")
    started.append(Process([system_binary("redis-server", "redis-server"), config, "--sentinel"]))
    end = time.monotonic() + 20
    while time.monotonic() < end:
        try:
            if redis.Redis(port=port).execute_command("SENTINEL", "get-master-addr-by-name", "main"):
                return port
        except redis.ConnectionError:
            time.sleep(0.05)
    raise AssertionError(started[-1].log_tail())


@pytest.mark.parametrize("kind", BOTH, ids=lambda kind: kind.name)
async def test_the_sentinels_say_where_it_is(kind, redis_server, sentinel, start_weirgate):
    # The first of them is away.
    env = {"REDIS_SENTINELS": f"127.0.0.1:1,127.0.0.1:{sentinel}", "REDIS_SENTINEL_MASTER": "main", "REDIS_PORT": "1"}
    weirgate = start_weirgate(kind.name, env=env).wait_ready()
    client = await subscriber(kind, weirgate, ["A"])
    with redis_server.client() as connection:
        await until(lambda: publish(connection, kind, "A", 1) == 1, 20, "a subscription in Redis")
    await client.wait_for(lambda c: c.prices == [1], 10, "the publication")
    assert f"(sentinels 127.0.0.1:1, 127.0.0.1:{sentinel})" in weirgate.log()
