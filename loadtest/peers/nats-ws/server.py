#!/usr/bin/env python3
"""The WebSocket listener of a nats-server, and what passes each message of the NATS subject on to it.

Clients of it speak the protocol of NATS: CONNECT and SUB first, then they get MSG lines in binary frames.
"""
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
import urllib.parse

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1] / "feed"))
import core_nats  # noqa: E402

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


def relay(to):
    for payload in core_nats.payloads():
        flow = b'{"flow":' + payload + b"}"
        to.sendall(b"PUB market.flow %d\r\n%b\r\n" % (len(flow), flow))


def main():
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        server = start_server(folder)
        try:
            relay(core_nats.connect("127.0.0.1", client_port(folder)))
        finally:
            server.terminate()
            server.wait()


if __name__ == "__main__":
    main()
