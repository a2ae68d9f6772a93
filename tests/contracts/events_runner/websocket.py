"""The WebSocket client of the events cases."""
import asyncio
import base64
import hashlib
import os
import socket
import struct

from events_runner.http import hdr_pairs, head, read_head


class Fail(Exception):
    """The program broke a rule of the protocol."""


class Ws:
    """A WebSocket client that answers pings and closes."""

    def __init__(self, name):
        self.name = name
        self.q = asyncio.Queue()
        self.pongs = asyncio.Queue()
        self.closed = None
        self.close_evt = asyncio.Event()

    async def open(self, host, port, path, headers):
        self.r, self.w = await asyncio.open_connection(host, port, limit=1 << 24)
        self.w.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        key = base64.b64encode(os.urandom(16)).decode()
        hs = [("Host", f"{host}:{port}"), ("Upgrade", "websocket"), ("Connection", "Upgrade"),
              ("Sec-WebSocket-Key", key), ("Sec-WebSocket-Version", "13")] + hdr_pairs(headers)
        self.w.write(head(f"GET {path} HTTP/1.1", hs).encode("utf-8"))
        line, rh = await read_head(self.r)
        status = int(line.split(" ")[1])
        if status == 101:
            acc = base64.b64encode(hashlib.sha1((key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest()).decode()
            if dict(rh).get("sec-websocket-accept") != acc:
                raise Fail("bad Sec-WebSocket-Accept")
            self.task = asyncio.ensure_future(self.reader())
        else:
            self.w.close()
        return status, rh

    async def reader(self):
        buf, bop = b"", 0
        try:
            while True:
                a, b = await self.r.readexactly(2)
                n = b & 127
                if n == 126:
                    n = struct.unpack("!H", await self.r.readexactly(2))[0]
                elif n == 127:
                    n = struct.unpack("!Q", await self.r.readexactly(8))[0]
                if b & 128:
                    raise Fail("masked frame from server")
                p = await self.r.readexactly(n)
                op = a & 15
                if op == 8:
                    code = struct.unpack("!H", p[:2])[0] if len(p) >= 2 else 1005
                    self.closed = (code, p[2:].decode("utf-8", "replace"))
                    try:
                        self.frame(8, p[:2])
                        await self.w.drain()
                    except Exception:
                        pass
                    break
                if op == 9:
                    self.frame(10, p)
                elif op == 10:
                    self.pongs.put_nowait(p)
                else:
                    if op:
                        bop = op
                    buf += p
                    if a & 128:
                        self.q.put_nowait((bop, buf))
                        buf = b""
        except (asyncio.IncompleteReadError, ConnectionError, OSError):
            pass
        finally:
            if not self.closed:
                self.closed = (1006, "")
            self.close_evt.set()
            self.q.put_nowait(None)
            self.w.close()

    def frame(self, op, payload, fin=True):
        n = len(payload)
        h = bytes([(128 if fin else 0) | op])
        if n < 126:
            h += bytes([128 | n])
        elif n < 65536:
            h += bytes([254]) + struct.pack("!H", n)
        else:
            h += bytes([255]) + struct.pack("!Q", n)
        k = os.urandom(4)
        m = int.from_bytes((k * (n // 4 + 1))[:n], "big") ^ int.from_bytes(payload, "big") if n else 0
        self.w.write(h + k + m.to_bytes(n, "big"))

    async def shut(self):
        if self.w.is_closing():
            return
        try:
            if not self.closed:
                self.frame(8, struct.pack("!H", 1000))
                await asyncio.wait_for(self.close_evt.wait(), 1.0)
        except Exception:
            pass
        self.w.close()
