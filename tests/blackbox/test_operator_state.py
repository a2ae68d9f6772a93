"""`/operator/state` on the admin address: who may read what, how much of it, and that nobody pays who does not ask."""
import asyncio
import json
import time
import urllib.error
import urllib.request

from bus import publisher
from clients import connect, connect_many
from processes import free_port
from prometheus import Metrics
from redis_gateways import CHANNELS, publish, subscriber
from waiting import patient, until

CLIENT = ["session", "client", "user", "tls", "path", "state", "age_ms", "queue_messages", "queue_bytes", "oldest_ms", "stuck_ms", "bytes_in", "bytes_out",
          "messages_in", "messages_out", "conflated", "topics", "topic", "recent_messages", "why", "say", "slow_ms", "kernel"]
SURVEY = ["age_ms", "took_us", "slices", "interval_ms", "clients", "clients_waiting", "clients_blocked", "clients_conflating", "slowest", "busiest",
          "topics", "busiest_topics", "topics_quiet", "quiet_topics"]
NUMBERS = {
    "clients": "weirgate_clients", "connections": "weirgate_connections", "connections_max": "weirgate_connections_max",
    "connections_accepted": "weirgate_connections_accepted_total", "connections_ended": "weirgate_client_closes_total",
    "bus_messages": "weirgate_bus_messages_total", "bus_messages_bad": "weirgate_bus_messages_bad_total", "bus_gaps": "weirgate_bus_gaps_total",
    "bus_queue_messages": "weirgate_bus_queue_messages", "bus_last_message_unix_ms": "weirgate_bus_last_message_timestamp_seconds",
    "messages_queued": "weirgate_messages_queued_total", "messages_sent": "weirgate_frames_sent_total",
    "messages_conflated": "weirgate_messages_conflated_total", "messages_shed": "weirgate_messages_shed_total",
    "messages_dropped": "weirgate_messages_dropped_total", "messages_waiting": "weirgate_messages_waiting",
    "send_queue_bytes": "weirgate_send_queue_bytes", "send_queue_peak_bytes": "weirgate_send_queue_peak_bytes",
    "frame_bytes": "weirgate_frame_bytes_alive", "sent_bytes": "weirgate_bytes_sent_total",
    "received_messages": "weirgate_received_messages_total", "received_bytes": "weirgate_received_bytes_total",
    "cpu_seconds": "process_cpu_seconds_total", "loop_busy_seconds": "weirgate_loop_turn_duration_seconds_sum",
}


