"""A name with two addresses: the first takes connections and is of no use; Redis is at the second."""
import asyncio
import socket
import threading

import pytest
from redis_gateways import CHANNELS, publish, subscriber
from test_events_addresses import two_addresses  # noqa: F401
from waiting import until

FAILURES = ("silent", "closes", "no_redis", "refuses", "goes_silent")


class First:
    """What listens at the first address."""

    def __init__(self, port, how):
        self.how, self.taken = how, []
        self.socket = socket.create_server(("127.0.1.2", port))
        threading.Thread(target=self._take, daemon=True).start()

    def _take(self):
        while True:
            client = self.socket.accept()[0]
            self.taken.append(client)
            if self.how == "closes":
                client.close()
            elif self.how == "no_redis":
                client.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            elif self.how == "refuses":
                client.sendall(b"-ERR max number of clients reached\r\n")
            elif self.how == "goes_silent":
                # After the log-in.
                client.sendall(b"+PONG\r\n+OK\r\n")


def url(server):
    return f"redis://two.test:{server.port}"


@pytest.mark.parametrize("how", FAILURES)
async def test_a_failure_behind_the_connect_leads_to_the_next_address(start_weirgate, redis_server, two_addresses, how):  # noqa: F811
    first = First(redis_server.port, how)
    env = {**two_addresses, "REDIS_URL": url(redis_server), "DEFAULT_ROLE": "internal"}
    stream = ["--stream", "ticks", "--history-ms", "60000"] if how == "goes_silent" else []
    weirgate = start_weirgate("channels", *stream, env=env)
    await asyncio.to_thread(weirgate.wait_ready)
    assert len(first.taken) == 1
    if not stream:
        client = await subscriber(CHANNELS, weirgate, ["A"])
        with redis_server.client() as connection:
            publish(connection, CHANNELS, "A", 1)
        await client.wait_for(lambda c: c.prices == [1], 10, "the message")
    # Redis throws the connection out: the address that failed is not tried again before.
    with redis_server.client() as connection:
        connection.client_kill_filter(skipme=True)
    await asyncio.sleep(1)
    await asyncio.to_thread(weirgate.wait_ready)
    assert len(first.taken) <= 2
    assert "two.test" in weirgate.log_tail()


@pytest.mark.parametrize("how", FAILURES)
async def test_the_name_of_a_sentinel_and_of_the_bus_of_events_too(start_weirgate, redis_server, two_addresses, how):  # noqa: F811
    first = First(redis_server.port, how)
    weirgate = start_weirgate("events", "--events-bus", url(redis_server), env={**two_addresses})
    await until(lambda: redis_server.client().pubsub_channels(), 20, "the bus")
    await until(lambda: first.taken, 10, "the first address")
    weirgate.kill()

    sentinel = socket.create_server(("127.0.0.1", 0))

    def answer():
        while True:
            client = sentinel.accept()[0]
            host, port = b"127.0.0.1", str(redis_server.port).encode()
            client.recv(4096)
            client.sendall(b"+PONG\r\n+OK\r\n")
            client.recv(4096)
            client.sendall(b"*2\r\n$%d\r\n%s\r\n$%d\r\n%s\r\n" % (len(host), host, len(port), port))
    threading.Thread(target=answer, daemon=True).start()
    port = sentinel.getsockname()[1]
    first = First(port, how)
    env = {**two_addresses, "REDIS_SENTINELS": f"two.test:{port}", "REDIS_SENTINEL_MASTER": "main"}
    weirgate = start_weirgate("trades", env=env)
    await asyncio.to_thread(weirgate.wait_ready)
    await until(lambda: first.taken, 10, "the first address")
