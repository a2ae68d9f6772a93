"""HTTP services played by a test, on a separate thread, and devices of the events gateway."""
import json
import socket
import struct
import threading
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from accepting import Accepting
from waiting import patient
from websockets.asyncio.client import connect

TOKEN = "a-token-of-the-tests"


class Server(ThreadingHTTPServer):
    """A service for a burst of connections; the threads end with the tests."""
    request_queue_size = 256
    daemon_threads = True


class Service:
    """Answers each POST with what `answer(asked)` gives: a value, (status, value) or (status, value, headers). Keeps what
    it was asked."""

    def __init__(self, answer=lambda asked: None, port=0):
        self.asked, self.headers = [], []
        service = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                service.asked.append(asked)
                service.headers.append(self.headers)
                value = answer(asked)
                status, value, *headers = value if isinstance(value, tuple) else (200, value)
                body = value if isinstance(value, bytes) else json.dumps(value).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                for header in [header for given in headers for header in given.items()]:
                    self.send_header(*header)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.server = Server(("127.0.0.1", port), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def events(self):
        return [asked["message"]["event"] for asked in self.asked]

    def stop(self):
        self.server.shutdown()
        self.server.server_close()


class RawService(Accepting):
    """Answers each request, once its head has come, with these bytes, and ends the connection; with a reset if `resets`.
    Keeps the first lines of its requests."""

    def __init__(self, answer, resets=False):
        self.asked, self.answer, self.resets = [], answer, resets
        super().__init__()

    def serve(self, connection):
        with connection:
            head = b""
            while b"\r\n\r\n" not in head:
                head += connection.recv(4096) or b"\r\n\r\n"
            self.asked.append(head.split(b"\r\n")[0].decode())
            connection.sendall(self.answer)
            if self.resets:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def device(weirgate, device_id=None, **kwargs):
    """A WebSocket of a device; to be awaited, or used with `async with`."""
    query = "" if device_id is None else f"?device_id={device_id}"
    return connect(f"ws://127.0.0.1:{weirgate.port}/ws{query}", max_size=None, **kwargs)


def post(url, body, headers=()):
    """(status, value) of a POST; `body` is bytes, or a value to encode as JSON."""
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json", **dict(headers)})
    try:
        # Megabytes in a debug build beside other tests take their time.
        with urllib.request.urlopen(request, timeout=patient(40)) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def push(weirgate, event, data, *device_ids, token=TOKEN, port=None):
    """(status, value) of a broadcast."""
    url = f"http://127.0.0.1:{port or weirgate.port}/internal/broadcast"
    return post(url, {"event": event, "data": data, "targets": {"device_ids": device_ids}}, {"X-Internal-Token": token})
