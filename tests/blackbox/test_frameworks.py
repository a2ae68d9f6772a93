"""Services of five frameworks behind the events gateway: what a device gets for each answer of tests/frameworks/answers.json,
and what a client of the proxy gets, HEAD included."""
import asyncio
import collections
import http.client
import json
import os
import re
import sys

import pytest
from processes import ROOT, Process, free_port, node_binary
from services import device
from waiting import until

FOLDER = ROOT / "tests" / "frameworks"
TABLE = json.loads((FOLDER / "answers.json").read_text())
NOT_FOLLOWED = "a service answers calls with a redirect, which is not followed"
# Of one connection alone (RFC 9110 §7.6.1), or of the moment.
OF_A_CONNECTION = {"connection", "keep-alive", "transfer-encoding", "date"}


def program(framework):
    """The command of a service, without its port."""
    script = FOLDER / f"with_{framework}.mjs"
    return [node_binary(), script] if script.exists() else [sys.executable, script.with_suffix(".py")]


def rows_of(framework):
    """(event, row) of all answers, and of the framework's own ways."""
    answers = [(f"lobby.{row['name']}", row.get(framework, row)) for row in TABLE["answers"]]
    ways = [row for row in TABLE["ways"] if row["framework"] == framework]
    return answers + [(row.get("event", f"role.{row['name']}"), row) for row in ways]


def expected(event, row):
    """The message to the device as a pattern: the text as the table has it, `*` for any text."""
    kind, data, error = "response", row.get("data"), "null"
    if data is None:
        message = json.dumps(row["error"], ensure_ascii=False)
        kind, data, error = "error", "null", f'{{"code":"upstream_error","message":{message},"details":null}}'
    text = f'{{"type":"{kind}","event":"{event}","request_id":null,"data":{data},"error":{error}}}'
    return re.escape(text).replace(r"\*", ".+")


def answer_of(port, method, path):
    """(status, headers, body) on a connection of its own; nothing while nobody listens."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        headers = sorted((name.lower(), value) for name, value in answer.getheaders() if name.lower() not in OF_A_CONNECTION)
        return answer.status, headers, answer.read()
    except ConnectionRefusedError:
        return None
    finally:
        connection.close()


def differences_of_the_proxy(weirgate_port, port):
    """Answers that a client of the proxy sees otherwise than a client of the service."""
    for method in ["GET", "HEAD"]:
        for row in TABLE["answers"]:
            direct = answer_of(port, method, f"/measurement/v1/jobs/{row['name']}")
            proxied = answer_of(weirgate_port, method, f"/v1/jobs/{row['name']}")
            if direct != proxied:
                yield method, row["name"], direct, proxied


async def answers_to_a_device(weirgate, framework):
    """(event, what came, what should have come) of all rows that differ."""
    async with device(weirgate, "d1") as client:
        for event, row in rows_of(framework):
            await client.send(json.dumps({"event": event}))
            came = await asyncio.wait_for(client.recv(), 20)
            if not re.fullmatch(expected(event, row), came, re.S):
                yield event, came[:300], expected(event, row)


def post_that_dies(port, parts):
    """The status of a POST whose service fails behind the head of its answer; nothing if not one byte of an answer has come."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request("POST", f"/v1/jobs/dies/{parts}", "{}")
        answer = connection.getresponse()
        with pytest.raises(http.client.IncompleteRead):
            answer.read()
        return answer.status
    except http.client.RemoteDisconnected:
        return None
    finally:
        connection.close()


@pytest.mark.parametrize("parts", [0, 1])
@pytest.mark.parametrize("framework", ["fastapi", "express"])
async def test_a_service_that_fails_behind_its_head_is_asked_once(framework, parts, started, start_weirgate):
    port, posts = free_port(), int(os.environ.get("DEATHS", "60"))
    started.append(Process([*program(framework), port]))
    weirgate = start_weirgate("events", env={"MEASUREMENT_URL": f"http://127.0.0.1:{port}/measurement"}).wait_ready()
    await until(lambda: answer_of(port, "GET", "/measurement/v1/jobs/begun"), 20, f"{framework} answers")
    statuses = await asyncio.to_thread(lambda: [post_that_dies(weirgate.port, parts) for _ in range(posts)])
    assert set(statuses) == {201}, collections.Counter(statuses)
    assert answer_of(port, "GET", "/measurement/v1/jobs/begun")[2] == str(posts).encode()


@pytest.mark.parametrize("framework", ["fastapi", "flask", "django", "express", "fastify"])
async def test_answers_of_services_arrive_as_the_table_says(framework, started, start_weirgate):
    port = free_port()
    started.append(Process([*program(framework), port]))
    url = f"http://127.0.0.1:{port}"
    weirgate = start_weirgate("events", env={
        "LOBBY_URL": url, "MEASUREMENT_URL": f"{url}/measurement", "SIMULATION_URL": f"{url}/slash",
        "RATE_LIMIT_RPS": "1000", "RATE_LIMIT_BURST": "1000"}).wait_ready()
    await until(lambda: answer_of(port, "HEAD", "/measurement/v1/jobs/object"), 20, f"{framework} answers")
    differences = [difference async for difference in answers_to_a_device(weirgate, framework)]
    differences += await asyncio.to_thread(lambda: list(differences_of_the_proxy(weirgate.listens_at, port)))
    assert not differences, "\n".join(map(str, differences))
    # Each place once, and nothing secret in it.
    lines = weirgate.lines_with(NOT_FOLLOWED)
    places = [re.search(r"place=(\S*)", line).group(1) for line in lines]
    assert len(set(places)) == len(places) and {'"/moved"', '"https://other.example/see"'} <= set(places), lines
    assert "secret" not in weirgate.log()
