"""Services of five frameworks behind the events gateway: what a device gets for each answer of tests/frameworks/answers.json,
and what a client of the proxy gets, HEAD included."""
import asyncio
import http.client
import json
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
