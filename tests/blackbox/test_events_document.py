"""The request examples of the replaced events gateway's document, word for word, from tests/snippets/events.md.

Its tables of events and of paths are the vectors route_lobby, route_others, proxy_basics and proxy_methods; its services
and its environment run in test_events_services.py."""
import asyncio
import json
import re

from processes import ROOT
from services import TOKEN, device, post

DOCUMENT = (ROOT / "tests" / "snippets" / "events.md").read_text()
REQUEST, RESPONSE, PUSH, ERROR, BROADCAST = re.findall(r"```\w+\n(.*?)```", DOCUMENT, re.S)
QUERY, IDENTIFY = re.findall(r"(?:with|Send) `(.*?)`", DOCUMENT)


async def received(client):
    return json.loads(await asyncio.wait_for(client.recv(), 20))


def is_documented(got, example):
    """All that the document shows is there; what it leaves out is null."""
    example = json.loads(example)
    return {**dict.fromkeys(["type", "event", "request_id", "data", "error"]), **example} == got


async def test_a_device_says_who_it_is_in_both_ways(start_weirgate):
    weirgate = start_weirgate("events", env={"INTERNAL_AUTH_TOKEN": TOKEN}).wait_ready()
    async with device(weirgate, QUERY.removeprefix("?device_id=")) as one, device(weirgate) as two:
        required = await received(two)
        assert (required["type"], required["event"]) == ("event", "gateway.identify_required")
        await two.send(REQUEST)
        assert (await received(two))["error"]["code"] == "unauthenticated"
        await two.send(IDENTIFY)
        assert (await received(two))["data"] == {"device_id": "your-device-id"}
        body = {"event": "e", "targets": {"device_ids": ["your-device-id"]}}
        url = f"{weirgate.http_url}/internal/broadcast"
        assert post(url, body, {"X-Internal-Token": TOKEN}) == (200, {"sent": 2})
        assert (await received(one))["event"] == (await received(two))["event"] == "e"


async def test_a_request_gets_the_response_or_the_error_shown(start_weirgate, service):
    example = json.loads(ERROR)
    answers = [json.loads(RESPONSE)["data"], (400, {"detail": example["error"]["message"]})]
    lobby = service(lambda asked: answers.pop(0))
    weirgate = start_weirgate("events", env={"LOBBY_URL": lobby.url}).wait_ready()
    async with device(weirgate, "d") as client:
        await client.send(REQUEST)
        assert is_documented(await received(client), RESPONSE)
        await client.send(REQUEST)
        refused = await received(client)
        # The document makes the service's refusal its own; the gateway says whose it is.
        example["error"] = {"code": "upstream_error", "details": None,
                            "message": f"Upstream error (400): {example['error']['message']}"}
        assert is_documented(refused, json.dumps(example))
    assert [asked["message"] for asked in lobby.asked] == [json.loads(REQUEST)] * 2


async def test_a_broadcast_reaches_its_devices_as_shown(start_weirgate):
    weirgate = start_weirgate("events", env={"INTERNAL_AUTH_TOKEN": TOKEN}).wait_ready()
    head, body = BROADCAST.replace("<token>", TOKEN).split("\n\n", 1)
    request, *headers = head.splitlines()
    method, path = request.split()
    assert method == "POST"
    async with device(weirgate, "device1") as one, device(weirgate, "device2") as two:
        url = weirgate.http_url + path
        assert post(url, body.encode(), [line.split(": ") for line in headers]) == (200, {"sent": 2})
        for client in [one, two]:
            assert is_documented(await received(client), PUSH)
