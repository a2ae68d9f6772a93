"""WebSocket clients beyond the abilities of a library: hundreds at low cost, some slow, some that never read.

The clients speak plain RFC 6455 without extensions, answer pings and closes, and keep only the newest message.
"""
import asyncio
import base64
import json
import os
import socket
import time
import zlib

from waiting import patient

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10


def upgrade_request(port, path="/ws/stream", extra=()):
    """The bytes of a handshake."""
    key = base64.b64encode(os.urandom(16)).decode()
    lines = [f"GET {path} HTTP/1.1", f"Host: 127.0.0.1:{port}", "Upgrade: websocket", "Connection: Upgrade",
             f"Sec-WebSocket-Key: {key}", "Sec-WebSocket-Version: 13", *extra]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def client_frame(opcode, payload=b""):
    """A masked frame of less than 64 KiB; the mask is zero, a legal mask."""
    assert len(payload) < 65_536
    size = bytes([0x80 | len(payload)]) if len(payload) < 126 else bytes([0xFE]) + len(payload).to_bytes(2, "big")
    return bytes([0x80 | opcode]) + size + bytes(4) + payload


class FrameReader:
    """Server frames out of a byte stream, each payload whole."""

    def __init__(self):
        self.buffer = bytearray()

    def feed(self, data):
        """Yields (opcode, payload) of every complete frame."""
        self.buffer += data
        at = 0
        while True:
            header = self._header(at)
            if header is None or len(self.buffer) - at < sum(header[1:]):
                break
            opcode, header_bytes, payload_bytes = header
            start = at + header_bytes
            at = start + payload_bytes
            yield opcode, bytes(memoryview(self.buffer)[start:at])
        del self.buffer[:at]

    def _header(self, at):
        b = self.buffer
        if len(b) - at < 2:
            return None
        first, short = b[at], b[at + 1]
        assert first & 0x70 == 0, "reserved bits without an extension"
        assert short & 0x80 == 0, "a masked frame from the server"
        more = {126: 2, 127: 8}.get(short, 0)
        if len(b) - at < 2 + more:
            return None
        return first & 0x0F, 2 + more, int.from_bytes(b[at + 2:at + 2 + more], "big") if more else short


class Client(asyncio.Protocol):
    """An open WebSocket. `messages` counts complete messages; `newest` is the last payload, `sums` the CRCs, if requested."""

    def __init__(self, port, extra=(), keep_sums=False, path="/ws/stream"):
        self.port, self.extra, self.keep_sums, self.path = port, extra, keep_sums, path
        self.frames, self.head = FrameReader(), b""
        self.messages, self.newest, self.sums, self.sizes = 0, None, [], []
        self.longest_gap_s, self._last_at = 0.0, None
        self.close_code = None
        loop = asyncio.get_running_loop()
        self.upgraded, self.ended = loop.create_future(), loop.create_future()
        self.changed = asyncio.Event()

    def connection_made(self, transport):
        self.transport = transport
        transport.write(upgrade_request(self.port, self.path, self.extra))

    def data_received(self, data):
        if not self.upgraded.done():
            self.head += data
            head, found, data = self.head.partition(b"\r\n\r\n")
            if not found:
                return
            self.upgraded.set_result(head.decode())
        for opcode, payload in self.frames.feed(data):
            self.take(opcode, payload)
        self.changed.set()

    def take(self, opcode, payload):
        if opcode == PING:
            self.transport.write(client_frame(PONG, payload))
        elif opcode == CLOSE:
            self.close_code = int.from_bytes(payload[:2], "big") if payload else 1005
            self.transport.write(client_frame(CLOSE, payload[:2]))
        elif opcode in (TEXT, BINARY):
            now = time.monotonic()
            if self._last_at is not None:
                self.longest_gap_s = max(self.longest_gap_s, now - self._last_at)
            self._last_at = now
            self.messages += 1
            self.newest = payload
            if self.keep_sums:
                self.sums.append(zlib.crc32(payload))
                self.sizes.append(len(payload))

    def connection_lost(self, error):
        if not self.ended.done():
            self.ended.set_result(error)
        if not self.upgraded.done():
            self.upgraded.set_exception(ConnectionError(f"ended before its 101: {error}"))
            # Seen: the waiting task may have been cancelled.
            self.upgraded.exception()
        self.changed.set()

    @property
    def open(self):
        return not self.ended.done()

    def state(self):
        """The newest message, parsed; None before the first."""
        return None if self.newest is None else json.loads(self.newest)

    async def wait_for(self, condition, seconds, what):
        """Returns once `condition(self)` holds; fails when the connection ends first."""
        limit = patient(seconds)
        end = time.monotonic() + limit
        while not condition(self):
            assert self.open, f"the connection ended (close code {self.close_code}) before {what}"
            left = end - time.monotonic()
            assert left > 0, f"not within {limit:.0f} s: {what} ({self.messages} messages so far)"
            self.changed.clear()
            try:
                await asyncio.wait_for(self.changed.wait(), left)
            except TimeoutError:
                pass

    def say(self, value):
        """Sends a JSON message."""
        self.transport.write(client_frame(TEXT, json.dumps(value).encode()))

    def stop_reading(self):
        """From now on the kernel's buffers fill, and then the server's."""
        self.transport.pause_reading()

    def abort(self):
        self.transport.abort()


