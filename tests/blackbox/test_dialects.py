"""What proxies of another dialect send: a handshake without its key, HTTP/2 in clear text; and a client that misses its subprotocol. Each
is a warning with cause and remedy, and however many there are, the lines are few."""
import re
import socket
import time

import pytest
from processes import free_port
from waiting import until

HANDSHAKE = {"Host": "h", "Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13",
             "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0"


def handshake(path, **changes):
    headers = HANDSHAKE | {name.replace("_", "-"): value for name, value in changes.items()}
    return (f"GET {path} HTTP/1.1\r\n" + "".join(f"{n}: {v}\r\n" for n, v in headers.items() if v is not None) + "\r\n").encode()


def send(port, sent, stays_s=0.0):
    """The first bytes of the response. The client leaves after `stays_s`."""
    with socket.create_connection(("127.0.0.1", port), 10) as link:
        link.settimeout(10)
        link.sendall(sent)
        came = link.recv(4096)
        time.sleep(stays_s)
        return came


@pytest.fixture
def demo(start_weirgate):
    admin = free_port()
    gateway = start_weirgate("demo", "--admin-addr", f"127.0.0.1:{admin}", "--connection-rate-per-ip", "0").wait_for("/health")
    gateway.admin = admin
    return gateway


@pytest.mark.parametrize("changes", [{"Sec_WebSocket_Key": None}, {"Sec_WebSocket_Key": ""}, {"Sec_WebSocket_Key": None, "Sec_WebSocket_Version": None},
                                     {"Sec_WebSocket_Key": None, "Content_Length": "0"}])
def test_a_handshake_without_its_key_names_the_proxy(demo, changes):
    assert re.match(rb"HTTP/1.1 4(00|26) ", send(demo.port, handshake("/ws/stream", **changes)))
    [line] = demo.lines_with("Sec-WebSocket-Key")
    assert " WARN " in line and 'refusal="no_key"' in line and "deploy/envoy" in line


@pytest.mark.plain("speaks plain HTTP to both ports")
def test_http_2_in_clear_text_is_named_at_every_port(demo):
    assert send(demo.port, PREFACE).startswith(b"HTTP/1.1 505 ")
    assert " WARN " in demo.lines_with('refusal="http2"', "HTTP/1.1")[0]
    assert send(demo.admin, PREFACE).startswith(b"HTTP/1.1 505 ")
    assert len(demo.lines_with('refusal="http2"')) in (1, 2)
    demo.lines_with("a port of HTTP/1.1 got another protocol")


def test_a_client_that_misses_its_subprotocol_and_leaves_is_named(demo):
    offer = handshake("/ws/stream", Sec_WebSocket_Protocol="json")
    assert send(demo.port, offer).startswith(b"HTTP/1.1 101 ")
    [line] = demo.lines_with('refusal="subprotocol"')
    assert " WARN " in line and "take the subprotocol out of the client" in line
    # Who stays does not mind, and who offers none has another reason.
    send(demo.port, offer, 1.2)
    send(demo.port, handshake("/ws/stream"))
    demo.lines_with("connection ended")
    time.sleep(0.3)
    assert demo.log().count('refusal="subprotocol"') == 1


async def test_a_flood_of_them_has_few_lines_and_a_count(demo):
    for _ in range(300):
        send(demo.port, handshake("/ws/stream", Sec_WebSocket_Key=None))
    lines = demo.lines_with('refusal="no_key"')
    assert len(lines) < 150, len(lines)
    # The last of them is counted when its connection ends, which may be after its answer.
    counted = re.compile(r'weirgate_client_closes_total\{[^}]*reason="bad_request"[^}]*\} 300\b')
    await until(lambda: counted.search(metrics(demo.admin)), 10, "300 are counted", 0.5)


def test_other_ends_leave_room_for_the_warnings(demo):
    """A scanner whose requests end at once, 10 lines a second of its own, hides no proxy."""
    lost = handshake("/ws/stream", Upgrade=None)
    for _ in range(60):
        send(demo.port, handshake("/nowhere", Sec_WebSocket_Version="12"))
    send(demo.port, lost)
    [line] = demo.lines_with("a proxy on the way took it off")
    assert " WARN " in line


def metrics(port):
    return send_all(port, b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").decode()


def send_all(port, sent):
    with socket.create_connection(("127.0.0.1", port), 10) as link:
        link.settimeout(10)
        link.sendall(sent)
        came = b""
        while piece := link.recv(65_536):
            came += piece
        return came
