#!/usr/bin/env python3
"""sockudo with one application, and what triggers an event of the Pusher protocol for each message of the NATS subject.

Clients subscribe to the channel `flow` first; the message is a JSON string within the event.
"""
import hashlib
import hmac
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[3]
sys.path.append(str(ROOT / "loadtest/peers/feed"))
import core_nats  # noqa: E402

BINARY = ROOT / "target/peers/sockudo/bin/sockudo"
SECRET = b"secret"
APP = {"id": "flow", "key": "key", "secret": SECRET.decode(), "enabled": True, "max_connections": "100000",
       "enable_client_messages": False, "max_client_events_per_second": "1000", "max_event_payload_in_kb": "1000"}


def start_server(folder, port):
    config = folder / "config.json"
    config.write_text(json.dumps({
        "host": "127.0.0.1", "port": port, "metrics": {"enabled": False}, "rate_limiter": {"enabled": False},
        "websocket_max_payload_kb": 1000, "event_limits": {"max_payload_in_kb": 1000},
        "app_manager": {"driver": "memory", "array": {"apps": [APP]}},
    }))
    return subprocess.Popen([BINARY, "-c", config], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def connected(port):
    for _ in range(200):
        try:
            return socket.create_connection(("127.0.0.1", port))
        except OSError:
            time.sleep(0.05)
    sys.exit("sockudo does not listen")


def post(port, body):
    """One request for a connection: sockudo closes it after the answer."""
    query = f"auth_key=key&auth_timestamp={int(time.time())}&auth_version=1.0&body_md5={hashlib.md5(body).hexdigest()}"
    signed = hmac.new(SECRET, f"POST\n/apps/flow/events\n{query}".encode(), hashlib.sha256).hexdigest()
    head = f"POST /apps/flow/events?{query}&auth_signature={signed} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    with connected(port) as link:
        link.sendall(head.encode() + body)
        answer = b"".join(iter(lambda: link.recv(4096), b""))
    if not answer.startswith(b"HTTP/1.1 200 "):
        sys.exit(f"sockudo refuses an event: {answer[:300]!r}")


def relay(port):
    for payload in core_nats.payloads():
        data = (b'{"flow":' + payload + b"}").decode()
        post(port, json.dumps({"name": "flow", "channel": "flow", "data": data}).encode())


def main():
    if not BINARY.exists():
        sys.exit("no sockudo: run loadtest/peers/sockudo/setup.sh")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    port = int(os.environ.get("GATEWAY_PORT", "8000"))
    with tempfile.TemporaryDirectory() as name:
        server = start_server(pathlib.Path(name), port)
        try:
            connected(port).close()
            relay(port)
        finally:
            server.terminate()
            server.wait()


if __name__ == "__main__":
    main()
