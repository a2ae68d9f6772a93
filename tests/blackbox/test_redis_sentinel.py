"""Where Redis is, asked of a real sentinel: nothing else tells it."""
import pytest
from redis_gateways import BOTH, publish, subscriber
from waiting import until


@pytest.mark.parametrize("kind", BOTH, ids=lambda kind: kind.name)
async def test_the_sentinels_say_where_it_is(kind, redis_server, sentinel, start_weirgate):
    # The first of them is away.
    env = {"REDIS_SENTINELS": f"127.0.0.1:1,127.0.0.1:{sentinel}", "REDIS_SENTINEL_MASTER": "main", "REDIS_PORT": "1"}
    weirgate = start_weirgate(kind.name, env=env).wait_ready()
    client = await subscriber(kind, weirgate, ["A"])
    with redis_server.client() as connection:
        await until(lambda: publish(connection, kind, "A", 1) == 1, 20, "a subscription in Redis")
    await client.wait_for(lambda c: c.prices == [1], 10, "the publication")
    weirgate.logs(f"(sentinels 127.0.0.1:1, 127.0.0.1:{sentinel})")
