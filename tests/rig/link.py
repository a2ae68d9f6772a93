"""A TCP link that can fail without either end being told: it stops forwarding and says nothing."""
import asyncio
import contextlib


class Link:
    """Forwards connections of a free loopback port to another port, until it is told not to.

    `change` is somebody on the path: it gets what comes back, and returns what is passed on. `delay_s`: how long every
    byte is on its way, in each direction."""

    def __init__(self, to_port, change=lambda data: data, delay_s=0.0):
        self.to_port, self.change, self.delay_s, self.url, self.port = to_port, change, delay_s, None, None
        self._open = asyncio.Event()
        self._open.set()
        self._is_cut = False
        self._tasks, self._writers = set(), set()

    @contextlib.asynccontextmanager
    async def running(self):
        """The link, listening."""
        server = await asyncio.start_server(self._take, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self.url = f"nats://127.0.0.1:{self.port}"
        try:
            yield self
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()

    def black_hole(self):
        """From now on nothing is forwarded, on connections that stand and on new ones; all of them stay open."""
        self._open.clear()

    def cut(self):
        """Ends all connections, and from now on each new one at once."""
        self._is_cut = True
        for writer in self._writers:
            writer.transport.abort()

    def mend(self):
        """Forwards again, on connections that stand too: nothing was lost on them, only late."""
        self._is_cut = False
        self._open.set()

    async def _take(self, reader, writer):
        await self._open.wait()
        if self._is_cut:
            return writer.transport.abort()
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.to_port)
        except OSError:
            return writer.transport.abort()
        for end in (writer, far_writer):
            self._writers.add(end)
        for way in ((reader, far_writer, lambda data: data), (far_reader, writer, lambda data: self.change(data))):
            task = asyncio.create_task(self._forward(*way))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    @staticmethod
    def _write(writer, data):
        if not writer.is_closing():
            writer.write(data)

    async def _forward(self, reader, writer, change):
        loop = asyncio.get_running_loop()
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65_536):
                await self._open.wait()
                if self.delay_s:
                    loop.call_later(self.delay_s, self._write, writer, change(data))
                else:
                    writer.write(change(data))
                    await writer.drain()
        loop.call_later(self.delay_s, writer.close)
        self._writers.discard(writer)
