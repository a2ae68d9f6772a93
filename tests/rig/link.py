"""A TCP link that can fail silently: forwarding stops, and neither end notices."""
import asyncio
import contextlib
import socket

HEAD_BYTES = 8_192


class Link:
    """Forwards connections from a free loopback port to another port, until switched off.

    `change` is an attacker on the path: gets the data on the way back, and returns the data to pass on. `delay_s`: delay of
    every byte, in each direction. `buffer_bytes`: small buffers, so a stalled reader is soon noticed; default: the buffers of
    the system. `bytes_per_s`, which may change: the rate of the way back, None for no limit. `heads` has the first data from either end, `there` and `back`: for a single connection, the handshake."""

    def __init__(self, to_port, change=lambda data: data, delay_s=0.0, buffer_bytes=None):
        self.to_port, self.change, self.delay_s, self.url, self.port = to_port, change, delay_s, None, None
        self.bytes_per_s = None
        self.buffer_bytes, self.limit, self.heads = buffer_bytes, buffer_bytes or 65_536, {"there": b"", "back": b""}
        self._open = asyncio.Event()
        self._open.set()
        self._is_cut = False
        self._tasks, self._writers = set(), set()

    @contextlib.asynccontextmanager
    async def running(self):
        """The link, listening."""
        server = await asyncio.start_server(self._take, "127.0.0.1", 0, limit=self.limit)
        # Accepted connections have the buffers of their listener.
        self._narrow(server.sockets[0], socket.SO_SNDBUF)
        self.port = server.sockets[0].getsockname()[1]
        self.url = f"nats://127.0.0.1:{self.port}"
        try:
            yield self
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()

    def black_hole(self):
        """Stops forwarding, on existing and new connections; all connections stay open."""
        self._open.clear()

    def cut(self):
        """Ends all connections, and from now on each new connection immediately."""
        self._is_cut = True
        for writer in self._writers:
            writer.transport.abort()

    def mend(self):
        """Forwards again, on existing connections too: no data was lost there, only delayed."""
        self._is_cut = False
        self._open.set()

    async def _take(self, reader, writer):
        await self._open.wait()
        if self._is_cut:
            return writer.transport.abort()
        try:
            far_reader, far_writer = await self._connect()
        except OSError:
            return writer.transport.abort()
        # The link may have been cut meanwhile.
        if self._is_cut:
            writer.transport.abort()
            return far_writer.transport.abort()
        for end in (writer, far_writer):
            self._writers.add(end)
        for way in (("there", reader, far_writer), ("back", far_reader, writer)):
            task = asyncio.create_task(self._forward(*way))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _connect(self):
        far = socket.socket(proto=socket.IPPROTO_TCP)
        try:
            # The window is agreed on at the handshake of TCP.
            self._narrow(far, socket.SO_RCVBUF)
            far.setblocking(False)
            await asyncio.get_running_loop().sock_connect(far, ("127.0.0.1", self.to_port))
        except OSError:
            far.close()
            raise
        return await asyncio.open_connection(sock=far, limit=self.limit)

    def _narrow(self, end, buffer):
        if self.buffer_bytes:
            end.setsockopt(socket.SOL_SOCKET, buffer, self.buffer_bytes)

    @staticmethod
    def _write(writer, data):
        if not writer.is_closing():
            writer.write(data)

    async def _forward(self, way, reader, writer):
        loop = asyncio.get_running_loop()
        writer.transport.set_write_buffer_limits(self.limit)
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(self.limit):
                await self._open.wait()
                if len(self.heads[way]) < HEAD_BYTES:
                    self.heads[way] += data
                if way == "back":
                    data = self.change(data)
                    if self.bytes_per_s:
                        await asyncio.sleep(len(data) / self.bytes_per_s)
                if self.delay_s:
                    loop.call_later(self.delay_s, self._write, writer, data)
                else:
                    writer.write(data)
                    await writer.drain()
        loop.call_later(self.delay_s, writer.close)
        self._writers.discard(writer)
