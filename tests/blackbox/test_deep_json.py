"""JSON nested 100,000 levels deep, wherever a bus or its publishers can place it: the process goes on and names the fault."""
import asyncio
import json
import socket
import threading

import pytest
from processes import NatsServer
from test_channels_nats import EVERYTHING, bus, connect
from waiting import until

DEEP = b'{"a":' + b"[" * 100_000
NAMED = "nests deeper than 512 levels"


@pytest.fixture
def deep_server():
    """The URL of a server whose first line nests deeply."""
    listener = socket.create_server(("127.0.0.1", 0))
    taken = []

    def serve():
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            taken.append(connection)
            connection.sendall(b"INFO " + DEEP + b"\r\n")

    threading.Thread(target=serve, daemon=True).start()
    yield f"nats://127.0.0.1:{listener.getsockname()[1]}"
    listener.close()
    for connection in taken:
        connection.close()


@pytest.mark.parametrize("kind", ["levels", "channels", "stream"])
async def test_the_first_line_of_a_server(deep_server, start_weirgate, kind):
    flags = {"levels": ["levels"], "channels": ["channels", "--bus", deep_server],
             "stream": ["channels", "--bus", deep_server, "--stream", "S", "--history-ms", "20000"]}[kind]
    weirgate = start_weirgate(*flags, env={"NATS_URL": deep_server} if kind == "levels" else EVERYTHING)
    await until(lambda: NAMED in weirgate.log() or not weirgate.alive(), 20, "the fault named")
    await asyncio.sleep(1)
    assert weirgate.alive() and NAMED in weirgate.log(), weirgate.log_tail()


@pytest.mark.parametrize("flags", [["--retained"], ["--stream", "S", "--history-ms", "20000"]])
async def test_answers_of_anybody_who_publishes_to_an_inbox(start_weirgate, flags):
    """A publisher sees the requests, and answers with a deep message. The server has no JetStream, so nobody is faster."""
    server = NatsServer(jetstream=False)
    try:
        forger = await bus(server)

        async def forge(request):
            await forger.publish(request.reply, DEEP)

        await forger.subscribe("$JS.API.>", cb=forge)
        await forger.flush()
        weirgate = start_weirgate("channels", "--bus", server.url, *flags, env=EVERYTHING)
        if "--retained" in flags:
            client = await connect(weirgate.wait_ready(), "kept.1", "kept.*")
        await until(lambda: NAMED in weirgate.log() or not weirgate.alive(), 30, "the fault named")
        assert weirgate.alive(), weirgate.log_tail()
        if "--retained" in flags:
            await forger.publish("kept.1", DEEP)
            await forger.publish("kept.1", json.dumps("good").encode())
            # Two copies of each: of the name and of the pattern. What is too deep is text, as what is no JSON.
            await client.wait_for(lambda c: len(c.data) == 4, 20, "the message behind a deep one")
            data = [message["data"] for message in client.data]
            assert [one["raw"] for one in data[:2]] == 2 * [DEEP.decode()] and data[2:] == ["good", "good"]
            client.abort()
        await forger.close()
    finally:
        server.discard()
