"""The limits of the bus between instances, and what others may say on it."""
import asyncio
import json
import threading

from instances import ENV, bus_flags, id_of, is_silent, know_each_other, knows, pushed, received, start_instances
from prometheus import scrape
from services import TOKEN, device
from waiting import until

IGNORED = "weirgate_events_bus_messages_ignored_total"


class Pretender:
    """A program that says that it is an instance, and answers nothing."""

    def __init__(self, redis_server, name="pretender"):
        self.client, self.name = redis_server.client(), name
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self._stay, daemon=True)
        self.thread.start()

    def _stay(self):
        while not self.stopped.wait(0.3):
            self.say("here")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stopped.set()
        self.thread.join(5)

    def say(self, words, body=b""):
        """Publishes a message in its own name."""
        self.client.publish("weirgate.events", f"weirgate-events/1 {self.name} {words}\n".encode() + body)


WAITING_MAX = 1_000


async def push_at_once(weirgate, n):
    """A push on a connection of its own, which needs no thread: its status and body."""
    body = json.dumps({"event": "e", "data": {"n": n}, "targets": {"device_ids": ["a"]}}).encode()
    head = (f"POST /internal/broadcast HTTP/1.1\r\nHost: a\r\nX-Internal-Token: {TOKEN}\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n")
    reader, writer = await asyncio.open_connection("127.0.0.1", weirgate.port)
    writer.write(head.encode() + body)
    answer = await asyncio.wait_for(reader.read(), 60)
    writer.close()
    return int(answer.split(b" ")[1]), json.loads(answer.partition(b"\r\n\r\n")[2])


async def test_pushes_that_wait_are_bounded(start_weirgate, redis_server):
    weirgate, = start_instances(start_weirgate, redis_server, 1, "--events-bus-wait-ms", "15000")
    await know_each_other([weirgate])
    async with device(weirgate, "a") as client:
        with Pretender(redis_server):
            await until(lambda: knows(weirgate, 2), 20, "the pretender")
            answers = await asyncio.gather(*(push_at_once(weirgate, n) for n in range(WAITING_MAX + 7)))
        refused = [answer for answer in answers if answer[0] == 503]
        assert len(refused) == 7, answers
        assert refused[0] == (503, {"detail": "Too many pushes wait for other instances"})
        for status, answer in answers:
            if status == 200:
                assert answer == {"sent": 1, "bus": "up", "instances": 1, "missing": ["pretender"]}
        for _ in range(WAITING_MAX):
            await received(client)
        assert await is_silent(client), "a refused push reaches nobody"
    await until(lambda: scrape(weirgate).sum("weirgate_events_bus_pushes_refused_total") == 7, 10, "weirgate_events_bus_pushes_refused_total")


async def test_what_others_say_on_the_channel_breaks_nothing(start_weirgate, redis_server):
    instances = start_instances(start_weirgate, redis_server, 2)
    await know_each_other(instances)
    redis = redis_server.client()
    async with device(instances[0], "a") as client:
        for channel in ["weirgate.events", f"weirgate.events.{id_of(instances[0])}"]:
            for message in [b"", b"hello", b"\xff\x00\n" * 1_000, b"x" * 3_000_000,
                            b"weirgate-events/9 x push 1 0 1\n{}", b"weirgate-events/1 x push 1 0 1 7\nno json",
                            b'weirgate-events/1 x push 2 0 1 11\n{"event":1}',
                            b"weirgate-events/1 " + b"y" * 300 + b" here\n"]:
                redis.publish(channel, message)
        await until(lambda: scrape(instances[0]).sum(IGNORED, reason="bad") >= 14, 20, "the bad messages in the metrics")
        assert (await pushed(instances[1], {"n": 1}, "a"))["sent"] == 1
        assert await received(client) == {"n": 1}
        # Who may publish on the channel may push: an instance is known by the bus alone.
        with Pretender(redis_server, "p") as pretender:
            body = b'{"event":"e","data":{"n":2},"targets":{"device_ids":["a"]}}'
            pretender.say(f"push 1 0 1 {len(body)}", body)
        assert await received(client) == {"n": 2}
        assert await is_silent(client)
    lines = instances[0].lines_with("is ignored")
    assert 0 < len(lines) < 16


