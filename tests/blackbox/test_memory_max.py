"""`--memory-max`: the large sums over all clients are filled at once, in a process that may have no more memory than that."""
import asyncio
import contextlib
import pathlib
import socket
import struct

import pytest

from clients import small_socket, upgrade_request
from prometheus import scrape
from redis_gateways import CHANNELS, publish, subscriber
from tls import MemoryClient
from waiting import until

MIB = 1024 * 1024
MEMORY = 256 * MIB
# As in the unit and the images.
OF_MALLOC = {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_ARENA_MAX": "2", "GLIBC_TUNABLES": "glibc.malloc.tcache_count=0:glibc.malloc.mxfast=0"}
# The clients that fill the sums have addresses of their own, because each address has a share.
FILLING = "127.0.0.2"


def connect(port, at=FILLING):
    """A connection from another address than the clients of the rig."""
    return socket.create_connection(("127.0.0.1", port), 20, source_address=(at, 0))


def held(weirgate):
    """{of: (held, max)}"""
    samples = scrape(weirgate).samples
    at = {family: {labels["of"]: value for name, labels, value in samples if name == family} for family in ("weirgate_held", "weirgate_held_max")}
    return {of: (value, at["weirgate_held_max"][of]) for of, value in at["weirgate_held"].items()}


def begun_records(weirgate, authority, count):
    """Connections over TLS that have sent a large record without its last bytes."""
    clients = []
    for _ in range(count):
        client = MemoryClient.on(connect(weirgate.tls_port, "127.0.0.3"), authority.context()).greet()
        client.tls.write(b"x" * 16_000)
        client.socket.sendall(client.outgoing.read()[:-100])
        clients.append(client)
    return clients


def begun_messages(weirgate, count, payload_bytes):
    """Clients that have sent a message without its end."""
    clients = []
    for _ in range(count):
        link = connect(weirgate.port)
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


def idle(weirgate, count):
    """Connections that have had the answer to a request, and are kept."""
    clients = []
    for _ in range(count):
        # Over the limit a connection is reset, perhaps before this side knows of it.
        with contextlib.suppress(OSError):
            clients.append(link := connect(weirgate.port, "127.0.0.4"))
            link.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
    return clients


def requests_ahead(weirgate, count):
    """Connections that ask for pages, one behind the other, and read none."""
    clients = []
    for _ in range(count):
        link = small_socket(2048)
        link.settimeout(20)
        link.bind((FILLING, 0))
        link.connect(("127.0.0.1", weirgate.port))
        link.setblocking(False)
        try:
            link.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 1_500)
        except BlockingIOError:
            pass
        clients.append(link)
    return clients


@contextlib.contextmanager
def limited(to):
    """The program that starts weirgate with no more memory than --memory-max."""
    if to != "group":
        yield ("prlimit", f"--{to}={MEMORY}", "env", *(f"{name}={value}" for name, value in OF_MALLOC.items()))
        return
    group = pathlib.Path("/sys/fs/cgroup/memory/weirgate-test")
    try:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text(str(MEMORY))
    except OSError as error:
        pytest.skip(f"no control group for memory: {error}")
    try:
        yield ("sh", "-c", f'echo $$ > {group}/cgroup.procs && exec "$@"', "sh")
    finally:
        # The process has been moved out, or has ended.
        with contextlib.suppress(OSError):
            for pid in (group / "cgroup.procs").read_text().split():
                (group.parent / "cgroup.procs").write_text(pid)
            group.rmdir()


def publish_many(redis, topics, messages, text):
    """The same number of messages on each topic, in pipelines."""
    at_once = 50 if len(text) < 1_000 else 1
    for first in range(0, messages, at_once):
        pipeline = redis.pipeline(transaction=False)
        for topic in topics:
            for n in range(first, first + at_once):
                publish(pipeline, CHANNELS, topic, n, text)
        pipeline.execute()


