"""Redis at its worst under watching clients: it throws weirgate out, fails over and loses the tail, or is busy for seconds.

What is lost is counted and, to clients of channels, told as a gap; what comes is in order, and nothing comes twice.
TEST_BUSY_S sets for how long Redis is busy; `make outages` has 10 s.
"""
import asyncio
import os
import threading
import time

import pytest
import redis
from processes import Process, RedisServer, free_port, system_binary
from prometheus import scrape
from redis_gateways import BOTH, CHANNELS, publish, subscriber
from waiting import until

BUSY_S = float(os.environ.get("TEST_BUSY_S", "4"))
MESSAGES = 100
both = pytest.mark.parametrize("kind", BOTH, ids=lambda kind: kind.name)


def in_order_once(prices):
    """What came is in the order of publication, and nothing came twice."""
    return prices == sorted(set(prices))


async def watchers(kind, weirgate, count=5):
    """Clients that watch A."""
    return await asyncio.gather(*(subscriber(kind, weirgate, ["A"]) for _ in range(count)))


async def idle_client(weirgate):
    """A channels client that holds no name."""
    return await subscriber(CHANNELS, weirgate, [])


def publisher(server, kind, stop, published):
    """Publishes 0, 1, 2, … until it is stopped; `published` has what Redis took, and how many listened."""
    connection, n = server.client(), 0
    while not stop.is_set():
        try:
            published.append((n, publish(connection, kind, "A", n)))
        except redis.RedisError:
            pass
        n += 1
        time.sleep(0.002)


@both
@pytest.mark.parametrize("how", ["killed", "over_its_buffer"])
async def test_redis_throws_weirgate_out(kind, how, redis_server, start_weirgate):
    # The watchers read no byte while this program publishes: what Redis still delivers has room in their queues.
    roomy = ["--send-queue-hard-bytes", "100000000"]
    args = roomy if how == "over_its_buffer" else []
    weirgate = start_weirgate(kind.name, *args, redis=redis_server).wait_ready()
    clients = await watchers(kind, weirgate)
    idle = await idle_client(weirgate) if kind is CHANNELS else None
    with redis_server.client() as connection:
        publish(connection, kind, "A", 0)
        for client in clients:
            await client.wait_for(lambda c: c.prices == [0], 10, "the first")
        if how == "killed":
            burst = 0
            assert connection.client_kill_filter(_type="pubsub") == 1
        else:
            # weirgate hangs for a moment, and Redis holds only little for it.
            connection.config_set("client-output-buffer-limit", "pubsub 200kb 0 0")
            burst = 500
            weirgate.freeze()
            pipe = connection.pipeline(transaction=False)
            for n in range(1, burst + 1):
                publish(pipe, kind, "A", n, "x" * 64_000)
            heard = sum(pipe.execute())
            weirgate.thaw()
            assert heard < burst, "it was not thrown out"
        after = burst + 1
        await until(lambda: publish(connection, kind, "A", after) == 1, 20, "weirgate back")
    for client in clients:
        await client.wait_for(lambda c: c.prices[-1] == after, 20, "data after the return")
        assert in_order_once(client.prices) and client.open
        assert client.prices == clients[0].prices
    metrics = scrape(weirgate)
    assert metrics.sum("weirgate_bus_gaps_total") == 1
    assert metrics.sum("weirgate_client_closes_total") == 0
    if kind is CHANNELS:
        assert [client.missing for client in clients] == [1] * len(clients)
        assert metrics.sum("weirgate_gaps_told_total") == len(clients)
        weirgate.logs("each affected client sees one gap in seq")
        idle.say({"action": "ping"})
        await idle.wait_for(lambda c: len(c.answers) == 3, 10, "the pong")
        assert idle.missing == 0


@both
async def test_a_redis_that_cannot_write_to_its_disk_is_connected_to(kind, redis_server, start_weirgate):
    with redis_server.client() as connection:
        connection.xadd("stream", {"channel": kind.channel("A"), "data": "1"})
        connection.config_set("save", "3600 1")
        weirgate = start_weirgate(kind.name, redis=redis_server).wait_ready()
        client = await subscriber(kind, weirgate, ["A"])
        redis_server.directory.cleanup()
        connection.execute_command("BGSAVE")
        with pytest.raises(redis.ResponseError, match="MISCONF"):
            await until(lambda: connection.ping() and False, 10, "the save failed")
        assert connection.client_kill_filter(_type="pubsub") == 1
        await until(lambda: publish(connection, kind, "A", 1) == 1, 5, "weirgate back")
        await client.wait_for(lambda c: c.prices == [1], 5, "data after the return")
        start_weirgate(kind.name, "--stream", "stream", "--history-ms", "60000", redis=redis_server).wait_ready()


