"""A Redis at a unix socket, and logins in every form of a URL: gateways, the bus of events, sentinels, publish, and the check of all."""
import asyncio
import subprocess
import tempfile

import pytest
from instances import ENV, know_each_other, pushed, received
from processes import RedisServer, weirgate_binary
from redis_gateways import BOTH, CHANNELS, publish, subscriber
from services import device
from waiting import until

# The password of the user `gate`, in a URL, in a query and as it is.
USER, ESCAPED, PASSWORD = "gate", "p%40%2F%3A%3F", "p@/:?"


@pytest.fixture
def server(started):
    """A redis-server at a unix socket with a space in its path, with the user `gate`, and `open` without a password."""
    # Redis shows 77 bytes of the path at most.
    with tempfile.TemporaryDirectory() as short:
        server = RedisServer("--unixsocket", f"{short}/a redis.sock", "--unixsocketperm", "700")
        started.append(server)
        server.path = f"{short}/a%20redis.sock"
        with server.client() as connection:
            connection.execute_command("ACL", "SETUSER", USER, "on", f">{PASSWORD}", "~*", "&*", "+@all")
            connection.execute_command("ACL", "SETUSER", "open", "on", "nopass", "~*", "&*", "+@all")
        yield server


def urls(server):
    """Each form of a URL, with the user that it logs in as."""
    return {
        f"unix://{server.path}": "default",
        f"unix://{USER}:{ESCAPED}@{server.path}?db=3": USER,
        f"redis+unix://{server.path}?db=3&user={USER}&pass={ESCAPED}": USER,
        f"unix://open@{server.path}": "open",
        f"redis://open@127.0.0.1:{server.port}/1": "open",
        f"redis://{USER}:{ESCAPED}@127.0.0.1:{server.port}": USER,
        f"redis://127.0.0.1:{server.port}?username={USER}&password={ESCAPED}&db=2": USER,
    }


def checked(*args):
    done = subprocess.run([weirgate_binary(), *args, "--check", "--connect", "--port", "0"], capture_output=True, text=True)
    assert "p%40" not in done.stdout + done.stderr and PASSWORD not in done.stdout + done.stderr
    return done


def subscribers(server):
    """(user, database, socket or port) of the connections of Redis with subscriptions of weirgate."""
    with server.client() as connection:
        return {(one["user"], one["db"], one["addr"].split(":")[0]) for one in connection.client_list() if one["name"] == "weirgate"}


@pytest.mark.parametrize("kind", BOTH, ids=lambda kind: kind.name)
async def test_every_form_of_a_url_serves_a_client(kind, server, start_weirgate):
    for url, user in urls(server).items():
        done = await asyncio.to_thread(checked, kind.name, "--redis-url", url)
        assert done.returncode == 0 and "Redis 7" in done.stdout, done
        weirgate = start_weirgate(kind.name, "--redis-url", url).wait_ready()
        client = await subscriber(kind, weirgate, ["A"])
        with server.client() as connection:
            await until(lambda: publish(connection, kind, "A", 1) == 1, 20, "a subscription in Redis")
        await client.wait_for(lambda c: c.prices == [1], 10, "the publication")
        [(name, _, where)] = subscribers(server)
        assert name == user and ("redis.sock" in where) == ("unix" in url), (url, where)
        assert PASSWORD not in weirgate.log() and ESCAPED not in weirgate.log()
        client.abort()
        weirgate.kill()


async def test_the_database_of_a_query_is_selected(server, start_weirgate):
    start_weirgate("channels", "--bus", f"unix://{server.path}?db=3").wait_ready()
    assert {database for _, database, _ in subscribers(server)} == {"3"}
    done = await asyncio.to_thread(checked, "channels", "--bus", f"unix://{server.path}?db=99")
    assert done.returncode == 1 and "DB index is out of range" in done.stdout + done.stderr, done


