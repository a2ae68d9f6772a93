"""`/operator/tail` on the admin address: the messages of a topic, of each gateway, bounded, and for nobody who was not let."""
import asyncio
import json
import time
import urllib.error
import urllib.parse
import urllib.request

import pytest
from processes import free_port
from redis_gateways import CHANNELS, TRADES, subscriber
from services import TOKEN, device, push
from waiting import until


def tail(admin, topic, after=0, **headers):
    """(status, JSON)"""
    query = urllib.parse.urlencode({"topic": topic, "after": after})
    request = urllib.request.Request(f"http://127.0.0.1:{admin}/operator/tail?{query}", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


async def started(start_weirgate, *args, **kwargs):
    admin = free_port()
    weirgate = start_weirgate(*args, "--admin-addr", f"127.0.0.1:{admin}", **kwargs)

    def is_ready():
        try:
            return urllib.request.urlopen(f"http://127.0.0.1:{admin}/ready", timeout=3).status == 200
        except OSError:
            return False
    await until(is_ready, 20, "ready")
    return weirgate, admin


async def until_lines(admin, topic, publish=lambda: None):
    """The answer once there are lines; publishes until then."""
    found = []

    def look():
        publish()
        status, json_ = tail(admin, topic)
        assert status == 200, json_
        found[:] = [json_] if json_["lines"] else []
        return bool(found)
    await until(look, 15, f"messages of {topic}", every=0.2)
    return found[0]


def copied(admin):
    text = urllib.request.urlopen(f"http://127.0.0.1:{admin}/metrics", timeout=5).read().decode()
    return {line.split()[0]: int(line.split()[1]) for line in text.splitlines() if line.startswith("weirgate_tail_")}


async def test_messages_of_levels_come_while_somebody_asks_and_are_forgotten_then(start_weirgate):
    _, admin = await started(start_weirgate, "demo")
    assert copied(admin) == {"weirgate_tail_topics": 0, "weirgate_tail_messages_total": 0}
    first = await until_lines(admin, "levels")
    line = first["lines"][-1]
    assert line["text"].startswith('{"') and line["is_cut"] == (line["bytes"] > 2048 >= len(line["text"].encode()))
    assert abs(line["at_unix_ms"] / 1000 - time.time()) < 20
    # Only what is newer comes again.
    last = line["number"]
    await until(lambda: tail(admin, "levels", after=last)[1]["lines"], 10, "a newer message")
    assert all(line["number"] > last for line in tail(admin, "levels", after=last)[1]["lines"])
    assert tail(admin, "levels")[1]["began_unix_ms"] == first["began_unix_ms"]
    assert copied(admin)["weirgate_tail_topics"] == 1
    await until(lambda: copied(admin)["weirgate_tail_topics"] == 0, 20, "the end of the tail")
    before = copied(admin)["weirgate_tail_messages_total"]
    await asyncio.sleep(1)
    assert copied(admin)["weirgate_tail_messages_total"] == before > 0, "nothing is copied while nobody looks"


async def test_few_topics_are_looked_at_at_once_and_each_for_some_seconds(start_weirgate):
    _, admin = await started(start_weirgate, "demo")
    for n in range(4):
        assert tail(admin, f"t{n}")[0] == 200
    status, json_ = tail(admin, "t4")
    assert status == 503 and "4 other topics" in json_["detail"]
    assert tail(admin, "t0")[0] == 200, "known ones go on"
    await until(lambda: tail(admin, "t4")[0] == 200, 20, "room")


@pytest.mark.parametrize("kind", [TRADES, CHANNELS], ids=lambda kind: kind.name)
async def test_a_symbol_and_a_channel(kind, redis_server, start_weirgate):
    weirgate, admin = await started(start_weirgate, kind.name, "--admin-tail", redis=redis_server)
    client = await subscriber(kind, weirgate, ["AAPL"])
    with urllib.request.urlopen(f"http://127.0.0.1:{admin}/operator/state", timeout=5) as answer:
        assert json.load(answer)["tail"] is True
    link = redis_server.client()
    message = json.dumps({"symbol": "AAPL", "price": 150.25})
    topic = "AAPL" if kind is TRADES else kind.channel("AAPL")
    found = await until_lines(admin, topic, lambda: link.publish(kind.channel("AAPL"), message))
    assert "150.25" in found["lines"][0]["text"], found
    client.abort()


async def test_pushes_to_a_device(start_weirgate, service):
    lobby = service(lambda asked: True)
    env = {"LOBBY_URL": lobby.url, "SIMULATION_URL": lobby.url, "INTERNAL_AUTH_TOKEN": TOKEN}
    weirgate, admin = await started(start_weirgate, "events", "--admin-tail", env=env)
    async with device(weirgate, "tablet-7"):
        found = await until_lines(admin, "tablet-7", lambda: push(weirgate, "round", {"n": 41}, "tablet-7", port=admin))
    assert json.loads(found["lines"][0]["text"])["data"] == {"n": 41}


async def test_messages_are_for_nobody_unless_the_operator_says_so(nats, start_weirgate):
    weirgate, admin = await started(start_weirgate, "levels", nats=nats)
    status, json_ = tail(admin, "levels")
    assert status == 403 and "--admin-tail" in json_["detail"]
    assert weirgate.get("/operator/tail?topic=levels")[0] == 404, "never on the public port"
    shown, admin = await started(start_weirgate, "levels", "--admin-tail", nats=nats)
    assert shown.get("/operator/tail?topic=levels")[0] == 404
    assert tail(admin, "levels", Origin="https://elsewhere.example")[0] == 403
    assert tail(admin, "levels", Host="rebound.example")[0] == 403
    assert tail(admin, "levels")[0] == 200
