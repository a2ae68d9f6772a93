"""`weirgate publish` as a program: real brokers, what they get, and how it ends."""
import asyncio
import contextlib
import json
import os
import pathlib
import signal
import socket
import subprocess
import time

import nats as nats_client
import pytest
from nats.js.api import DiscardPolicy, StreamConfig
from processes import Process, RedisServer, free_port, weirgate_binary
from waiting import until

WALK = r'{"n":{number},"walk":{walk},"other":{}}'


def run(*args, stdin="", seconds=30, env=()):
    """(status, standard output, standard error) of a run that ends by itself."""
    done = subprocess.run([weirgate_binary(), "publish", *map(str, args)], env={"PATH": os.environ["PATH"], **dict(env)}, input=stdin, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=seconds)
    return done.returncode, done.stdout, done.stderr


async def publish(*args, **kwargs):
    """The same, while this test receives."""
    return await asyncio.to_thread(run, *args, **kwargs)


@contextlib.contextmanager
def subscribed(server, channel):
    """What comes on a channel of Redis: a function that returns the next message, or None."""
    with server.client() as client:
        pubsub = client.pubsub(ignore_subscribe_messages=True)
        pubsub.subscribe(channel)
        assert pubsub.get_message(timeout=10) is None

        def next_message(seconds=10):
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                message = pubsub.get_message(timeout=0.2)
                if message is not None:
                    return message["data"].decode()
            return None
        yield next_message


def test_a_name_without_subscribers_shows_with_the_first_message(redis_server, started):
    endless = Process([weirgate_binary(), "publish", redis_server.url, "trade:AAPL", WALK, "--rate", "5"])
    started.append(endless)
    endless.logs("publishing on trade:AAPL; Ctrl-C ends it", "no receiver so far: nobody is subscribed to trade:AAPL")


def test_redis_says_how_many_receive(redis_server):
    url = redis_server.url
    assert run(url, "a:b", "hello") == (
        0, "published 1 message on a:b: no receiver; nobody is subscribed to this channel\n", "")
    with subscribed(redis_server, "a:b") as received:
        assert run(url, "a:b", "hello") == (0, "published 1 message on a:b: 1 receiver\n", "")
        assert received() == "hello"
        assert run(url, "a:b", WALK, "--count", 3)[1] == "published 3 messages on a:b: 1 receiver\n"
        messages = [json.loads(received()) for _ in range(3)]
        assert [message["n"] for message in messages] == [1, 2, 3]
        assert all(99 < message["walk"] < 101 and message["other"] == {} for message in messages)
        before = time.time_ns() // 1_000_000
        assert run(url, "a:b")[0] == 0
        message = json.loads(received())
        assert message["n"] == 1 and before <= message["time"] <= before + 20_000


def test_lines_of_standard_input_are_published_as_they_are(redis_server):
    lines = ["{number} {walk}", "", "  ä ", "last"]
    with subscribed(redis_server, "c") as received:
        status, out, told = run(redis_server.url, "c", "-", stdin="\n".join(lines))
        assert (status, out, told) == (0, "published 4 messages on c: 1 receiver\n", "")
        assert [received() for _ in lines] == lines
        assert run(redis_server.url, "c", "-", "--count", 1, stdin="a\nb\n")[1] == "published 1 message on c: 1 receiver\n"
        assert received() == "a" and received(0.3) is None
    assert run(redis_server.url, "c", "-")[:2] == (0, "published 0 messages on c\n")


def test_the_bytes_of_a_file_are_published_as_they_are(redis_server, tmp_path):
    file = tmp_path / "payload"
    with redis_server.client() as client:
        for payload in (bytes(range(256)) + b"\r\n{number}\n", b""):
            file.write_bytes(payload)
            for kind in ([], ["--count", 2, "--rate", 1000]):
                status, out, _ = run(redis_server.url, "c", f"@{file}", *kind, "--stream", "s")
                assert status == 0 and out.startswith(f"published {2 if kind else 1} message")
            assert [fields[b"data"] for _, fields in client.xrange("s")] == [payload] * 3
            client.delete("s")
    status, _, told = run(redis_server.url, "c", f"@{tmp_path}/none")
    assert status == 2 and f"cannot read {tmp_path}/none: No such file" in told


