"""An HTTP service behind the events gateway, on the event loop of the soak: it can hang, go away and come back."""
import asyncio
import contextlib
import json
import re

# A kept connection without a request for so long is closed, as services do.
KEPT_S = 10
LENGTH = re.compile(rb"(?im)^content-length: *(\d+)")


class Service:
    """Answers a POST of the gateway with the message's `data`, any other POST with the request's body, a GET with its path.

    `hangs` keeps every request without an answer until it is false again.
    """

    def __init__(self, name):
        self.name, self.port, self.server = name, 0, None
        self.links = set()
        self.well = asyncio.Event()
        self.well.set()
        self.answered = 0

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    async def start(self):
        """Listens, on the same port as before."""
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, backlog=512, limit=1 << 20)
        self.port = self.server.sockets[0].getsockname()[1]

    async def stop(self):
        """Refuses new connections and cuts the present ones."""
        self.server.close()
        for link in list(self.links):
            link.transport.abort()
        await asyncio.sleep(0)

    def hang(self):
        self.well.clear()

    def go_on(self):
        self.well.set()

    async def _serve(self, reader, writer):
        self.links.add(writer)
        try:
            with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
                while True:
                    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), KEPT_S)
                    length = LENGTH.search(head)
                    body = await reader.readexactly(int(length[1])) if length else b""
                    await self.well.wait()
                    answer = self._answer(head, body)
                    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
                                 % (len(answer), answer))
                    await writer.drain()
                    self.answered += 1
        finally:
            self.links.discard(writer)
            writer.close()

    @staticmethod
    def _answer(head, body):
        path = head.split(b" ", 2)[1]
        if path.endswith(b"/gateway/handle"):
            return json.dumps(json.loads(body)["message"].get("data")).encode()
        return body or path