async def test_a_redis_user_that_may_not_publish_is_told(start_weirgate, redis_server):
    redis_server.client().execute_command("ACL", "SETUSER", "listener", "on", ">pw", "+@all", "-publish", "&*", "~*")
    url = f"redis://listener:pw@127.0.0.1:{redis_server.port}"
    weirgate = start_weirgate("events", "--events-bus", url, env=ENV).wait_ready()
    await until(lambda: "Redis refused a message" in weirgate.log(), 20, "the reason in the log")
    assert (await pushed(weirgate, {}, "a"))["bus"] == "away"


async def test_a_nats_user_that_may_not_publish_is_told(start_weirgate, start_nats):
    users = 'authorization { users = [ { user: u, password: p, permissions: { publish: "other", subscribe: ">" } } ] }'
    server = start_nats(config=users)
    url = f"nats://u:p@127.0.0.1:{server.port}"
    weirgate = start_weirgate("events", "--events-bus", url, env=ENV).wait_ready()
    await until(lambda: "does not let this user publish to weirgate.events" in weirgate.log(), 30, "the reason in the log")
    assert (await pushed(weirgate, {}, "a"))["bus"] == "away"


async def test_the_documented_permissions_are_enough(start_weirgate, redis_server, start_nats):
    rules = ["resetchannels", "&weirgate.events", "&weirgate.events.*", "-@all", "+subscribe", "+unsubscribe", "+publish", "+ping"]
    redis_server.client().execute_command("ACL", "SETUSER", "weirgate", "on", ">pw", *rules)
    names = '["weirgate.events", "weirgate.events.*"]'
    users = f"[ {{ user: weirgate, password: pw, permissions: {{ publish: {names}, subscribe: {names} }} }} ]"
    nats = start_nats(config=f"authorization {{ users = {users} }}")
    for url in [f"redis://weirgate:pw@127.0.0.1:{redis_server.port}", f"nats://weirgate:pw@127.0.0.1:{nats.port}"]:
        instances = [start_weirgate("events", "--events-bus", url, "--events-bus-wait-ms", "5000", env=ENV) for _ in range(2)]
        await know_each_other(instances)
        async with device(instances[1], "a") as client:
            assert (await pushed(instances[0], {"n": 1}, "a"))["sent"] == 1
            assert await received(client) == {"n": 1}
        assert not any("refused" in one.log() or "ermission" in one.log() for one in instances)


async def test_large_pushes_go_over_redis(start_weirgate, redis_server):
    instances = start_instances(start_weirgate, redis_server, 2)
    await know_each_other(instances)
    async with device(instances[1], "a", compression=None) as client:
        data = {"x": "y" * 10_000_000}
        assert (await pushed(instances[0], data, "a"))["sent"] == 1
        assert await received(client) == data


async def test_wrong_settings_of_the_bus_end_the_start(start_weirgate):
    for flags, named in [(["--events-bus", "http://h"], "--events-bus"), (["--events-bus", "127.0.0.1:1"], "--events-bus"),
                         (["--events-bus", "redis://a,redis://b"], "--events-bus"),
                         (["--redis-sentinels", "a:1", "--redis-sentinel-master", "m"], "--events-bus"),
                         (["--events-bus", "nats://a", "--nats-cert", "f"], "--nats-cert"),
                         (["--events-bus-name", "a b"], "--events-bus-name"),
                         (["--events-bus-name", "a.*"], "--events-bus-name")]:
        weirgate = start_weirgate("events", *flags, env=ENV)
        assert weirgate.wait(10) == 2, flags
        weirgate.logs(named)
