"""Services that break off an answer, or answer before they have read the request: what the client gets is true."""
import asyncio
import socket
import ssl
import threading

import pytest
from services import TOKEN, RawService
from tls import MemoryClient

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/csv\r\nTransfer-Encoding: chunked\r\n\r\n"
UPLOAD_BYTES = 20_000_000


@pytest.fixture
def events(start_tls):
    """events(answer) → a gateway in front of a service with this answer."""
    services = []

    def start(answer):
        services.append(RawService(answer))
        names = ("LOBBY_URL", "MEASUREMENT_URL", "SIMULATION_URL")
        return start_tls("events", env={**{name: services[-1].url for name in names}, "INTERNAL_AUTH_TOKEN": TOKEN}).wait_for("/health")
    yield start
    for service in services:
        service.listener.close()


def asked(weirgate, version, over_tls, authority):
    """(the bytes of the body, how they ended)"""
    request = f"GET /v1/measurement/x HTTP/{version}\r\nHost: h\r\nConnection: close\r\n\r\n".encode()
    got = b""
    try:
        if over_tls:
            client = MemoryClient(weirgate.tls_port, authority.context()).greet()
            client.write(request)
            read = lambda: client._move(client.tls.read, 4096)
        else:
            client = socket.create_connection(("127.0.0.1", weirgate.port), 20)
            client.sendall(request)
            read = lambda: client.recv(4096)
        while part := read():
            got += part
        how = "end"
    except ssl.SSLZeroReturnError:
        how = "end"
    except OSError:
        how = "cut"
    return got.partition(b"\r\n\r\n")[2], how


@pytest.mark.parametrize("over_tls", [False, True], ids=["plain", "tls"])
async def test_a_part_of_an_answer_is_never_taken_for_the_whole(events, authority, over_tls):
    cut, whole = events(HEAD + b"5\r\na,b\n1\r\n"), events(HEAD + b"5\r\na,b\n1\r\n0\r\n\r\n")
    ask = lambda weirgate, version: asyncio.to_thread(asked, weirgate, version, over_tls, authority)
    for _ in range(5):
        assert await ask(whole, "1.0") == (b"a,b\n1", "end")
        assert (await ask(cut, "1.0"))[1] == "cut", "the end of the connection would be the end of the body"
    body, _ = await ask(cut, "1.1")
    assert not body.endswith(b"0\r\n\r\n")
    assert (await ask(whole, "1.1"))[0].endswith(b"0\r\n\r\n")


async def test_what_a_service_answers_before_it_has_read_the_upload_reaches_the_client(events):
    weirgate = events(b"HTTP/1.1 413 Too Large\r\nContent-Length: 5\r\nConnection: close\r\n\r\nlarge")

    def upload():
        with socket.create_connection(("127.0.0.1", weirgate.port), 20) as client:
            client.sendall(b"POST /v1/measurement/up HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % UPLOAD_BYTES)
            answered = threading.Event()

            def send():
                try:
                    for _ in range(0, UPLOAD_BYTES, 65_536):
                        if answered.wait(0.001):
                            return
                        client.sendall(bytes(65_536))
                except OSError:
                    pass
            sender = threading.Thread(target=send)
            sender.start()
            got = b""
            try:
                while b"large" not in got and (part := client.recv(4096)):
                    got += part
            except OSError:
                pass
            answered.set()
            sender.join()
            return got[9:12]
    assert [await asyncio.to_thread(upload) for _ in range(12)] == [b"413"] * 12
