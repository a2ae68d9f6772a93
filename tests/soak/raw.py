"""Connections on which an attacker decides about every byte and about every read."""
import asyncio
import contextlib
import os
import socket
import struct
import time
import zlib

from clients import small_socket, upgrade_request

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
DEFLATE = "Sec-WebSocket-Extensions: permessage-deflate"
RSV1 = 0x40


def frame(opcode, payload=b"", final=True, reserved=0, masked=True):
    """A frame with any bits; the mask is zero."""
    size = len(payload)
    bit = 0x80 if masked else 0
    if size < 126:
        length = bytes([bit | size])
    elif size < 65_536:
        length = bytes([bit | 126]) + struct.pack("!H", size)
    else:
        length = bytes([bit | 127]) + struct.pack("!Q", size)
    return bytes([(0x80 if final else 0) | reserved | opcode]) + length + (bytes(4) if masked else b"") + payload


def deflated(data):
    """The payload of a compressed message."""
    squeeze = zlib.compressobj(9, zlib.DEFLATED, -15)
    return (squeeze.compress(data) + squeeze.flush(zlib.Z_SYNC_FLUSH))[:-4]


def bomb(data):
    """A compressed text message."""
    return frame(TEXT, deflated(data), reserved=RSV1)


class Raw:
    """A TCP connection that never reads by itself."""

    def __init__(self, sock):
        self.sock = sock
        self.loop = asyncio.get_running_loop()

    @classmethod
    async def open(cls, port, receive_bytes=None):
        if receive_bytes is None:
            sock = socket.socket()
            sock.setblocking(False)
        else:
            sock = small_socket(receive_bytes)
        raw = cls(sock)
        try:
            await raw.loop.sock_connect(sock, ("127.0.0.1", port))
        except BaseException:
            sock.close()
            raise
        return raw

    @classmethod
    async def upgraded(cls, port, path, extra=(), receive_bytes=None):
        """Past the 101; what came behind the head is thrown away."""
        raw = await cls.open(port, receive_bytes)
        try:
            await raw.send(upgrade_request(port, path, extra))
            head = b""
            while b"\r\n\r\n" not in head:
                data = await raw.loop.sock_recv(raw.sock, 2048)
                if not data:
                    raise ConnectionError(f"ended in the handshake: {head[:80]!r}")
                head += data
        except BaseException:
            raw.close()
            raise
        return raw

    async def send(self, data):
        """Sends everything, however long the other end takes."""
        await self.loop.sock_sendall(self.sock, data)

    async def drain(self, seconds, step=65_536, pause=0.0):
        """Reads and throws away, `step` bytes each `pause` seconds; returns early when the other end has ended."""
        end = time.monotonic() + seconds
        with contextlib.suppress(TimeoutError):
            while (left := end - time.monotonic()) > 0:
                if not await asyncio.wait_for(self.loop.sock_recv(self.sock, step), left):
                    return False
                if pause:
                    await asyncio.sleep(pause)
        return True

    def half_close(self):
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_WR)

    def close(self, reset=False):
        if reset and self.sock.fileno() >= 0:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()


def garbage(size):
    return os.urandom(size)
