"""`--memory-max`: the large sums over all clients are filled at once, in a process that may have no more memory than that."""
import asyncio
import socket
import struct

from clients import small_socket, upgrade_request
from prometheus import scrape
from redis_gateways import CHANNELS, publish, subscriber
from tls import MemoryClient
from waiting import until

MIB = 1024 * 1024
MEMORY = 256 * MIB


def held(weirgate):
    """{of: (held, max)}"""
    samples = scrape(weirgate).samples
    at = {family: {labels["of"]: value for name, labels, value in samples if name == family} for family in ("weirgate_held", "weirgate_held_max")}
    return {of: (value, at["weirgate_held_max"][of]) for of, value in at["weirgate_held"].items()}


def begun_records(weirgate, authority, count):
    """Connections over TLS that have sent a large record without its last bytes."""
    clients = []
    for _ in range(count):
        client = MemoryClient(weirgate.tls_port, authority.context()).greet()
        client.tls.write(b"x" * 16_000)
        client.socket.sendall(client.outgoing.read()[:-100])
        clients.append(client)
    return clients


def begun_messages(weirgate, count, payload_bytes):
    """Clients that have sent a message without its end."""
    clients = []
    for _ in range(count):
        link = socket.create_connection(("127.0.0.1", weirgate.port), 20)
        link.sendall(upgrade_request(weirgate.port, CHANNELS.path))
        head = b""
        while b"\r\n\r\n" not in head:
            head += link.recv(4096)
        # Over the limit the client may be gone before it has sent all.
        try:
            link.sendall(struct.pack("!BBQI", 0x81, 0xff, payload_bytes, 0) + b"x" * (payload_bytes - 1))
        except OSError:
            pass
        clients.append(link)
    return clients


def requests_ahead(weirgate, count):
    """Connections that ask for pages, one behind the other, and read none."""
    clients = []
    for _ in range(count):
        link = small_socket(2048)
        link.settimeout(20)
        link.connect(("127.0.0.1", weirgate.port))
        link.setblocking(False)
        try:
            link.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 1_500)
        except BlockingIOError:
            pass
        clients.append(link)
    return clients


async def test_all_sums_at_their_limits_fit_in_the_memory(start_tls, authority, redis_server):
    flags = ("--memory-max", str(MEMORY), "--history-ms", "600000", "--history-names", "market:tick:*", "--message-bytes-max", "1000000")
    weirgate = start_tls("channels", *flags, redis=redis_server, under=("prlimit", f"--data={MEMORY}")).wait_ready()
    good = await subscriber(CHANNELS, weirgate, ["good"])
    readers = [await subscriber(CHANNELS, weirgate, [f"t{n % 4}"], receive_bytes=4096) for n in range(40)]
    for reader in readers:
        reader.stop_reading()
    kept = await asyncio.to_thread(begun_messages, weirgate, 40, 900_000)
    kept += await asyncio.to_thread(requests_ahead, weirgate, 300)
    records = await asyncio.to_thread(begun_records, weirgate, authority, 1_100)
    # On a busy machine their deadlines come before the last message.
    full = {of for of, (value, most) in held(weirgate).items() if value > most / 2}
    assert {"received_bytes", "tls_bytes"} <= full, held(weirgate)
    with redis_server.client() as redis:
        for n in range(2_500):
            await asyncio.to_thread(publish, redis, CHANNELS, f"t{n % 4}", n, "x" * 60_000)
            if n % 100 == 0:
                publish(redis, CHANNELS, "good", n)
                await good.wait_for(lambda c, n=n: c.prices[-1:] == [n], 20, "messages of a client that reads")
                for of, (value, most) in held(weirgate).items():
                    assert value <= most, f"{of}: {value} of {most}"
    metrics = scrape(weirgate)
    assert metrics.sum("weirgate_frame_bytes_alive") <= metrics.sum("weirgate_frame_bytes_max")
    assert metrics.sum("weirgate_history_bytes") > metrics.sum("weirgate_history_bytes_max") / 2
    assert metrics.sum("process_resident_memory_bytes") < MEMORY
    # Somebody new is served, and all of it is given back.
    late = await subscriber(CHANNELS, weirgate, ["late"])
    late.abort()
    for one in [*kept, *(record.socket for record in records)]:
        one.close()
    for reader in readers:
        reader.abort()
    bytes_of_clients = ("received_bytes", "tls_bytes", "http_bytes")
    await until(lambda: sum(held(weirgate)[of][0] for of in bytes_of_clients) < 10_000, 20, "all is given back")
    assert good.open