def test_the_rate_is_kept_and_a_signal_ends_it(redis_server, started):
    begun = time.monotonic()
    status, out, _ = run(redis_server.url, "c", "x", "--count", 5, "--rate", 10)
    assert (status, out.startswith("published 5 messages")) == (0, True)
    assert time.monotonic() - begun >= 0.4
    with subscribed(redis_server, "c") as received:
        endless = Process([weirgate_binary(), "publish", redis_server.url, "c", "{number}", "--rate", "20"])
        started.append(endless)
        assert [received() for _ in range(4)] == ["1", "2", "3", "4"]
        endless.send(signal.SIGTERM)
        assert endless.wait(10) == 0
    endless.logs("publishing on c; Ctrl-C ends it", ": 1 receiver")


@pytest.mark.parametrize("more", [(), ("--stream", "t"), ("--retry",)])
def test_a_signal_ends_it_while_redis_does_not_answer(redis_server, started, more):
    publisher = Process([weirgate_binary(), "publish", redis_server.url, "c", "{number}", "--rate", "20", *more])
    started.append(publisher)
    publisher.logs("publishing on c; Ctrl-C ends it")
    time.sleep(0.5)
    redis_server.client().execute_command("CLIENT", "PAUSE", "30000", "WRITE")
    time.sleep(0.5)
    publisher.send(signal.SIGTERM)
    assert publisher.wait(3) == 0


@pytest.mark.parametrize("args", [("--rate", "20"), ("--count", "1000000000"), ("--rate", "20", "--jetstream"), ("--rate", "20", "--retry")])
async def test_a_signal_ends_it_while_nats_does_not_answer(start_nats, started, args):
    server = start_nats()
    connection = await nats_client.connect(server.url)
    await connection.jetstream().add_stream(name="KEPT", subjects=["kept"])
    await connection.close()
    publisher = Process([weirgate_binary(), "publish", server.url, "kept", "{number}", *args])
    started.append(publisher)
    await asyncio.sleep(1)
    server.freeze()
    await asyncio.sleep(0.5)
    begun = time.monotonic()
    publisher.send(signal.SIGTERM)
    assert publisher.wait(3) == 0
    assert time.monotonic() - begun < 1
    publisher.logs("published ", " on kept", "; not confirmed, and perhaps published: ")


def test_a_signal_ends_it_while_a_server_greets_nobody(started):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(60)
        for scheme in ("nats", "redis"):
            publisher = Process([weirgate_binary(), "publish", f"{scheme}://127.0.0.1:{silent.getsockname()[1]}", "c", "x"])
            started.append(publisher)
            # A signal before that would end it without a word.
            link, _ = silent.accept()
            begun = time.monotonic()
            publisher.send(signal.SIGINT)
            assert publisher.wait(3) == 0
            assert time.monotonic() - begun < 1, scheme
            publisher.logs("published 0 messages on c")
            link.close()