def get(port, path, **headers):
    """(status, headers, body) of the admin address; status 0 without an answer."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return answer.status, answer.headers, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read().decode()
    except OSError:
        return 0, {}, ""


def state(port):
    return json.loads(get(port, "/operator/state")[2])


async def surveyed(port, condition):
    """The first state whose survey is so."""
    found = []

    def look():
        now = state(port)
        if now["survey"] and condition(now):
            found.append(now)
        return bool(found)
    await until(look, 10, "the survey", every=0.2)
    return found[0]


async def started(start_weirgate, *args, **kwargs):
    admin = free_port()
    weirgate = start_weirgate(*args, "--admin-addr", f"127.0.0.1:{admin}", **kwargs)
    await until(lambda: get(admin, "/ready")[0] == 200, 20, "ready")
    return weirgate, admin


def surveys(admin):
    lines = get(admin, "/metrics")[2].splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("weirgate_surveys_total "))


async def test_it_names_few_and_counts_all(nats, start_weirgate):
    weirgate, admin = await started(start_weirgate, "levels", nats=nats)
    clients = await connect_many(60, weirgate.port)
    async with publisher(nats) as bus:
        for n in range(3):
            await bus.flow({"n": n})
        for client in clients:
            await client.wait_for(lambda c: c.messages == 3, 10, "three messages")
        now = await surveyed(admin, lambda now: now["survey"]["clients"] == 60 and now["survey"]["busiest"])
        survey = now["survey"]
        assert list(survey) == SURVEY
        assert len(survey["busiest"]) == 20 and survey["slowest"] == []
        assert list(survey["busiest"][0]) == CLIENT
        first = survey["busiest"][0]
        assert (first["client"], first["path"], first["state"], first["topic"], first["messages_out"]) == ("127.0.0.1", "/ws/stream", "idle", "levels", 3)
        topic = survey["busiest_topics"][0]
        assert list(topic) == ["name", "members", "recent_messages", "recent_bytes"]
        assert (topic["name"], topic["members"]) == ("levels", 60)
        assert now["bus"]["connected"] and [c["subject"] for c in now["bus"]["consumers"]] == ["levels.signals", "market.flow"]
    for client in clients:
        client.abort()
    now = await surveyed(admin, lambda now: now["survey"]["clients"] == 0 and now["ends"])
    assert len(now["ends"]) <= 50 and {end["path"] for end in now["ends"]} == {"/ws/stream"}
    times = [end["at_unix_ms"] for end in now["ends"]]
    assert times == sorted(times, reverse=True)
    assert all(end["reason"] in ("peer_gone", "socket_error") and end["messages_out"] == 3 for end in now["ends"])


async def test_only_who_asks_has_a_survey_made_and_that_once_a_second(start_weirgate):
    _, admin = await started(start_weirgate, "demo")
    await asyncio.sleep(2)
    assert surveys(admin) == 0
    begin = time.monotonic()
    while time.monotonic() < begin + 3:
        assert await asyncio.to_thread(lambda: get(admin, "/operator/state")[0]) == 200
    made, seconds = surveys(admin), time.monotonic() - begin
    assert 1 <= made <= seconds + 2, f"{made} surveys in {seconds:.1f} s"
    assert state(admin)["survey"]["age_ms"] < 2_000
    await asyncio.sleep(3)
    rested = surveys(admin)
    await asyncio.sleep(2)
    assert surveys(admin) == rested + 1, "for the metrics before"


async def test_client_addresses_are_on_the_admin_address_alone(nats, start_weirgate):
    url = f"nats://user:s3cret@127.0.0.1:{nats.port}"
    weirgate, admin = await started(start_weirgate, "levels", env={"NATS_URL": url})
    for path in ("/operator", "/operator/", "/operator/state", "/operator/main.js"):
        assert weirgate.get(path)[0] == 404, path
    # A browser would let pages of any origin read what has CORS headers, as the others have.
    status, headers, body = get(admin, "/operator/state", Origin="https://elsewhere.example")
    assert status == 403 and "client" not in body
    assert get(admin, "/stats", Origin="https://elsewhere.example")[1]["access-control-allow-origin"] == "*"
    status, headers, body = get(admin, "/operator/state")
    assert status == 200 and headers["cache-control"] == "no-store"
    assert "s3cret" not in body
    status, headers, _ = get(admin, "/operator/")
    assert status == 200 and "default-src 'none'" in headers["content-security-policy"]

    without = start_weirgate("levels", nats=nats).wait_ready()
    for path in ("/operator", "/operator/", "/operator/state"):
        assert without.get(path)[0] == 404, path


async def test_every_limit_has_its_value(redis_server, start_weirgate):
    weirgate, admin = await started(start_weirgate, "channels", "--all-channels-max", "7", redis=redis_server)
    client = await subscriber(CHANNELS, weirgate, ["AAPL", "MSFT"])
    now = await surveyed(admin, lambda now: now["survey"]["topics"] == 2)
    limits = {limit.pop("name"): limit for limit in now["limits"]}
    assert all(list(limit) == ["about", "is_bytes", "is_of_one", "now", "max"] and limit["about"] for limit in limits.values()), limits
    values = {name: (limit["now"], limit["max"]) for name, limit in limits.items()}
    assert values["--all-channels-max"] == (2, 7), values
    assert values["--connections-max"] == (now["numbers"]["connections"], now["numbers"]["connections_max"]), values
    assert 1 <= values["--connections-max"][0] < values["--connections-max"][1], values
    assert 10 < values["ulimit -n"][0] < values["ulimit -n"][1], values
    assert limits["--frame-bytes-max"]["is_bytes"] and values["--frame-bytes-max"][1] == 512 * 1024 * 1024
    assert values["unfinished-bytes"] == (0, 64 * 1024 * 1024), values
    assert "--proxy-connections-max" not in limits, "no services here"
    client.abort()


async def test_the_largest_send_queue_beside_its_limits_is_that_of_now(nats, start_weirgate):
    weirgate, admin = await started(start_weirgate, "levels", nats=nats)
    slow = await connect(weirgate.port, receive_bytes=4096)
    slow.stop_reading()
    of_queue = lambda now: {limit["now"] for limit in now["limits"] if limit["name"].startswith("--send-queue-")}
    async with publisher(nats) as bus:
        async with asyncio.timeout(30):
            while not state(admin)["numbers"]["send_queue_bytes"]:
                await bus.flow({"pad": "x" * 8192})
    now = await surveyed(admin, lambda now: now["survey"]["slowest"])
    assert of_queue(now) == {now["survey"]["slowest"][0]["queue_bytes"]}
    slow.abort()
    now = await surveyed(admin, lambda now: now["survey"]["clients"] == 0)
    assert of_queue(now) == {0} and now["numbers"]["send_queue_peak_bytes"] > 0, now["limits"]


async def test_the_numbers_are_those_of_the_metrics(nats, start_weirgate):
    weirgate, admin = await started(start_weirgate, "levels", nats=nats)
    client = await connect(weirgate.port)
    ended = await connect(weirgate.port)
    async with publisher(nats) as bus:
        await bus.flow({"n": 1})
        for one in (client, ended):
            await one.wait_for(lambda c: c.messages == 1, 10, "the message")
    ended.abort()
    now = await surveyed(admin, lambda now: now["closes"])
    assert sum(now["closes"].values()) == 1 and set(now["closes"]) <= {"peer_gone", "socket_error"}
    metrics = Metrics(get(admin, "/metrics")[2])
    numbers = now["numbers"]
    assert list(numbers) == list(NUMBERS)
    for name in numbers.keys() - {"cpu_seconds", "loop_busy_seconds"}:
        assert numbers[name] == round(metrics.sum(NUMBERS[name]) * (1000 if name.endswith("_unix_ms") else 1)), name
    assert numbers["clients"] == 1 and numbers["messages_sent"] == 2 and numbers["bus_messages"] == 1 and numbers["sent_bytes"] > 0
    assert 0 < numbers["loop_busy_seconds"] <= metrics.sum(NUMBERS["loop_busy_seconds"])
    assert 0 < numbers["cpu_seconds"] <= metrics.sum("process_cpu_seconds_total")
    client.abort()


async def test_a_busy_name_that_stands_still_is_named_and_counted(redis_server, start_weirgate):
    weirgate, admin = await started(start_weirgate, "channels", redis=redis_server)
    client = await subscriber(CHANNELS, weirgate, ["STOPS", "GOES"])
    redis = redis_server.client()
    quiet = lambda: (state(admin)["survey"] or {"quiet_topics": []})["quiet_topics"]

    async def ticks(*names):
        for name in names:
            publish(redis, CHANNELS, name, 1)
        await asyncio.sleep(0.1)

    for _ in range(15):
        await ticks("STOPS", "GOES")
    begin = time.monotonic()
    while not quiet():
        assert time.monotonic() < begin + patient(15), "nothing is quiet"
        await ticks("GOES")
    assert time.monotonic() - begin > 4.5
    [row] = quiet()
    assert (row["name"], row["members"]) == (CHANNELS.channel("STOPS"), 1), row
    assert row["quiet_ms"] > 5_000 and row["usual_gap_ms"] < 5_000, row
    await until(lambda: "\nweirgate_topics_quiet 1\n" in get(admin, "/metrics")[2], 5, "the metric", 0.5)
    await ticks("STOPS")
    await surveyed(admin, lambda now: not now["survey"]["quiet_topics"])
    redis.close()
    client.abort()
