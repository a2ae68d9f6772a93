"""A NATS server whose name has two addresses, the first of which takes connections and is of no use."""
import asyncio
import socket
import threading

import pytest
from prometheus import scrape
from test_channels_nats import EVERYTHING, bus
from test_events_addresses import two_addresses  # noqa: F401
from waiting import until

INFO = b'INFO {"server_id":"X","version":"2.9.10","max_payload":1048576,"headers":true}\r\n'
# What the first address says before it is silent, or closes.
USELESS = {"silent": (b"", False), "closes": (b"", True), "greets": (INFO, False), "greets and closes": (INFO, True),
           "refuses": (INFO + b"-ERR 'Authorization Violation'\r\n", True),
           "has no JetStream": (INFO + b"PONG\r\n", False)}


@pytest.mark.parametrize("kind", ["levels", "channels", "a stream", "events"])
@pytest.mark.parametrize("fault", USELESS)
async def test_the_second_address_serves_at_the_next_attempt(kind, fault, nats, start_weirgate, two_addresses):  # noqa: F811
    words, closes = USELESS[fault]
    if kind in ("channels", "events") and fault == "has no JetStream":
        pytest.skip("names need none")
    connection = await bus(nats)
    stream = connection.jetstream()
    for name, subject in (("LEVEL_SIGNALS", "levels.signals"), ("MARKET_DATA", "market.flow"), ("TICKS", "m.>")):
        await stream.add_stream(name=name, subjects=[subject])
    first, taken = socket.create_server(("127.0.1.2", nats.port)), []

    def take():
        while True:
            taken.append(first.accept()[0])
            taken[-1].sendall(words)
            if closes:
                taken[-1].close()
    threading.Thread(target=take, daemon=True).start()
    url = f"nats://two.test:{nats.port}"
    flags = {"levels": ("levels", "--nats-url", url, "--ephemeral"), "channels": ("channels", "--bus", url),
             "events": ("events", "--events-bus", url),
             "a stream": ("channels", "--bus", url, "--history-ms", "60000", "--stream", "TICKS")}[kind]
    weirgate = start_weirgate(*flags, env={**EVERYTHING, **two_addresses})
    up = {"events": "weirgate_events_bus_up"}.get(kind, "weirgate_bus_connected")
    await until(lambda: weirgate.ready_status() == 200 and scrape(weirgate).sum(up) == 1, 20, "/ready")
    await asyncio.sleep(1)
    # Names beside a stream have a connection of their own.
    assert len(taken) == (2 if kind == "a stream" else 1), "each source has one connection"
    await connection.close()