def test_under_a_limit_on_addresses_malloc_has_one_arena(start_weirgate):
    """With a second one, 64 MiB of addresses are lost, or each block takes a page: that depends on the thread."""
    with limited("as") as under:
        weirgate = start_weirgate("demo", under=under).wait_ready()
    # Some versions of glibc end the settings of GLIBC_TUNABLES with a zero each.
    variables = pathlib.Path(f"/proc/{weirgate.pid}/environ").read_text().replace("\0", ":")
    wanted = OF_MALLOC | {"MALLOC_ARENA_MAX": "1"}
    assert [name for name, value in wanted.items() if f":{name}={value}:" not in f":{variables}"] == []


@pytest.mark.parametrize("payload_bytes, limit", [(60_000, "data"), (100, "as"), (1, "group")])
async def test_all_sums_at_their_limits_fit_in_the_memory(payload_bytes, limit, start_tls, authority, redis_server):
    with limited(limit) as under:
        await fill(payload_bytes, under, start_tls, authority, redis_server)


async def fill(payload_bytes, under, start_tls, authority, redis_server):
    flags = ("--memory-max", str(MEMORY), "--history-ms", "600000", "--history-names", "market:tick:*", "--message-bytes-max", "1000000",
             # Together the readers may have more than all frames may take, and no limit of time drops them first on a busy machine.
             "--send-queue-soft-bytes", "4000000", "--send-queue-hard-bytes", "4000000", "--send-queue-stall-ms", "3600000",
             "--ping-interval-ms", "0", "--handshake-timeout-ms", "3600000")
    weirgate = start_tls("channels", *flags, redis=redis_server, under=under).wait_ready()
    good = await subscriber(CHANNELS, weirgate, ["good"])
    readers = [await subscriber(CHANNELS, weirgate, [f"t{n}"], receive_bytes=4096) for n in range(40)]
    for reader in readers:
        reader.stop_reading()
    kept = await asyncio.to_thread(begun_messages, weirgate, 40, 900_000)
    kept += await asyncio.to_thread(requests_ahead, weirgate, 300)
    records = await asyncio.to_thread(begun_records, weirgate, authority, 1_100)
    kept += await asyncio.to_thread(idle, weirgate, 2_000)
    full = {of for of, (value, most) in held(weirgate).items() if value > most / 3}
    assert {"received_bytes", "tls_bytes", "connection_bytes"} <= full, held(weirgate)
    # 150 MB of texts, or as many messages as take 100 MB with their frames.
    topics, messages = [f"t{n}" for n in range(40)], 60 if payload_bytes > 10_000 else 6_000
    frames = 0
    for part in range(20):
        with redis_server.client(60) as redis:
            # The gateway may be slower than this test.
            redis.config_set("client-output-buffer-limit", "pubsub 0 0 0")
            await asyncio.to_thread(publish_many, redis, topics, messages // 20, "x" * payload_bytes)
            publish(redis, CHANNELS, "good", part)
        await good.wait_for(lambda c, n=part: c.prices[-1:] == [n], 60, "messages of a client that reads")
        for of, (value, most) in held(weirgate).items():
            assert value <= most, f"{of}: {value} of {most}"
        metrics = scrape(weirgate)
        frames = max(frames, metrics.sum("weirgate_frame_bytes_alive"))
        assert metrics.sum("process_resident_memory_bytes") < MEMORY
    assert metrics.sum("weirgate_history_bytes") > metrics.sum("weirgate_history_bytes_max") / 2
    assert frames > 0.8 * metrics.sum("weirgate_frame_bytes_max")
    assert metrics.sum("weirgate_client_closes_total", reason="frame_memory") > 0
    # Somebody new is served, and all of it is given back.
    late = await subscriber(CHANNELS, weirgate, ["late"])
    late.abort()
    for one in [*kept, *(record.socket for record in records)]:
        one.close()
    for reader in readers:
        reader.abort()
    bytes_of_clients = ("received_bytes", "tls_bytes", "http_bytes", "connection_bytes")
    await until(lambda: sum(held(weirgate)[of][0] for of in bytes_of_clients) < 30_000, 20, "all is given back")
    assert good.open
