"""A TCP link with small buffers, so that a client that stands still is soon noticed; it keeps the heads of the handshake."""
import asyncio
import contextlib
import re
import socket

BUFFER_BYTES = 16_384


class Narrow:
    """Forwards connections of a free loopback port to another port. `offer` and `answer`: the extensions in the handshake."""

    def __init__(self, to_port):
        self.to_port, self.port = to_port, None
        self.heads, self._tasks = {"offer": b"", "answer": b""}, set()

    @contextlib.asynccontextmanager
    async def running(self):
        listener = socket.create_server(("127.0.0.1", 0))
        # Buffers are those of the listener; the window is agreed on at the handshake.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)
        server = await asyncio.start_server(self._take, sock=listener)
        self.port = listener.getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()

    def extensions(self, which):
        """The value of `Sec-WebSocket-Extensions` in the `offer` or the `answer`; empty without one."""
        head = self.heads[which].partition(b"\r\n\r\n")[0].decode(errors="replace")
        return ", ".join(re.findall(r"(?im)^sec-websocket-extensions: *(.*?)\r?$", head))

    async def _take(self, reader, writer):
        far = socket.socket()
        far.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
        far.setblocking(False)
        await asyncio.get_running_loop().sock_connect(far, ("127.0.0.1", self.to_port))
        far_reader, far_writer = await asyncio.open_connection(sock=far, limit=BUFFER_BYTES)
        for which, *pair in (("offer", reader, far_writer), ("answer", far_reader, writer)):
            task = asyncio.create_task(self._forward(which, *pair))
            self._tasks.add(task)

    async def _forward(self, which, reader, writer):
        writer.transport.set_write_buffer_limits(BUFFER_BYTES)
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(BUFFER_BYTES):
                if b"\r\n\r\n" not in self.heads[which]:
                    self.heads[which] += data
                writer.write(data)
                await writer.drain()
        writer.close()
