"""Find anybody: `/operator/clients`, `/operator/names`, refused names on every page, `weirgate top --user`."""
import asyncio
import concurrent.futures
import json
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request

import pytest
import tokens
import websockets
from operated import SECRET, Operated
from processes import free_port, weirgate_binary
from services import device
from waiting import until

NAME = ["name", "from", "members", "messages", "last_ms", "reach_ms", "why"]
REFUSED = ["at_unix_ms", "session", "client", "user", "role", "name", "reason", "times"]


def get(port, path, **headers):
    """(status, body) of the admin address."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


async def find(admin, what="clients", **query):
    path = f"/operator/{what}?{urllib.parse.urlencode(query)}"
    status, body = await asyncio.to_thread(get, admin, path)
    assert status == 200, body
    return body


@pytest.fixture(params=["redis", "nats"])
def bus(request, redis_server, nats):
    """The URL of a bus, and a function that publishes."""
    if request.param == "redis":
        link = redis_server.client()

        async def publish(name, text):
            await asyncio.to_thread(link.publish, name, text)
        return redis_server.url, publish

    async def publish(name, text):
        import nats as client
        link = await client.connect(nats.url)
        await link.publish(name, text.encode())
        await link.close()
    return nats.url, publish


async def test_a_complaint_is_explained_from_the_search_alone(bus, start_weirgate, tmp_path):
    url, publish = bus
    gateway = Operated(start_weirgate, tmp_path, url)
    held = [await gateway.connect("ann", "quiet")]
    for n in range(60):
        held.append(await gateway.connect(f"u{n}", "busy"))
    found = await find(gateway.admin, user="ann")
    assert (found["count"], len(found["clients"])) == (1, 1)
    ann = found["clients"][0]
    assert (ann["user"], ann["role"], ann["cause"]) == ("ann", "user", "quiet"), ann
    assert "none of its 1 names has had a message" in ann["sentence"]
    assert [list(name) for name in ann["names"]] == [NAME]
    assert (ann["names"][0]["name"], ann["names"][0]["from"], ann["names"][0]["last_ms"]) == ("quiet", "live", None)

    await publish("quiet", "1")
    await held[0][0].recv()
    ann = (await find(gateway.admin, user="ann"))["clients"][0]
    assert ann["cause"] == "healthy" and ann["names"][0]["messages"] == 1 and ann["names"][0]["last_ms"] < 10_000, ann
    by_session = await find(gateway.admin, session=ann["session"], user="ann")
    assert by_session["count"] == 1
    holders = await find(gateway.admin, name="busy")
    assert holders["count"] == 60 and all(row["names"][0]["members"] == 60 for row in holders["clients"])
    names = await find(gateway.admin, "names", name="u")
    assert sorted(name["name"] for name in names["names"]) == ["busy", "quiet"]
    none = await find(gateway.admin, user="eve")
    assert none["count"] == 0 and "no client of this instance is like this: user eve" in none["sentence"]

    rated, _ = await gateway.connect("rate", "news", more="&max_hz=2")
    rate = (await find(gateway.admin, user="rate"))["clients"][0]
    assert rate["max_hz"] == 2.0 and "at most 2 states a second" in rate["sentence"], rate
    empty, _ = await gateway.connect("empty")
    assert (await find(gateway.admin, user="empty"))["clients"][0]["cause"] == "no_names"
    for ws in [rated, empty, *(ws for ws, _ in held[::-1])]:
        await ws.close()
    gone = await find(gateway.admin, user="ann")
    assert gone["count"] == 0 and "the last connection ended" in gone["sentence"] and gone["ended"][0]["user"] == "ann", gone


async def test_a_refused_name_leaves_a_trace_everywhere(redis_server, start_weirgate, tmp_path):
    gateway = Operated(start_weirgate, tmp_path, redis_server.url)
    ws, answer = await gateway.connect("ann", "news", "markt", "x" * 5_000, "markt")
    assert answer["channels"] == ["news"] and len(answer["errors"]) == 3, answer
    gateway.weirgate.logs("a name was refused")
    line = next(line for line in gateway.weirgate.log().splitlines() if "a name was refused" in line)
    assert all(text in line for text in ("name=", "markt", "denied", "role=", "ann")), line
    metrics = get_metrics(gateway.admin)
    assert metrics['weirgate_names_refused_total{reason="denied"}'] == 2
    assert metrics['weirgate_names_refused_total{reason="invalid"}'] == 1
    found = await find(gateway.admin, user="ann")
    row = found["clients"][0]
    assert row["cause"] == "refused_name" and "does not get markt" in row["sentence"] and "role does not grant" in row["sentence"], row
    kept = {one["name"]: one for one in found["refused_names"]}
    assert list(kept["markt"]) == REFUSED and (kept["markt"]["times"], kept["markt"]["role"]) == (2, "user"), kept
    state = get(gateway.admin, "/operator/state")[1]
    assert state["names_refused"] == {"denied": 2, "invalid": 1}
    assert {one["name"] for one in state["refused_names"]} == {"markt", "x" * 128}
    by_name = await find(gateway.admin, "names", name="mark")
    assert by_name["count"] == 0 and [one["user"] for one in by_name["refused_names"]] == ["ann"], by_name

    # A new token of a lesser role takes names away: the client stays, and its prices freeze.
    await ws.send(json.dumps({"action": "subscribe", "channels": ["quiet"]}))
    await ws.recv()
    now = int(time.time())
    token = tokens.jwt(SECRET, sub="ann", role="trader", iat=now, exp=now + 600)
    await ws.send(json.dumps({"action": "authenticate", "token": token}))
    answer = json.loads(await ws.recv())
    assert answer["revoked"] == ["quiet"], answer
    row = (await find(gateway.admin, user="ann"))["clients"][0]
    assert "does not get quiet" in row["sentence"] and "new token" in row["sentence"] and row["role"] == "trader", row
    await ws.close()


async def test_many_refused_names_are_counted_and_nothing_else_grows(redis_server, start_weirgate, tmp_path):
    gateway = Operated(start_weirgate, tmp_path, redis_server.url)
    bob, _ = await gateway.connect("bob", "wrong")
    ws, _ = await gateway.connect("ann")
    for n in range(10):
        await ws.send(json.dumps({"action": "subscribe", "channels": [f"bad.{n}.{i}" for i in range(100)]}))
        await ws.recv()
    state = None

    def all_counted():
        nonlocal state
        state = get(gateway.admin, "/operator/state")[1]
        return state["names_refused"].get("denied") == 1_001 and len(state["refused_names"]) > 1
    await until(all_counted, 10, "all counted")
    assert len(state["refused_names"]) == 9 and "wrong" in {one["name"] for one in state["refused_names"]}
    await asyncio.sleep(1.5)
    lines = [line for line in gateway.weirgate.log().splitlines() if "a name was refused" in line]
    assert len(lines) <= 30, f"{len(lines)} lines"
    assert "lines_left_out" in gateway.weirgate.log()
    await ws.close()
    await bob.close()


def get_metrics(admin):
    with urllib.request.urlopen(f"http://127.0.0.1:{admin}/metrics", timeout=5) as answer:
        lines = [line for line in answer.read().decode().splitlines() if not line.startswith("#")]
    return {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in lines}


async def test_who_may_ask_and_what(redis_server, start_weirgate, tmp_path):
    gateway = Operated(start_weirgate, tmp_path, redis_server.url)
    for path in ("/operator/clients?user=a", "/operator/names?name=a"):
        assert gateway.weirgate.get(path)[0] == 404, path
        for headers in ({"Origin": "https://elsewhere.example"}, {"Sec-Fetch-Site": "cross-site"}, {"Host": "rebound.example"}):
            assert get(gateway.admin, path, **headers)[0] == 403, headers
        assert get(gateway.admin, path)[0] == 200
    for path in ("clients", "clients?", "clients?user=", "clients?users=a", "clients?address=nowhere", "names", "names?user=a", f"clients?user={'a' * 9_000}"):
        status, body = get(gateway.admin, f"/operator/{path}")
        assert status == 400 and body["detail"], path


async def test_an_address_with_many_clients_gives_a_hundred_rows_and_searches_share_a_survey(redis_server, start_weirgate, tmp_path):
    gateway = Operated(start_weirgate, tmp_path, redis_server.url)
    clients = [await gateway.connect(f"u{n}", "news") for n in range(150)]
    found = await find(gateway.admin, address="127.0.0.1")
    assert (found["count"], len(found["clients"])) == (150, 100)
    before = get_metrics(gateway.admin)["weirgate_surveys_total"]
    began = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(40) as threads:
        asked = [asyncio.wrap_future(threads.submit(get, gateway.admin, f"/operator/clients?user=u{n}")) for n in range(40)]
        answers = await asyncio.gather(*asked)
    good = [body for status, body in answers if status == 200]
    assert {status for status, _ in answers} <= {200, 503} and len(good) >= 16, answers
    assert all(body["count"] == 1 for body in good)
    await asyncio.sleep(0.5)
    made = get_metrics(gateway.admin)["weirgate_surveys_total"] - before
    took = time.monotonic() - began
    assert made <= 5 + 2 * took, f"{made} surveys for 40 searches in {took:.1f} s"
    for ws, _ in clients:
        await ws.close()


async def test_a_device_is_found_by_its_hash_and_by_its_id_and_shown_by_its_hash(start_weirgate):
    admin = free_port()
    weirgate = start_weirgate("events", "--admin-addr", f"127.0.0.1:{admin}").wait_for("/health")
    ws = await device(weirgate, "lamp-in-the-attic")
    found = await find(admin, name="lamp-in-the-attic")
    assert found["count"] == 1 and "lamp-in-the-attic" not in json.dumps({**found, "sentence": None}), found
    hashed = found["clients"][0]["user"]
    assert hashed.startswith("sha256:") and found["clients"][0]["names"][0]["name"] == hashed
    for query in ({"user": hashed}, {"name": hashed}):
        assert (await find(admin, **query))["count"] == 1, query
    names = await find(admin, "names", name=hashed[:12])
    assert [one["name"] for one in names["names"]] == [hashed]
    await ws.close()


async def test_top_shows_a_user_with_the_sentence(redis_server, start_weirgate, tmp_path):
    gateway = Operated(start_weirgate, tmp_path, redis_server.url)
    ws, _ = await gateway.connect("ann", "quiet", "wrong")
    run = lambda *args: subprocess.run([weirgate_binary(), "top", *args, f"127.0.0.1:{gateway.admin}"], capture_output=True, text=True, timeout=30)
    done = await asyncio.to_thread(run, "--user", "ann")
    assert done.returncode == 0, done.stderr
    assert "does not get wrong" in done.stdout and "user ann" in done.stdout and "quiet" in done.stdout, done.stdout
    done = await asyncio.to_thread(run, "--user", "eve")
    assert done.returncode == 0 and "no client of this instance is like this: user eve" in done.stdout, done.stdout
    done = await asyncio.to_thread(run, "--address", "nowhere")
    assert done.returncode == 1 and "address: not an IP address" in done.stderr, (done.stdout, done.stderr)
    done = await asyncio.to_thread(run, "--once")
    assert "REFUSED NAMES" in done.stdout, done.stdout
    await ws.close()


async def test_limits_and_the_bus_refuse_names_too(redis_server, start_nats, start_weirgate, tmp_path):
    admin = free_port()
    trades = start_weirgate("trades", "--symbols-max", "1", "--admin-addr", f"127.0.0.1:{admin}", redis=redis_server).wait_for("/health")
    async with websockets.connect(f"ws://127.0.0.1:{trades.port}/") as ws:
        await ws.recv()
        await ws.send('{"action":"subscribe","symbols":["AAPL","MSFT"]}')
        assert json.loads(await ws.recv())["type"] == "error"
        row = (await find(admin, address="127.0.0.1"))["clients"][0]
        assert row["cause"] == "refused_name" and "does not get MSFT, and 1 more" in row["sentence"] and "limit of the client" in row["sentence"], row

    nats = start_nats(config='authorization { users: [{ user: gw, password: p, permissions: { subscribe: ["news", "_INBOX.>"] } }] }')
    gateway = Operated(start_weirgate, tmp_path, nats.url.replace("//", "//gw:p@"))
    ws, _ = await gateway.connect("ann", "busy")
    await until(lambda: get(gateway.admin, "/operator/state")[1]["names_refused"] == {"bus": 1}, 20, "refused by the bus")
    row = (await find(gateway.admin, user="ann"))["clients"][0]
    assert row["names"][0]["from"] == "refused" and "the bus refuses the subscription" in row["sentence"], row
    await ws.close()
