"""The feed of the peers in Python: core NATS without a library."""
import os
import socket
import urllib.parse


def connect(host, port):
    """A connection that may publish and subscribe."""
    link = socket.create_connection((host, port))
    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    link.sendall(b'CONNECT {"verbose":false}\r\n')
    return link


def payloads(subject=b"market.flow"):
    """The payloads of the subject at NATS_URL: SUB, then MSG subject sid [reply] bytes."""
    url = urllib.parse.urlsplit(os.environ.get("NATS_URL", "nats://127.0.0.1:4222"))
    nats = connect(url.hostname, url.port)
    nats.sendall(b"SUB %b 1\r\n" % subject)
    lines = nats.makefile("rb")
    while line := lines.readline():
        if line.startswith(b"PING"):
            nats.sendall(b"PONG\r\n")
        elif line.startswith(b"MSG "):
            yield lines.read(int(line.split()[-1]) + 2)[:-2]
