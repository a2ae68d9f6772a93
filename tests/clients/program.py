"""A client program: one process, spoken to over the line protocol of README.md."""
import asyncio
import contextlib
import os
import pathlib
import signal

# A slow machine starts a browser or a JVM within this time.
PATIENCE_S = 30


class Fault(AssertionError):
    """What a client did in place of what it should have done."""


def descendants(pid):
    """The processes that a process has started, and theirs."""
    children = {}
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            # The name, in parentheses, may hold anything; state and parent follow.
            parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
            children.setdefault(int(parent), []).append(int(folder.name))
    found = [pid]
    for parent in found:
        found += children.get(parent, [])
    return found[1:]


class Program:
    """One connection of a client. `texts` are the messages that it showed; `ended` is `closed CODE` or `failed WHY`."""

    def __init__(self, child, log):
        self.child, self.log = child, log
        self.protocol, self.texts, self.ended = None, [], None
        self._changed = asyncio.Event()
        self._reading = asyncio.create_task(self._read())

    @classmethod
    async def start(cls, command, log, url, *protocols, env=None):
        """Starts the program; `env` is added to the environment."""
        with open(log, "ab") as errors:
            child = await asyncio.create_subprocess_exec(
                *map(str, command), url, *protocols, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
                stderr=errors, limit=1 << 26, env={**os.environ, **(env or {})})
        return cls(child, pathlib.Path(log))

    async def _read(self):
        async for line in self.child.stdout:
            word, _, rest = line.decode(errors="replace").rstrip("\n").partition(" ")
            if word == "open":
                self.protocol = rest
            elif word == "text":
                self.texts.append(rest)
            elif word in ("closed", "failed"):
                self.ended = self.ended or f"{word} {rest}"
            else:
                self.ended = self.ended or f"failed with the line {line[:200]!r}"
            self._changed.set()
        self.ended = self.ended or f"failed: the program ended\n{self.log.read_text(errors='replace')[-1500:]}"
        self._changed.set()

    async def until(self, condition, what, seconds=PATIENCE_S):
        """Returns once `condition()` holds; a connection that has ended before is a fault."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not condition():
                    if self.ended:
                        raise Fault(f"{self.ended} before {what}")
                    self._changed.clear()
                    await self._changed.wait()
                return
        raise Fault(f"not within {seconds} s: {what}")

    async def opened(self):
        """Returns the program itself once the WebSocket is open."""
        await self.until(lambda: self.protocol is not None, "the WebSocket was open")
        return self

    async def end(self, seconds=PATIENCE_S):
        """How the program says that the connection ended."""
        await self.until(lambda: self.ended, "the end of the connection", seconds)
        return self.ended

    async def send(self, text):
        """Has the client send a text message."""
        await self._say(f"send {text}")

    async def close(self, code):
        """Has the client close with this code."""
        await self._say(f"close {code}")

    async def _say(self, line):
        self.child.stdin.write(f"{line}\n".encode())
        with contextlib.suppress(ConnectionError):
            await self.child.stdin.drain()

    def signal(self, what):
        """SIGSTOP, SIGCONT or SIGKILL, to all processes of the program: puppeteer starts a browser in a session of its own."""
        for pid in [self.child.pid, *descendants(self.child.pid)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, what)

    async def discard(self):
        """Ends the program, whatever its state."""
        self.signal(signal.SIGKILL)
        await self.child.wait()
        self._reading.cancel()