def test_a_signal_ends_it_while_it_waits_for_a_line(redis_server):
    with subscribed(redis_server, "c") as received:
        publisher = subprocess.Popen([weirgate_binary(), "publish", redis_server.url, "c", "-"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        publisher.stdin.write("whole\nhalf")
        publisher.stdin.flush()
        assert received() == "whole"
        publisher.send_signal(signal.SIGINT)
        try:
            assert publisher.wait(5) == 0 and publisher.stdout.read() == "published 1 message on c: 1 receiver\n"
        finally:
            publisher.kill()
        assert received(0.3) is None


def endless(started, *args):
    started.append(Process([weirgate_binary(), "publish", *args, "--rate", "20", "--retry"]))
    return started[-1]


def test_retry_goes_on_after_a_restart_of_redis(started):
    server = RedisServer()
    started.append(server)
    publisher = endless(started, server.url, "c", "{number}")
    with subscribed(server, "c") as received:
        assert int(received()) > 0
    server.kill()
    publisher.logs("; again in 0.2 s", "; again in 0.5 s")
    assert publisher.alive()
    server.start()
    publisher.logs("publishing on c again")
    with subscribed(server, "c") as received:
        first, second = int(received()), int(received())
        assert second == first + 1, "the number goes on"
        begun = time.monotonic()
        assert [int(received()) for _ in range(10)][-1] == second + 10
        assert time.monotonic() - begun > 0.3, "the rate holds: nothing is made up for"
    publisher.send(signal.SIGTERM)
    assert publisher.wait(10) == 0


async def test_retry_goes_on_after_a_restart_of_nats_and_a_signal_ends_the_wait(start_nats, started):
    server = start_nats()
    publishers = [endless(started, server.url, "news.flash", "{number}"), endless(started, server.url, "ends", "x")]
    connection = await nats_client.connect(server.url)
    got = await connection.subscribe("news.flash")
    assert int((await got.next_msg(10)).data) > 0
    await asyncio.to_thread(publishers[1].logs, "publishing on ends")
    await connection.close()
    server.kill()
    for publisher in publishers:
        publisher.logs("; again in 0.2 s", "; again in 0.5 s")
    publishers[1].send(signal.SIGTERM)
    assert await asyncio.to_thread(publishers[1].wait, 10) == 0
    server.start()
    await asyncio.to_thread(publishers[0].logs, "publishing on news.flash again")
    connection = await nats_client.connect(server.url)
    got = await connection.subscribe("news.flash")
    first = int((await got.next_msg(10)).data)
    assert int((await got.next_msg(10)).data) == first + 1
    await connection.close()
    publishers[0].send(signal.SIGTERM)
    assert await asyncio.to_thread(publishers[0].wait, 10) == 0


async def test_retry_waits_for_a_stream_that_has_taken_a_message(start_nats, started):
    server = start_nats()
    connection = await nats_client.connect(server.url)
    js = connection.jetstream()
    await js.add_stream(name="KEPT", subjects=["kept"])
    publisher = endless(started, server.url, "kept", "{number}", "--jetstream")
    await stored(js)
    await js.delete_stream("KEPT")
    await asyncio.to_thread(publisher.logs, "no stream has this subject", "; again in 0.2 s")
    await js.add_stream(name="KEPT", subjects=["kept"])
    await asyncio.to_thread(publisher.logs, "publishing on kept again")
    await stored(js)
    await connection.close()
    publisher.send(signal.SIGTERM)
    assert await asyncio.to_thread(publisher.wait, 10) == 0


async def stored(js):
    """Waits until the stream has a message."""
    async with asyncio.timeout(60):
        while (await js.stream_info("KEPT")).state.messages == 0:
            await asyncio.sleep(0.05)


def test_retry_waits_until_redis_takes_writes_again(started):
    server = RedisServer()
    started.append(server)
    with server.client() as client:
        for refuses, takes, words in [
            (("config", "set", "min-replicas-to-write", 1), ("config", "set", "min-replicas-to-write", 0), "NOREPLICAS"),
            (("config", "set", "maxmemory", 1), ("config", "set", "maxmemory", 0), "OOM"),
            (("replicaof", "127.0.0.1", 1), ("replicaof", "no", "one"), "READONLY"),
        ]:
            client.delete("kept")
            client.execute_command(*refuses)
            publisher = endless(started, server.url, "c", "{number}", "--stream", "kept")
            publisher.logs(words, "; again in 0.2 s")
            client.execute_command(*takes)
            deadline = time.monotonic() + 60
            while not client.exists("kept"):
                assert time.monotonic() < deadline and publisher.alive()
                time.sleep(0.05)
            publisher.send(signal.SIGTERM)
            assert publisher.wait(10) == 0


def test_retry_ends_at_what_does_not_pass(redis_server):
    status, out, told = run(redis_server.url.replace("//", "//nobody:any@"), "c", "x", "--retry")
    assert (status, out) == (1, "") and told.startswith("error: ") and told.count("\n") == 1, told


async def test_what_a_stream_says_of_a_message(nats):
    connection = await nats_client.connect(nats.url)
    streams = connection.jetstream()
    await streams.add_stream(StreamConfig(name="MUTE", subjects=["mute.*"], no_ack=True))
    status, out, told = await publish(nats.url, "mute.a", "x", "--jetstream")
    assert (status, out) == (1, "") and "nobody confirmed the message on mute.a; it may be stored" in told, told
    assert (await streams.stream_info("MUTE")).state.messages == 1
    await streams.add_stream(StreamConfig(name="FULL", subjects=["full.*"], max_msgs=1, discard=DiscardPolicy.NEW))
    assert (await publish(nats.url, "full.a", "x", "--jetstream"))[0] == 0
    status, out, told = await publish(nats.url, "full.a", "x", "--jetstream")
    assert (status, out) == (1, "") and "maximum messages exceeded" in told and "-js" not in told, told
    await connection.close()


async def test_nats_with_and_without_a_stream(nats):
    status, out, told = await publish(nats.url, "news.flash", "x", "--jetstream")
    assert (status, out) == (1, "") and "no stream has this subject" in told and "news.flash" in told, told
    connection = await nats_client.connect(nats.url)
    got = await connection.subscribe("news.>")
    await connection.flush()
    assert await publish(nats.url, "news.flash", WALK, "--count", 2) == (0, "published 2 messages on news.flash\n", "")
    assert [json.loads((await got.next_msg(10)).data)["n"] for _ in range(2)] == [1, 2]
    status, out, told = await publish(nats.url, "news.flash", "x", "--jetstream")
    assert (status, out) == (1, "") and "nobody confirmed the message" in told and "may be stored" in told, told
    streams = connection.jetstream()
    await streams.add_stream(StreamConfig(name="NEWS", subjects=["news.*"]))
    assert await publish(nats.url, "news.flash", "x", "--jetstream", "--count", 3) == (
        0, "published 3 messages on news.flash: stored in stream NEWS, up to sequence 3\n", "")
    many = await publish(nats.url, "news.flash", "-", stdin="y\n" * 5_000)
    assert many[:2] == (0, "published 5000 messages on news.flash\n")
    stored = (await streams.stream_info("NEWS")).state.messages
    assert stored == 5_003
    await connection.close()


async def test_pings_are_answered_while_nothing_is_published(start_nats, started):
    """A default nats-server ends a connection after six minutes without an answer, this one after five seconds."""
    nats = start_nats(config='ping_interval: "1s"\nping_max: 4')
    slow = Process([weirgate_binary(), "publish", nats.url, "a.b", "x", "--rate", "0.2", "--count", "2"])
    started.append(slow)
    lines = subprocess.Popen([weirgate_binary(), "publish", nats.url, "a.b", "-"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    lines.stdin.write("1\n")
    lines.stdin.flush()
    await asyncio.sleep(8)
    said, _ = await asyncio.to_thread(lines.communicate, "2\n", 20)
    assert (lines.returncode, said) == (0, "published 2 messages on a.b\n")
    assert await asyncio.to_thread(slow.wait, 20) == 0, slow.log()


async def test_what_nats_refuses_ends_with_1(start_nats):
    server = start_nats(config='authorization { users: [{user: u, password: secret, permissions: {publish: ["ok", "_INBOX.>"]}}] }')
    good, bad = (f"nats://u:{password}@127.0.0.1:{server.port}" for password in ("secret", "wrong-secret"))
    assert (await publish(good, "ok", "x"))[0] == 0
    for args, words in [
        ((bad, "ok", "x"), "Authorization Violation"),
        ((good, "forbidden", "x"), "publish to forbidden"),
        ((good, "forbidden", "x", "--jetstream"), "publish to forbidden"),
        ((good, "ok", "-"), "at most 1048576 bytes (max_payload), and the message has 1048577 bytes"),
        ((f"nats://127.0.0.1:{free_port()}", "ok", "x"), "cannot reach NATS"),
        (("nats://no-such-host.invalid", "ok", "x"), "cannot reach NATS"),
    ]:
        status, out, told = await publish(*args, stdin="x" * 1_048_577)
        assert (status, out) == (1, "") and words in told and "secret" not in told, told
        assert told.startswith("error: ") and told.count("\n") == 1, told
    status, out, told = await publish(good, "forbidden", "-", stdin="x\n" * 5_000)
    assert (status, out, told.count("\n")) == (1, "", 1) and "publish to forbidden" in told, told


@pytest.mark.parametrize("flags", [[], ["--jetstream"]])
async def test_an_error_says_how_many_were_published_before(nats, flags):
    """Who pipes a file has to know where to go on."""
    connection = await nats_client.connect(nats.url)
    await connection.jetstream().add_stream(name="BEFORE", subjects=["before"])
    lines = "1\n2\n3\n" + "x" * 2_000_000 + "\nlast\n"
    status, out, told = await publish(nats.url, "before", "-", *flags, stdin=lines)
    error, published = told.splitlines()
    assert (status, out) == (1, "") and error.startswith("error: NATS") and "has 2000000 bytes" in error
    stored = ": stored in stream BEFORE, up to sequence 3" if flags else ""
    assert published == "published 3 messages on before" + stored
    await connection.jetstream().delete_stream("BEFORE")
    await connection.close()


def test_a_signal_ends_it_while_nobody_reads_what_it_says(redis_server):
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with contextlib.suppress(BlockingIOError):
        while os.write(writer, b"x" * 4096):
            pass
    os.set_blocking(writer, True)
    command = [weirgate_binary(), "publish", redis_server.url, "nobody", "hi", "--rate", "100"]
    publisher = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=writer)
    time.sleep(1)
    publisher.terminate()
    assert publisher.wait(5) == 0
    os.close(reader)
    os.close(writer)


def test_what_redis_refuses_ends_with_1(started):
    server = RedisServer()
    started.append(server)
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "u", "on", ">secret", "resetchannels", "&ok", "+@all")
        client.config_set("requirepass", "secret")
    where = f"127.0.0.1:{server.port}"
    assert run(f"redis://u:secret@{where}", "ok", "x")[0] == 0
    for url, channel, words in [
        (f"redis://{where}", "ok", "refused the connection (NOAUTH"),
        (f"redis://u:wrong-secret@{where}", "ok", "refused AUTH (WRONGPASS"),
        (f"redis://u:secret@{where}", "forbidden", "refused PUBLISH (NOPERM"),
        (f"redis://127.0.0.1:{free_port()}", "ok", "cannot reach Redis"),
        ("redis://no-such-host.invalid", "ok", "cannot reach Redis"),
    ]:
        status, out, told = run(url, channel, "x")
        assert (status, out) == (1, "") and words in told and "secret" not in told, told
        assert told.startswith("error: ") and told.count("\n") == 1, told


async def test_a_broker_that_goes_away_ends_it(redis_server, nats, started):
    for server, name in ((redis_server, "Redis"), (nats, "NATS")):
        endless = Process([weirgate_binary(), "publish", server.url, "c", "{number}", "--rate", "50"])
        started.append(endless)
        await until(lambda: "publishing on c" in endless.log(), 10, "the start")
        server.kill()
        assert endless.wait(20) == 1
        endless.logs("error: ", name)


@pytest.mark.parametrize(("args", "words"), [
    ((), "SUBJECT|CHANNEL"),
    (("redis://h",), "SUBJECT|CHANNEL"),
    (("ws://h:8000/ws", "c"), "clients cannot publish through a gateway"),
    (("h:6379", "c"), "neither nats://HOST:4222 nor redis://HOST:6379"),
    (("http://u:secret@h", "c"), "neither nats://"),
    (("nats://h", "a.*", "x"), "is not a subject of NATS to publish on"),
    (("redis://h", "c", "x", "--jetstream"), "for NATS"),
    (("redis://h", "c", "--rate", "0"), "allowed: a number from 0.001"),
    (("redis://h", "c", "--count", "-1"), "--count"),
])
def test_wrong_use_ends_with_2(args, words):
    status, out, told = run(*args)
    assert (status, out) == (2, "") and words in told and "secret" not in told, told


def test_the_login_of_redis_may_come_from_the_environment(started):
    server = RedisServer()
    started.append(server)
    with server.client() as redis:
        redis.config_set("requirepass", "se cret")
    url, login = f"redis://127.0.0.1:{server.port}", "redis://:se%20cret@127.0.0.1"
    for env, status in [({"REDIS_PASSWORD": "se cret"}, 0), ({"WEIRGATE_REDIS_PASSWORD": "se cret"}, 0), ({}, 1),
                        ({"REDIS_URL": f"{login}:{server.port}"}, 0), ({"REDIS_URL": f"{login}:{free_port()}"}, 1)]:
        done = run(url, "a", "x", env=env)
        assert done[0] == status and "se cret" not in done[2], (env, done)
    assert run(f"redis://:wrong@127.0.0.1:{server.port}", "a", "x", env={"REDIS_PASSWORD": "se cret"})[0] == 1


def test_the_login_of_a_url_leaves_the_list_of_processes(started, tmp_path):
    """What a pipe holds is there only once: it is read by the process that publishes."""
    server = RedisServer()
    started.append(server)
    with server.client() as redis:
        redis.config_set("requirepass", "s3cret")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    url = f"redis://:s3cret@127.0.0.1:{server.port}"
    started.append(Process([weirgate_binary(), "publish", url, "a", f"@{pipe}", "--rate", "50", "--count", "200"], {"REDIS_PASSWORD": "other"}))
    publisher = started[-1]
    pipe.write_bytes(b"from the pipe")
    line = pathlib.Path(f"/proc/{publisher.pid}/cmdline").read_bytes()
    assert b"redis://***" in line and b"s3cret" not in line, line
    assert publisher.wait(20) == 0, publisher.log()
    assert "published 200 messages" in publisher.log()


def test_the_login_of_nats_may_come_from_the_environment(start_nats):
    nats = start_nats(config='authorization { users: [{user: u, password: "p w"}] }')
    for env, status in [({"NATS_USER": "u", "NATS_PASSWORD": "p w"}, 0), ({"WEIRGATE_NATS_USER": "u", "NATS_PASSWORD": "p w"}, 0), ({}, 1),
                        ({"NATS_USER": "u", "NATS_PASSWORD": "p w", "NATS_TOKEN": "t"}, 2)]:
        done = run(nats.url, "a", "x", env=env)
        assert done[0] == status and "p w" not in done[2], (env, done)