async def test_a_socket_that_goes_and_comes_back_is_an_outage_like_any_other(server, start_weirgate):
    weirgate = start_weirgate("channels", "--redis-url", f"unix://{server.path}").wait_ready()
    client = await subscriber(CHANNELS, weirgate, ["A"])
    server.freeze()
    await until(lambda: "silent" in weirgate.log() or "away" in weirgate.log(), 30, "the silence is noticed")
    server.kill()
    await asyncio.to_thread(server.start)
    with server.client() as connection:
        await until(lambda: publish(connection, CHANNELS, "A", 2) == 1, 30, "the subscription is back")
    await client.wait_for(lambda c: c.prices[-1:] == [2], 10, "the publication")
    server.kill()
    (await asyncio.to_thread(weirgate.logs, "Redis is away"))


def test_a_check_names_the_socket_and_the_reason(server, tmp_path):
    for url, words in [
        (f"unix://{tmp_path}/none.sock", f"{tmp_path}/none.sock"),
        (f"unix://{USER}:wrong@{server.path}", "WRONGPASS"),
        (f"redis+unix://{server.path}?user=nobody&pass=p", "WRONGPASS"),
        ("unix://host/run/redis.sock", "--redis-url"),
        ("unix://", "unix:///PATH"),
    ]:
        done = checked("trades", "--redis-url", url)
        assert done.returncode in (1, 2) and words in done.stdout + done.stderr, (url, done)


async def test_the_bus_of_events_meets_at_the_socket(server, start_weirgate):
    flags = ["--events-bus", f"unix://{USER}:{ESCAPED}@{server.path}", "--events-bus-wait-ms", "300"]
    instances = [start_weirgate("events", *flags, env=ENV) for _ in range(2)]
    await know_each_other(instances)
    async with device(instances[1], "a") as there:
        answer = await pushed(instances[0], {"n": 1}, "a")
        assert (answer["sent"], answer["bus"]) == (1, "up"), answer
        assert (await received(there, 10))["n"] == 1
    assert {user for user, _, where in subscribers(server) if "sock" in where} == {USER}
    # The services of the gateway are away.
    done = await asyncio.to_thread(checked, "events", *flags)
    assert "Redis 7" in done.stdout and "may publish to weirgate.events" in done.stdout, done


async def test_a_sentinel_at_a_socket_names_a_master_with_a_login(server, start_sentinel, start_weirgate, tmp_path):
    socket = tmp_path / "sentinel.sock"
    start_sentinel(server.port, f"unixsocket {socket}", f"sentinel auth-user main {USER}", f'sentinel auth-pass main "{PASSWORD}"')
    flags = ["--redis-sentinels", f"unix://{socket}", "--redis-sentinel-master", "main",
             # Of the URL the login and the database alone: the socket is not that of the master.
             "--redis-url", f"unix://{USER}:{ESCAPED}@/nowhere.sock?db=2"]
    done = await asyncio.to_thread(checked, "channels", *flags)
    assert done.returncode == 0 and f"the sentinel at {socket}" in done.stdout, done
    weirgate = start_weirgate("channels", *flags).wait_ready()
    client = await subscriber(CHANNELS, weirgate, ["A"])
    with server.client() as connection:
        await until(lambda: publish(connection, CHANNELS, "A", 1) == 1, 20, "a subscription in Redis")
    await client.wait_for(lambda c: c.prices == [1], 10, "the publication")
    assert {(user, database) for user, database, _ in subscribers(server)} == {(USER, "2")}


def test_publish_reaches_the_socket(server):
    with server.client() as connection:
        messages = connection.pubsub(ignore_subscribe_messages=True)
        messages.subscribe("a:b")
        messages.get_message(timeout=10)
        url = f"unix://{USER}:{ESCAPED}@{server.path}"
        done = subprocess.run([weirgate_binary(), "publish", url, "a:b", "hello"], capture_output=True, text=True)
        assert done.returncode == 0 and PASSWORD not in done.stdout + done.stderr, done
        assert messages.get_message(timeout=10)["data"] == b"hello"
