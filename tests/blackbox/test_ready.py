"""/ready says whether data can come; what is away and does not stop the rest is named, and logged when it begins and ends."""
import asyncio
import json

from processes import free_port
from services import Service, device
from waiting import until


async def asked(client, event):
    """What the gateway answers to one request; pushes are passed over."""
    await client.send(json.dumps({"event": event, "request_id": "r", "data": {}}))
    while True:
        answer = json.loads(await asyncio.wait_for(client.recv(), 20))
        if answer["type"] != "event":
            return answer


async def test_a_service_that_is_away_is_named_and_events_stay_ready(start_weirgate):
    lobby, simulation = free_port(), Service(lambda asked: {"ok": True})
    weirgate = start_weirgate("events", env={
        "LOBBY_URL": f"http://127.0.0.1:{lobby}", "MEASUREMENT_URL": simulation.url, "SIMULATION_URL": simulation.url,
    }).wait_ready()
    away = lambda: weirgate.health()["services_away"]
    stats = lambda: json.loads(weirgate.get("/stats")[2])["services_away"]
    assert away() == stats() == {}
    async with device(weirgate, "one") as client:
        for _ in range(3):
            assert (await asked(client, "lobby.create"))["error"]["code"] == "upstream_error"
        assert (await asked(client, "simulation.run"))["error"] is None
        assert list(away()) == list(stats()) == ["lobby"]
        assert weirgate.ready_status() == 200, "its other services answer"
        lines = [line for line in weirgate.log().splitlines() if "a service does not answer" in line]
        assert len(lines) == 1 and "lobby" in lines[0] and "refused" in lines[0].lower(), lines
        back = Service(lambda asked: {"ok": True}, port=lobby)
        try:
            async with asyncio.timeout(10):
                while (await asked(client, "lobby.create"))["error"]:
                    await asyncio.sleep(0.2)
        finally:
            back.stop()
    assert away() == stats() == {}
    await until(lambda: "a service answers again" in weirgate.log(), 5, "the line of the recovery")
    [line] = [line for line in weirgate.log().splitlines() if "a service answers again" in line]
    assert "lobby" in line and "away_ms" in line
    simulation.stop()
