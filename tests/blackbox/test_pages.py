"""What operators read: /metrics, /health, /ready, /stats."""
import asyncio
import json

from bus import publisher
from clients import connect
from prometheus import scrape
from waiting import until

# Dashboards and alerts lean on these; renaming one is a breaking change.
SERIES = [
    "weirgate_build_info",
    "weirgate_clients",
    "weirgate_client_connections_total",
    "weirgate_client_closes_total",
    "weirgate_connections_accepted_total",
    "weirgate_connections_returned_total",
    "weirgate_send_errors_total",
    "weirgate_send_queue_peak_bytes",
    "weirgate_loop_turn_duration_seconds",
    "weirgate_bus_messages_old_total",
    "weirgate_bus_messages_ignored_total",
    "weirgate_consumer_lag_messages",
    "weirgate_bus_connected",
    "weirgate_bus_messages_total",
    "weirgate_bus_messages_bad_total",
    "weirgate_bus_reconnects_total",
    "weirgate_bus_last_message_timestamp_seconds",
    "weirgate_messages_queued_total",
    "weirgate_frames_sent_total",
    "weirgate_messages_conflated_total",
    "weirgate_messages_shed_total",
    "weirgate_messages_dropped_total",
    "weirgate_messages_waiting",
    "weirgate_send_queue_bytes",
    "weirgate_stage_duration_seconds",
    "weirgate_loop_last_turn_timestamp_seconds",
    "weirgate_draining",
    "process_resident_memory_bytes",
]


async def test_metrics_parse_and_hold_the_names(nats, start_weirgate):
    weirgate = start_weirgate(nats=nats).wait_ready()
    client = await connect(weirgate.port)
    async with publisher(nats) as bus:
        for n in range(5):
            await bus.flow({"n": n})
        await client.wait_for(lambda c: c.messages == 5, 5, "five messages")
    metrics = scrape(weirgate)
    assert [name for name in SERIES if not metrics.has(name)] == []
    assert metrics.sum("weirgate_clients") == 1
    assert metrics.sum("weirgate_frames_sent_total") == 5
    assert metrics.sum("weirgate_bus_messages_total") == 5
    stage = "weirgate_stage_duration_seconds_count"
    for name in ("bus", "bus_to_feed", "feed", "queue", "first_write", "last_write"):
        assert metrics.sum(stage, stage=name) == 5, name
    for name in metrics.types:
        assert name.startswith(("weirgate_", "process_")), f"{name} has a strange prefix"
        assert metrics.helps.get(name), f"{name} has no help text"
    client.abort()
    await until(lambda: scrape(weirgate).sum("weirgate_clients") == 0, 3, "the client gone from the gauge")


async def test_health_has_the_fields_in_order(nats, start_weirgate):
    weirgate = start_weirgate(nats=nats).wait_ready()
    async with publisher(nats) as bus:
        client = await connect(weirgate.port)
        await bus.flow({"n": 1})
        await client.wait_for(lambda c: c.messages == 1, 5, "a message")
    health = weirgate.health()
    assert list(health)[:4] == ["service", "status", "nats_url", "connections"]
    assert (health["service"], health["status"], health["nats_url"], health["connections"]) == ("gateway", "healthy", nats.url, 1)
    assert health["nats_connected"] is True
    assert isinstance(health["last_message_ts"], int)
    assert set(health["consumer_lag"]) == {"gateway_levels", "gateway_flow"}
    client.abort()


def test_health_hides_the_password(nats, start_weirgate):
    url = f"nats://user:s3cret@127.0.0.1:{nats.port}"
    weirgate = start_weirgate(env={"NATS_URL": url}).wait_ready()
    status, _, body = weirgate.get("/health")
    assert status == 200 and json.loads(body)["nats_url"] == url.replace("s3cret", "***")
    for path in ("/stats", "/metrics"):
        assert "s3cret" not in weirgate.get(path)[2]
    assert "s3cret" not in weirgate.log()


async def test_unknown_paths_and_wrong_methods(nats, start_weirgate):
    weirgate = start_weirgate(nats=nats).wait_ready()
    status, _, body = weirgate.get("/nope")
    assert (status, json.loads(body)) == (404, {"detail": "Not Found"})
    status, headers, _ = weirgate.get("/stats")
    assert status == 200 and headers["content-type"].startswith("application/json")
    reader, writer = await asyncio.open_connection("127.0.0.1", weirgate.port)
    writer.write(b"POST /health HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
    answer = await asyncio.wait_for(reader.read(), 60)
    writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 405") and b"allow:" in head.lower()
    assert json.loads(body) == {"detail": "Method Not Allowed"}
