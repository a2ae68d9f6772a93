"""`/operator/state` on the admin address: who may read what, how much of it, and that nobody pays who does not ask."""
import asyncio
import json
import time
import urllib.error
import urllib.request

from bus import publisher
from clients import connect_many
from processes import free_port
from prometheus import scrape
from waiting import until

CLIENT = ["client", "user", "path", "state", "age_ms", "queue_messages", "queue_bytes", "oldest_ms", "stuck_ms", "bytes_in", "bytes_out",
          "messages_in", "messages_out", "conflated", "topics", "topic", "recent_messages"]
SURVEY = ["age_ms", "took_us", "slices", "interval_ms", "clients", "clients_waiting", "clients_blocked", "clients_conflating", "slowest", "busiest",
          "topics", "busiest_topics"]


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
    assert surveys(admin) == rested


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
    assert scrape(without).sum("weirgate_surveys_total") == 0


async def test_every_limit_names_metrics_that_are_there(redis_server, start_weirgate):
    weirgate, admin = await started(start_weirgate, "channels", redis=redis_server)
    names = {line.split("{")[0].split(" ")[0] for line in get(admin, "/metrics")[2].splitlines() if not line.startswith("#")}
    limits = state(admin)["limits"]
    assert {"--connections-max", "--frame-bytes-max", "--all-channels-max", "--all-wildcards-max", "ulimit -n"} <= {limit["name"] for limit in limits}
    for limit in limits:
        assert limit["metric"] in names, limit
        assert limit["max_metric"] is None or limit["max_metric"] in names, limit
        assert limit["about"], limit
