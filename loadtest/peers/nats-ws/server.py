#!/usr/bin/env python3
"""The WebSocket listener of a nats-server, and what passes each message of the NATS subject on to it.

Clients of it speak the protocol of NATS: CONNECT and SUB first, then they get MSG lines in binary frames.
"""
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse

# No PING within a part: the measuring clients speak no NATS.
CONFIG = """
listen: "127.0.0.1:-1"
ports_file_dir: "{folder}"
websocket {{ listen: "127.0.0.1:{port}", no_tls: true, compression: {compression} }}
ping_interval: "1h"
"""


def start_server(folder):
    config = folder / "nats.conf"
    compression = "true" if "compression" in sys.argv[1:] else "false"
    config.write_text(CONFIG.format(folder=folder, port=os.environ.get("GATEWAY_PORT", "8000"), compression=compression))
    return subprocess.Popen(["nats-server", "-c", config], stderr=subprocess.DEVNULL)


def client_port(folder):
    """Port of the server's listener for clients, which it writes to a file once it listens."""
    for _ in range(200):
        for ports in folder.glob("*.ports"):
            try:
                return urllib.parse.urlsplit(json.loads(ports.read_text())["nats"][0]).port
            except (ValueError, KeyError):
                pass
        time.sleep(0.05)
    sys.exit("nats-server does not listen")


def connect(host, port):
    link = socket.create_connection((host, port))
    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    link.sendall(b'CONNECT {"verbose":false}\r\n')
    return link


def relay(to):
    """Core NATS without a library: SUB, then MSG subject sid [reply] bytes."""
    url = urllib.parse.urlsplit(os.environ.get("NATS_URL", "nats://127.0.0.1:4222"))
    nats = connect(url.hostname, url.port)
    nats.sendall(b"SUB market.flow 1\r\n")
    lines = nats.makefile("rb")
    while line := lines.readline():
        if line.startswith(b"PING"):
            nats.sendall(b"PONG\r\n")
        elif line.startswith(b"MSG "):
            payload = b'{"flow":' + lines.read(int(line.split()[-1]) + 2)[:-2] + b"}"
            to.sendall(b"PUB market.flow %d\r\n%b\r\n" % (len(payload), payload))


def main():
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        server = start_server(folder)
        try:
            relay(connect("127.0.0.1", client_port(folder)))
        finally:
            server.terminate()
            server.wait()


if __name__ == "__main__":
    main()
