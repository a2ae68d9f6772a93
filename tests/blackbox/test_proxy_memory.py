"""Large bodies through the proxy, to clients and to services that take nothing: what stays in memory for each is bounded."""
import asyncio
import re

import pytest
from clients import small_socket
from memory import memory_for
from prometheus import scrape
from waiting import until

COUNT, BODY_BYTES = 120, 1_000_000
# Three pieces of 64 KiB (one that waits to be written, one on its way, one that is being read), and the connections' own.
EACH_KIB_MAX = 250


def resident_kib(weirgate):
    with open(f"/proc/{weirgate.pid}/status") as status:
        return int(re.search(r"VmRSS:\s+(\d+)", status.read())[1])


async def begin(weirgate, number, head, body=b""):
    """A request of an address of its own on a socket with small buffers, which reads nothing."""
    link = small_socket(2048)
    link.setblocking(True)
    link.bind((f"127.0.2.{number + 1}", 0))
    await asyncio.to_thread(link.connect, ("127.0.0.1", weirgate.port))
    link.setblocking(False)
    data = f"{head}\r\nHost: a\r\n\r\n".encode() if not body else f"{head}\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
    sending = asyncio.create_task(asyncio.get_running_loop().sock_sendall(link, data))
    return link, sending


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_bodies_that_nobody_takes_stay_small_in_memory(start_weirgate, method):
    served, head, body = [], f"{method} /v1/jobs/a HTTP/1.1", b"x" * BODY_BYTES if method == "POST" else b""

    async def serve(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        served.append(writer)
        if body:
            # The upload is not read.
            await asyncio.sleep(600)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % BODY_BYTES + b"x" * BODY_BYTES)
        await writer.drain()

    service = await asyncio.start_server(serve, "127.0.0.1", 0, limit=1024)
    url = f"http://127.0.0.1:{service.sockets[0].getsockname()[1]}"
    weirgate = start_weirgate("events", env={"MEASUREMENT_URL": url}).wait_ready()
    before = resident_kib(weirgate)
    requests = [await begin(weirgate, number, head, body) for number in range(COUNT)]
    await until(lambda: len(served) == COUNT, 20, "all are under way")
    sizes = []

    def settles():
        sizes.append(resident_kib(weirgate))
        return len(sizes) > 10 and max(sizes[-5:]) - min(sizes[-5:]) < 500
    await until(settles, 20, "no more comes", every=0.2)
    each = (sizes[-1] - before) / COUNT
    assert 10 < each < EACH_KIB_MAX, each
    for link, sending in requests:
        sending.cancel()
        link.close()
    service.close()


def held(weirgate, of="http_bytes"):
    samples = scrape(weirgate).samples
    return next(value for name, labels, value in samples if name == "weirgate_held" and labels["of"] == of)


async def serve_small(reader, writer):
    while await reader.readuntil(b"\r\n\r\n"):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 30000\r\n\r\n" + b"x" * 30_000)


@pytest.mark.parametrize("path", ["/v1/jobs/a", "/metrics"])
async def test_answers_that_wait_to_be_written_have_a_charge(start_weirgate, path):
    """A service has done its part, or the page is the gateway's own."""
    service = await asyncio.start_server(serve_small, "127.0.0.1", 0)
    env = {"MEASUREMENT_URL": f"http://127.0.0.1:{service.sockets[0].getsockname()[1]}"}
    weirgate = start_weirgate("events", env=env).wait_ready()
    before = resident_kib(weirgate)
    requests = [await begin(weirgate, number, f"GET {path} HTTP/1.1") for number in range(COUNT)]
    sums = []

    def settles():
        sums.append(held(weirgate))
        # A page of metrics may be a quarter of a second old.
        return len(sums) > 10 and sums[-1] == sums[-10] > 0
    await until(settles, 20, "all answers wait", every=0.2)
    grown = 1024 * (resident_kib(weirgate) - before)
    connections = held(weirgate, "connection_bytes")
    # Beside the answers and the clients' connections: those to the service, which are kept.
    assert grown - sums[-1] - connections < COUNT * 25_000, (grown, sums[-1], connections)
    for link, _ in requests:
        link.close()
    # The head of the request for the metrics counts.
    await until(lambda: held(weirgate) < 1_000, 20, "nothing waits")
    service.close()


async def test_answers_that_nobody_takes_give_way(start_weirgate):
    # 4 % of it are for plain HTTP.
    weirgate = start_weirgate("events", "--memory-max", str(memory_for(4_000_000, 40))).wait_ready()
    links = []
    for number in range(200):
        links.append((await begin(weirgate, number, "GET /metrics HTTP/1.1"))[0])
        # Each look waits until the page of metrics is a new one.
        if number % 5 == 4:
            assert held(weirgate) < 4_500_000
    ended = scrape(weirgate).sum("weirgate_client_closes_total", reason="http_memory")
    assert 20 < ended < 200
    for link in links:
        link.close()
