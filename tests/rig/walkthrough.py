"""A document that a person follows word for word: its blocks of commands in shells, the output that it shows, the files that it
says to save. Its ports are replaced by the test's: in the text, and by the environment where the document leaves the default."""
import asyncio
import os
import re
import signal
import socket
import subprocess
import sys

from processes import ROOT, free_port, nats_server_binary, system_binary, weirgate_binary
from waiting import patient, until

PORTS = ["4222", "6379", "8000", "8080", "8889", "9001", "9002", "9003"]
# What a gateway listens on where nothing else is said.
DEFAULTS = {"GATEWAY_PORT": "8000", "WS_PORT": "8080", "REDIS_WS_GATEWAY_PORT": "8889"}
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.M | re.S)
VALUES_SEEN = 3
# In place of npm, which would load from the network: the packages of tests/node, and the client as `--install-links` copies it.
NPM = f"""#!/bin/sh
[ "$1" = install ] || exit 9
mkdir node_modules && ln -s {ROOT}/tests/node/node_modules/* {ROOT}/tests/node/node_modules/.bin node_modules/
case "$*" in *--install-links*/clients/js*) mkdir node_modules/weirgate && cp {ROOT}/clients/js/*.js {ROOT}/clients/js/package.json node_modules/weirgate/ ;; esac
"""


class Shell:
    """A block of commands in bash, with everything that it starts."""

    def __init__(self, block, folder, env, number):
        self.block, self.output = block, folder / f"terminal-{number}.log"
        with open(self.output, "wb") as output:
            self.child = subprocess.Popen(["bash", "-c", block], cwd=folder, env=env, stdin=subprocess.DEVNULL, stdout=output,
                                          stderr=subprocess.STDOUT, start_new_session=True)

    def text(self):
        return self.output.read_text(errors="replace")

    def discard(self):
        """Ends the shell and what it started in the background."""
        try:
            os.killpg(self.child.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.child.wait(10)


def connects(port):
    """Whether something listens on this port of this machine."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


class Walkthrough:
    """A document: its parts in their order, and the shells that run."""

    def __init__(self, text, folder):
        ports = {port: str(free_port()) for port in PORTS}
        # Those that the blocks so far name.
        self.ports, self.named = ports.values(), set()
        text = re.sub(rf"\b({'|'.join(PORTS)})\b", lambda found: ports[found[1]], text)
        # The language, the text, and what the document says before it.
        self.parts = [(found[1], found[2], text[:found.start()]) for found in FENCE.finditer(text)]
        self.folder, self.shells, self.files, self.address = folder, [], {}, None
        programs = folder.parent / f"{folder.name}-programs"
        programs.mkdir()
        (programs / "npm").write_text(NPM)
        (programs / "npm").chmod(0o755)
        for program in (weirgate_binary(), nats_server_binary(), system_binary("redis-server", "redis-server")):
            (programs / os.path.basename(program)).symlink_to(program)
        # With the Python of the tests: it has what a page installs by pip.
        path = [str(programs), os.path.dirname(sys.executable), os.environ["PATH"]]
        self.env = {**os.environ, "PATH": os.pathsep.join(path)}
        self.env |= {variable: ports[port] for variable, port in DEFAULTS.items()}
        (folder / "examples").symlink_to(ROOT / "examples")

    def terminals(self):
        return "\n".join(f"--- {one.output.name} ---\n{one.text()}" for one in self.shells)

    def printed(self, line):
        """Whether a shell has printed this line, in which `…` stands for any text."""
        text = re.compile(".*".join(re.escape(part.strip()) for part in line.split("…")))
        return any(text.search(one.text()) for one in self.shells)

    async def run(self):
        """Does what the document says, up to the last block."""
        for kind, block, before in self.parts:
            if kind == "sh":
                await self.earlier_servers(block)
                self.shells.append(Shell(block, self.folder, self.env, len(self.shells) + 1))
                await self.wait_for_prompt(block)
            elif kind == "text":
                for line in block.splitlines():
                    await until(lambda: self.printed(line), 30, f"{line!r} in\n{self.terminals()}")
            else:
                # A page that is opened before its gateway listens loads no client.
                await self.listening(port for port in self.ports if port in block)
                name = re.findall(r"[Ss]ave this (?:file )?as `([\w.]+)`", before)[-1]
                (self.folder / name).write_text(block)
                self.files[name] = self.folder / name

    async def earlier_servers(self, block):
        """Waits for the servers that this block names and an earlier one starts: a person is not as fast as this test."""
        named = {port for port in self.ports if port in block}
        await self.listening(self.named & named)
        self.named |= named

    async def listening(self, ports):
        for port in ports:
            await until(lambda: connects(int(port)), 30, f"port {port} in\n{self.terminals()}")

    async def wait_for_prompt(self, block):
        """Waits for the end of a block that installs what a page loads, or that prints the address for the browser, and takes
        that address: a person opens the page after it."""
        prints_address = "file://" in block
        if prints_address or block.startswith("npm install"):
            shell = self.shells[-1]
            await until(lambda: shell.child.poll() is not None, 60, f"the end of\n{block}in\n{self.terminals()}")
            if prints_address:
                self.address = shell.text().strip()

    def url(self):
        [file] = [file for name, file in self.files.items() if name.endswith(".html")]
        return self.address or file.as_uri()

    def discard(self):
        for shell in self.shells:
            shell.discard()


async def values(page, selector="#value"):
    """Different values that the page shows, as many as prove that it moves."""
    async def value():
        text = await page.text(selector)
        return text if re.fullmatch(r"[0-9.]+", text) else None
    return await different(page, value)


async def different(page, read, seconds=30):
    """Reads until as many different texts were seen as prove that the page moves."""
    seen = []
    end = asyncio.get_running_loop().time() + patient(seconds)
    while len(seen) < VALUES_SEEN:
        text = await read()
        if text and text not in seen:
            seen.append(text)
        assert asyncio.get_running_loop().time() < end, f"only {seen}; {page.problems}"
        await asyncio.sleep(0.05)
    return seen
