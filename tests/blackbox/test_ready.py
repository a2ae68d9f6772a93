"""/ready says whether data can come; what is away and does not stop the rest is named, and logged when it begins and ends."""
import asyncio
import json

import pytest
from bus import publisher
from processes import free_port
from prometheus import scrape
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
        lines = weirgate.lines_with("a service does not answer")
        assert len(lines) == 1 and "lobby" in lines[0] and "refused" in lines[0].lower(), lines
        back = Service(lambda asked: {"ok": True}, port=lobby)
        try:
            async with asyncio.timeout(60):
                while (await asked(client, "lobby.create"))["error"]:
                    await asyncio.sleep(0.2)
        finally:
            back.stop()
    assert away() == stats() == {}
    [line] = weirgate.lines_with("a service answers again")
    assert "lobby" in line and "away_ms" in line
    simulation.stop()


def reasons(weirgate):
    """The reasons on /ready; none before weirgate listens."""
    status, _, text = weirgate.get("/ready")
    return json.loads(text)["reasons"] if status else []


USERS = """authorization { users: [
    { user: gw, password: p, permissions: { %s } }
    { user: feed, password: f }
] }
no_auth_user: feed"""


@pytest.mark.parametrize("denied, reason, words, metric", [
    ('publish: { deny: "$JS.ACK.>" }', "acks_refused", "let this user publish to $JS.ACK.>", "weirgate_consumer_stalled"),
    ('subscribe: { deny: "_INBOX.>" }', "subscription_refused", "subscribe to _INBOX.>", "weirgate_bus_subscriptions_refused_total"),
    ('publish: { deny: "$JS.API.CONSUMER.INFO.MARKET_DATA.>" }', "subject_away", "publish to $JS.API.CONSUMER.INFO.MARKET_DATA.",
     "weirgate_consumer_away"),
], ids=["acknowledgements", "inboxes", "one-consumer"])
async def test_a_missing_permission_of_nats_is_told(start_nats, start_weirgate, denied, reason, words, metric):
    nats = start_nats(config=USERS % denied)
    weirgate = start_weirgate(nats=nats, env={"NATS_USER": "gw", "NATS_PASSWORD": "p"})
    if reason == "acks_refused":
        weirgate.wait_ready()
        async with publisher(nats) as bus:
            await bus.flow({"n": 1})
    await until(lambda: reason in reasons(weirgate), 20, f"{reason} on /ready")
    assert weirgate.ready_status() == 503
    await until(lambda: words in weirgate.log(), 5, "the missing permission in the log")
    await until(lambda: scrape(weirgate).sum(metric) > 0, 10, "the number")


async def test_levels_go_on_once_inboxes_are_permitted_again(start_nats, start_weirgate):
    """A server ends the subscriptions of a permission that is taken away, and keeps the connection."""
    nats = start_nats(config=USERS % "")
    weirgate = start_weirgate(nats=nats, env={"NATS_USER": "gw", "NATS_PASSWORD": "p"}).wait_ready()
    nats.reload(USERS % 'subscribe: { deny: "_INBOX.>" }')
    await until(lambda: reasons(weirgate) == ["subscription_refused"], 10, "subscription_refused on /ready")
    nats.reload(USERS % "")
    await until(lambda: weirgate.ready_status() == 200, 20, "ready again")
    messages = scrape(weirgate).sum("weirgate_bus_messages_total")
    async with publisher(nats) as bus:
        await bus.flow({"n": 1})
    await until(lambda: scrape(weirgate).sum("weirgate_bus_messages_total") > messages, 10, "a message")


async def test_trades_are_not_ready_at_once_without_their_pattern(redis_server, start_weirgate):
    redis_server.client().execute_command("ACL", "SETUSER", "reader", "on", "nopass", "resetchannels", "+@all")
    weirgate = start_weirgate("trades", env={"REDIS_URL": redis_server.url.replace("//", "//reader:any@")})
    await until(lambda: reasons(weirgate) == ["subscription_refused"], 10, "the refusal, long before the grace of an outage")
    weirgate.logs("Redis refused a subscription", "without the refused names", "refused=1 of=1")
    assert "subscribed on Redis\n" not in weirgate.log() and "subscribed on Redis " not in weirgate.log()
    await until(lambda: scrape(weirgate).sum("weirgate_bus_subscriptions_refused_total") == 1, 10, "weirgate_bus_subscriptions_refused_total")