def small_socket(receive_bytes):
    """A socket with a small receive buffer, set before connecting."""
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    s.setblocking(False)
    return s


async def connect(port, receive_bytes=None, keep_sums=False, extra=(), source=None, path="/ws/stream", make=Client,
                  unix=None):
    """A client after the response 101; `source` is the source address, `make` the class, `unix` the path of a socket."""
    loop = asyncio.get_running_loop()
    protocol = lambda: make(port, extra, keep_sums, path)
    if unix is not None:
        _, client = await loop.create_unix_connection(protocol, str(unix))
    elif receive_bytes is None:
        local_addr = (source, 0) if source else None
        _, client = await loop.create_connection(protocol, "127.0.0.1", port, local_addr=local_addr)
    else:
        s = small_socket(receive_bytes)
        await loop.sock_connect(s, ("127.0.0.1", port))
        _, client = await loop.create_connection(protocol, sock=s)
    try:
        head = await asyncio.wait_for(client.upgraded, 60)
        assert head.startswith("HTTP/1.1 101"), head
    except BaseException:
        client.abort()
        raise
    return client


async def connect_many(count, port, **kwargs):
    """`count` clients, some tens at a time."""
    clients = []
    while len(clients) < count:
        some = min(50, count - len(clients))
        clients += await asyncio.gather(*(connect(port, **kwargs) for _ in range(some)))
    return clients


async def throttled_messages(port, bits_per_s, seconds, receive_bytes=4096, path="/ws/stream", request=None):
    """Reads at a fixed rate; yields (payload, time of completion). Ends after `seconds`, or with the connection.

    `request` is a text to send after the response 101."""
    loop = asyncio.get_running_loop()
    s = small_socket(receive_bytes)
    try:
        await loop.sock_connect(s, ("127.0.0.1", port))
        await loop.sock_sendall(s, upgrade_request(port, path))
        frames, head, step_s = FrameReader(), b"", 0.05
        step_bytes = int(bits_per_s / 8 * step_s)
        begin, due = time.monotonic(), time.monotonic()
        while time.monotonic() - begin < seconds:
            due += step_s
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            data = await asyncio.wait_for(loop.sock_recv(s, step_bytes), 30)
            if not data:
                return
            if not head.endswith(b"\r\n\r\n"):
                head += data
                at = head.find(b"\r\n\r\n")
                if at < 0:
                    continue
                head, data = head[:at + 4], head[at + 4:]
                if request is not None:
                    await loop.sock_sendall(s, client_frame(TEXT, request))
            for opcode, payload in frames.feed(data):
                if opcode == PING:
                    await loop.sock_sendall(s, client_frame(PONG, payload))
                elif opcode == TEXT:
                    yield payload, time.time()
                elif opcode == CLOSE:
                    return
    finally:
        s.close()
