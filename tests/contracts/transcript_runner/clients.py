"""WebSocket clients of a case: a normal one, and one that sends any frame."""
import asyncio
import base64
import os
import re
import struct
import zlib

from websockets.asyncio.client import connect as ws_connect

from transcript_runner.matching import Fail


class StatusError(Exception):
    """The handshake of a raw client got another status than 101."""

    def __init__(self, status):
        self.status = status
        super().__init__(f"HTTP status {status}")


class Client:
    """Normal client on the `websockets` package."""

    def __init__(self):
        self.q = asyncio.Queue()
        self.closed = asyncio.Event()
        self.code = self.reason = None

    async def open(self, url, st):
        kw = dict(compression="deflate" if st.get("compression") else None, ping_interval=None,
                  max_size=None, max_queue=None, open_timeout=10, close_timeout=3, proxy=None,
                  additional_headers=st.get("headers") or {}, user_agent_header=None)
        if st.get("subprotocols"):
            kw["subprotocols"] = st["subprotocols"]
        self.ws = await ws_connect(url, **kw)
        self.headers = {k.lower(): v for k, v in self.ws.response.headers.raw_items()}
        self.task = asyncio.create_task(self.reader())
        return self

    async def reader(self):
        try:
            async for m in self.ws:
                self.q.put_nowait(("text" if isinstance(m, str) else "binary", m))
        except Exception:
            pass
        await self.ws.wait_closed()
        self.code = self.ws.close_code
        self.reason = self.ws.close_reason
        self.closed.set()
        self.q.put_nowait(("closed", f"{self.code} {self.reason!r}"))

    async def send(self, data):
        await self.ws.send(data)

    async def ping(self, data, timeout):
        w = await self.ws.ping(data)
        await asyncio.wait_for(w, timeout)

    async def close(self, code, reason):
        await self.ws.close(code, reason)
        await asyncio.wait_for(self.closed.wait(), 5)

    def drop(self):
        self.ws.transport.abort()

    async def end(self):
        self.ws.transport.abort()
        try:
            await asyncio.wait_for(self.task, 1)
        except Exception:
            self.task.cancel()


class RawClient:
    """Hand-made RFC 6455 client: arbitrary frames, no automatic pong unless asked."""

    def __init__(self):
        self.q = asyncio.Queue()
        self.pings = asyncio.Queue()
        self.pongs = asyncio.Queue()
        self.closed = asyncio.Event()
        self.code = None
        self.reason = None
        self.inflate = False

    async def open(self, url, st):
        host, port, target = re.fullmatch(r"ws://([^:/]+):(\d+)(.*)", url).groups()
        self.auto_pong = st.get("auto_pong", False)
        self.reply_close = st.get("reply_close", True)
        self.r, self.w = await asyncio.open_connection(host, int(port))
        h = {"Host": f"{host}:{port}", "Upgrade": "websocket", "Connection": "Upgrade",
             "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode(), "Sec-WebSocket-Version": "13"}
        if st.get("extensions"):
            h["Sec-WebSocket-Extensions"] = st["extensions"]
        if st.get("subprotocols"):
            h["Sec-WebSocket-Protocol"] = ", ".join(st["subprotocols"])
        for k, v in (st.get("headers") or {}).items():
            h = {a: b for a, b in h.items() if a.lower() != k.lower()}
            if v is not None:
                h[k] = v
        self.w.write((f"GET {target or '/'} HTTP/1.1\r\n" + "".join(f"{k}: {v}\r\n" for k, v in h.items()) + "\r\n").encode())
        head = await asyncio.wait_for(self.r.readuntil(b"\r\n\r\n"), 5)
        lines = head.decode("latin1").split("\r\n")
        self.status = int(lines[0].split()[1])
        self.headers = {a.strip().lower(): b.strip() for a, _, b in (x.partition(":") for x in lines[1:] if x)}
        if self.status != 101:
            self.w.close()
            raise StatusError(self.status)
        self.task = asyncio.create_task(self.reader())
        return self

    async def reader(self):
        buf, op0, comp = b"", None, False
        try:
            while True:
                a, b = await self.r.readexactly(2)
                n = b & 127
                if n == 126:
                    n, = struct.unpack(">H", await self.r.readexactly(2))
                elif n == 127:
                    n, = struct.unpack(">Q", await self.r.readexactly(8))
                data = await self.r.readexactly(n)
                op, fin = a & 15, a & 128
                if op == 9:
                    self.pings.put_nowait(data)
                    if self.auto_pong:
                        self.frame(10, data)
                elif op == 10:
                    self.pongs.put_nowait(data)
                elif op == 8:
                    self.code = struct.unpack(">H", data[:2])[0] if len(data) >= 2 else 1005
                    self.reason = data[2:].decode("utf8", "replace")
                    if self.reply_close:
                        self.frame(8, data[:2])
                    break
                else:
                    if op:
                        buf, op0, comp = b"", op, bool(a & 64)
                    buf += data
                    if fin:
                        if comp:
                            buf = zlib.decompressobj(-15).decompress(buf + b"\x00\x00\xff\xff")
                        self.q.put_nowait(("text", buf.decode()) if op0 == 1 else ("binary", buf))
        except (asyncio.IncompleteReadError, ConnectionError, OSError):
            pass
        if self.code is None:
            self.code, self.reason = 1006, ""
        self.closed.set()
        self.q.put_nowait(("closed", f"{self.code} {self.reason!r}"))

    def frame(self, op, data, fin=True, rsv=0, mask=True):
        h = bytes([(128 if fin else 0) | (rsv << 4) | op])
        n, mb = len(data), 128 if mask else 0
        if n < 126:
            h += bytes([mb | n])
        elif n < 65536:
            h += bytes([mb | 126]) + struct.pack(">H", n)
        else:
            h += bytes([mb | 127]) + struct.pack(">Q", n)
        if mask:
            k = os.urandom(4)
            if n:
                kk = (k * (n // 4 + 1))[:n]
                data = (int.from_bytes(data, "big") ^ int.from_bytes(kk, "big")).to_bytes(n, "big")
            h += k
        try:
            self.w.write(h + data)
        except Exception:
            pass

    async def send(self, data, drain=True):
        self.frame(1 if isinstance(data, str) else 2, data.encode() if isinstance(data, str) else data)
        if drain:
            await self.w.drain()

    async def ping(self, data, timeout):
        self.frame(9, data)
        got = await asyncio.wait_for(self.pongs.get(), timeout)
        if got != data:
            raise Fail(f"pong carried {got!r}, not {data!r}")

    async def close(self, code, reason):
        self.frame(8, struct.pack(">H", code) + reason.encode())
        await asyncio.wait_for(self.closed.wait(), 5)

    def drop(self):
        self.w.transport.abort()

    async def end(self):
        self.w.transport.abort()
        self.task.cancel()
