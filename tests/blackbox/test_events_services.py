"""The events gateway and three real services, wired as deploy/compose.events.yaml says; the replaced gateway's
documents, word for word."""
import asyncio
import json
import re
import sys

import pytest
import yaml
from processes import ROOT, Process, Weirgate, free_port
from services import device, post

COMPOSE = ROOT / "deploy" / "compose.events.yaml"
TOKEN = "a-token-of-the-tests"


def wired(ports):
    """The services of the compose file by name, with their environment; hosts are replaced by ports of this machine."""
    services = yaml.safe_load(COMPOSE.read_text())["services"]
    assert services.keys() == ports.keys()

    def local(value):
        value = re.sub(r"\$\{INTERNAL_AUTH_TOKEN:\?[^}]*\}", TOKEN, str(value))
        for name, port in ports.items():
            value = value.replace(f"//{name}:8000", f"//127.0.0.1:{port}")
        assert "${" not in value, value
        return value
    return {name: {key: local(value) for key, value in service["environment"].items()} for name, service in services.items()}


def script_of(name):
    """What the compose file lets a service run."""
    service = yaml.safe_load(COMPOSE.read_text())["services"][name]
    [volume] = service["volumes"]
    here, there, _ = volume.split(":")
    assert service["command"] == ["python", there]
    return (COMPOSE.parent / here).resolve()


@pytest.fixture
def world(started):
    """The gateway of the compose file, with its services."""
    ports = {name: free_port() for name in ["gateway", "lobby", "measurement", "simulation"]}
    environments = wired(ports)
    for name in ["lobby", "measurement", "simulation"]:
        env = {**environments[name], "PORT": str(ports[name])}
        started.append(Process([sys.executable, script_of(name)], env=env))
    weirgate = Weirgate("events", env={**environments["gateway"], "GATEWAY_PORT": str(ports["gateway"])})
    weirgate.port, weirgate.http_url = ports["gateway"], f"http://127.0.0.1:{ports['gateway']}"
    started.append(weirgate)
    return weirgate.wait_ready()


async def request(client, event, data, request_id="uuid-123"):
    await client.send(json.dumps({"event": event, "request_id": request_id, "data": data}))
    while True:
        answer = json.loads(await asyncio.wait_for(client.recv(), 20))
        if answer["type"] != "event":
            assert (answer["event"], answer["request_id"]) == (event, request_id)
            return answer


async def until_served(client, event, data=None):
    """The services start at the same time as the gateway."""
    end = asyncio.get_running_loop().time() + 20
    while True:
        answer = await request(client, event, data or {})
        if not (answer["error"] and answer["error"]["message"] == "Upstream unreachable"):
            return answer
        assert asyncio.get_running_loop().time() < end, answer
        await asyncio.sleep(1.1)


async def test_what_the_document_says_happens(world):
    weirgate = world
    assert weirgate.get("/healthz")[2] == '{"status":"ok"}'
    async with device(weirgate, "device1") as one, device(weirgate) as two:
        required = json.loads(await asyncio.wait_for(two.recv(), 20))
        assert required["event"] == "gateway.identify_required"
        identified = await request(two, "identify", {"device_id": "device2"})
        assert identified["data"] == {"device_id": "device2"}
        created = await until_served(one, "lobby.create")
        assert created["type"] == "response" and created["data"].keys() == {"lobby_id", "code"}
        refused = await request(two, "lobby.join", {})
        assert refused["error"] == {"code": "upstream_error", "details": None,
                                    "message": "Upstream error (400): Missing 'code' in data"}
        joined = await request(two, "lobby.join", {"code": created["data"]["code"]})
        assert joined["data"]["devices"] == ["device1", "device2"]
        updated = json.loads(await asyncio.wait_for(one.recv(), 20))
        assert updated == {"type": "event", "event": "lobby.updated", "request_id": None, "error": None,
                           "data": {"type": "participant_joined", "device_id": "device2"}}
        job = (await until_served(one, "measurement.create_job"))["data"]
        assert job.keys() == {"job_id"}
        simulated = await until_served(two, "simulation.run", {"volume_m3": 100, "absorption_m2": 10})
        assert simulated["data"] == {"rt60_s": 1.61}
        broadcast = {"event": "lobby.updated", "data": {"type": "participant_joined", "device_id": "..."},
                     "targets": {"device_ids": ["device1", "device2"]}}
        url = f"{weirgate.http_url}/internal/broadcast"
        assert post(url, broadcast, {"X-Internal-Token": TOKEN}) == (200, {"sent": 2})
        for client in [one, two]:
            pushed = json.loads(await asyncio.wait_for(client.recv(), 20))
            assert pushed["data"] == broadcast["data"]


def test_the_settings_of_the_file_are_the_documents():
    gateway = wired({name: 8000 for name in ["gateway", "lobby", "measurement", "simulation"]})["gateway"]
    documented = {"MAX_MESSAGE_BYTES": "65536", "RATE_LIMIT_RPS": "10.0", "RATE_LIMIT_BURST": "20",
                  "HTTP_TIMEOUT_SECONDS": "10.0"}
    assert documented.items() <= gateway.items()