@both
async def test_a_busy_redis_delivers_everything_when_it_is_done(kind, started, start_weirgate):
    server = RedisServer("--enable-debug-command", "local")
    started.append(server)
    weirgate = start_weirgate(kind.name, redis=server).wait_ready()
    clients = await watchers(kind, weirgate)
    busy, publishing = server.client(BUSY_S + 10), server.client(BUSY_S + 10)
    sleep = asyncio.create_task(asyncio.to_thread(busy.execute_command, "DEBUG", "SLEEP", BUSY_S))
    await asyncio.sleep(0.2)
    pipe = publishing.pipeline(transaction=False)
    for n in range(MESSAGES):
        publish(pipe, kind, "A", n)
    executed = asyncio.create_task(asyncio.to_thread(pipe.execute))
    if kind is CHANNELS:
        # Commands that Redis does not read yet, more than its socket takes.
        newcomers = await asyncio.gather(*(idle_client(weirgate) for _ in range(20)))
        for who, client in enumerate(newcomers):
            client.say(CHANNELS.subscribe([f"{who}:{n}:{'x' * 400}" for n in range(50)]))
    heard = await executed
    await sleep
    assert heard == [1] * MESSAGES, "the connection was not kept"
    for client in clients:
        await client.wait_for(lambda c: len(c.prices) == MESSAGES, 20, "all of them")
        assert client.prices == list(range(MESSAGES))
    metrics = scrape(weirgate)
    assert metrics.sum("weirgate_bus_gaps_total") == metrics.sum("weirgate_bus_reconnects_total") == 0
    if kind is CHANNELS:
        assert [client.missing for client in clients] == [0] * len(clients)
    await until(lambda: weirgate.ready_status() == 200, 10, "ready again")


@pytest.fixture(params=["127.0.0.1", "localhost"])
def group(request, started, tmp_path):
    """A master, its replica, and two sentinels. All name one another by address, or by host name. The second sentinel makes
    the replica the master once the master is away for a second; the first is cut off from it, and stays with the old master."""
    host = request.param
    user = ["--user", "alone", "on", ">x", "resetchannels", "+@all", "-slaveof", "~*"]
    master = RedisServer("--replica-announce-ip", host, *user)
    replica = RedisServer("--replicaof", host, str(master.port), "--replica-announce-ip", host, *user)
    started.extend([master, replica])
    with replica.client() as connection:
        wait_for(lambda: connection.info("replication")["master_link_status"] == "up", "a replica that follows")
    names = ["sentinel resolve-hostnames yes", "sentinel announce-hostnames yes"]
    cut_off = ["sentinel auth-user main alone", "sentinel auth-pass main x"]
    ports = [_sentinel(started, tmp_path / name, names, f"{host} {master.port} {quorum}", more)
             for name, quorum, more in [("stale", 2, cut_off), ("good", 1, [])]]
    return master, replica, ports


def _sentinel(started, folder, names, master, more):
    folder.mkdir()
    port, config = free_port(), folder / "sentinel.conf"
    config.write_text("\n".join([f"port {port}", "bind 127.0.0.1", f"dir {folder}", *names, f"sentinel monitor main {master}",
                                 "sentinel down-after-milliseconds main 1000", "sentinel failover-timeout main 2000", *more, ""]))
    started.append(Process([system_binary("redis-server", "redis-server"), config, "--sentinel"]))
    sentinel = redis.Redis(port=port, socket_timeout=5)
    wait_for(lambda: int(sentinel.sentinel_master("main")["num-slaves"]) == 1, "a sentinel that knows the replica")
    return port


def wait_for(condition, what, seconds=20):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if condition():
                return
        except redis.RedisError:
            pass
        time.sleep(0.05)
    raise AssertionError(f"never: {what}")


@both
async def test_a_failover_that_loses_the_tail(kind, group, start_weirgate):
    master, replica, sentinels = group
    env = {"REDIS_SENTINELS": ",".join(f"127.0.0.1:{one}" for one in sentinels), "REDIS_SENTINEL_MASTER": "main"}
    weirgate = start_weirgate(kind.name, env=env).wait_ready()
    clients = await watchers(kind, weirgate)
    stop, before, after = threading.Event(), [], []
    threads = [threading.Thread(target=publisher, args=(master, kind, stop, before))]
    threads[0].start()
    await clients[0].wait_for(lambda c: len(c.prices) > 50, 20, "some data")
    # weirgate asks a sentinel each second.
    await asyncio.sleep(2.5)
    assert scrape(weirgate).sum("weirgate_bus_gaps_total") == 0
    # The master dies with what it has not sent.
    await asyncio.to_thread(master.kill)
    stop.set()
    await asyncio.to_thread(threads[0].join)
    last = before[-1][0]
    # Publishers know the new master before weirgate does: what they publish meanwhile is lost.
    with replica.client() as connection:
        await until(lambda: connection.info("replication")["role"] == "master", 30, "the replica promoted")
        n = last
        end = time.monotonic() + 30
        while time.monotonic() < end:
            n += 1
            after.append((n, publish(connection, kind, "A", n)))
            if len([heard for _, heard in after if heard]) == 20:
                break
            await asyncio.sleep(0.02)
    heard = [n for n, listeners in after if listeners]
    assert len(heard) == 20
    for client in clients:
        await client.wait_for(lambda c: c.prices[-1] == heard[-1], 20, "data from the new master")
        assert in_order_once(client.prices)
        # Of what the new master had a listener for, nothing is missing.
        assert client.prices[-20:] == heard
        assert client.open
    metrics = scrape(weirgate)
    assert metrics.sum("weirgate_bus_gaps_total") == metrics.sum("weirgate_bus_reconnects_total") == 1
    if kind is CHANNELS:
        assert [client.missing for client in clients] == [1] * len(clients)
        assert metrics.sum("weirgate_gaps_told_total") == len(clients)
