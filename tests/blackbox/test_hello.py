"""The pages of docs/guides/hello, word for word: each block of commands in a shell, each output that the page shows, and the
HTML in Chromium until its value has moved.

The ports of the pages are replaced by the test's: in the text, and by the environment where a page leaves the default."""
import asyncio
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys

import pytest
from browser import open_page
from processes import ROOT, free_port, nats_server_binary, system_binary, weirgate_binary
from waiting import PATIENCE, until

# Chromium takes a core for itself: one at a time.
pytestmark = pytest.mark.xdist_group("chromium")

HELLO = ROOT / "docs" / "guides" / "hello"
PORTS = ["4222", "6379", "8000", "8080", "8889", "9001", "9002", "9003"]
# What a gateway listens on where nothing else is said.
DEFAULTS = {"GATEWAY_PORT": "8000", "WS_PORT": "8080", "REDIS_WS_GATEWAY_PORT": "8889"}
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.M | re.S)
VALUES_SEEN = 3


class Shell:
    """A block of commands in bash, with everything that it starts."""

    def __init__(self, block, folder, env, number):
        self.output = folder / f"terminal-{number}.log"
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


class Hello:
    """A page: its parts in their order, and the shells that run."""

    def __init__(self, name, folder):
        ports = {port: str(free_port()) for port in PORTS}
        # Those that the blocks so far name.
        self.ports, self.named = ports.values(), set()
        text = (HELLO / f"{name}.md").read_text()
        text = re.sub(rf"\b({'|'.join(PORTS)})\b", lambda found: ports[found[1]], text)
        # The language, the text, and what the page says before it.
        self.parts = [(found[1], found[2], text[:found.start()]) for found in FENCE.finditer(text)]
        assert {"sh", "text", "html"} == {kind for kind, _, _ in self.parts}, self.parts
        self.folder, self.shells, self.files, self.address = folder, [], {}, None
        programs = folder.parent / f"{folder.name}-programs"
        programs.mkdir()
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
        return any(line in one.text() for one in self.shells)

    async def run(self):
        """Does what the page says, up to the last block."""
        for kind, block, before in self.parts:
            if kind == "sh":
                await self.earlier_servers(block)
                self.shells.append(Shell(block, self.folder, self.env, len(self.shells) + 1))
                await self.take_address(block)
            elif kind == "text":
                for line in block.splitlines():
                    await until(lambda: self.printed(line.strip()), 30, f"{line!r} in\n{self.terminals()}")
            else:
                name = re.findall(r"[Ss]ave this file as `([\w.]+)`", before)[-1]
                (self.folder / name).write_text(block)
                self.files[name] = self.folder / name

    async def earlier_servers(self, block):
        """Waits for the servers that this block names and an earlier one starts: a person is not as fast as this test."""
        named = {port for port in self.ports if port in block}
        for port in self.named & named:
            await until(lambda: connects(int(port)), 30, f"port {port} in\n{self.terminals()}")
        self.named |= named

    async def take_address(self, block):
        """The address that a block prints, if it prints one for the browser."""
        if "file://" in block:
            shell = self.shells[-1]
            await until(lambda: shell.child.poll() is not None, 30, "the address")
            self.address = shell.text().strip()

    def url(self):
        [file] = self.files.values()
        return self.address or file.as_uri()

    def discard(self):
        for shell in self.shells:
            shell.discard()


@pytest.fixture
def hello(tmp_path):
    """hello(name) → the page of that name, its shells ended with the test."""
    pages = []

    def page(name):
        assert shutil.which("bash")
        folder = tmp_path / name
        folder.mkdir()
        pages.append(Hello(name, folder))
        return pages[-1]
    yield page
    for one in pages:
        print(one.terminals())
        one.discard()


async def values(page):
    """Different values that the page shows, as many as prove that it moves."""
    async def value():
        text = await page.text("#value")
        return text if re.fullmatch(r"[0-9.]+", text) else None
    return await different(page, value)


async def prices(page):
    """All prices that the page of levels shows, as one text."""
    return json.dumps(re.findall(r"\b(?:99|100|101)\.\d\d\b", await page.js("document.body.innerText")))


async def different(page, read, seconds=30):
    """Reads until as many different texts were seen as prove that the page moves."""
    seen = []
    end = asyncio.get_running_loop().time() + PATIENCE * seconds
    while len(seen) < VALUES_SEEN:
        text = await read()
        if text and text not in seen:
            seen.append(text)
        assert asyncio.get_running_loop().time() < end, f"only {seen}; {page.problems}"
        await asyncio.sleep(0.05)
    return seen


def names():
    return sorted(path.stem for path in HELLO.glob("*.md"))


async def rows(page):
    """The keys of the page of the key-value bucket with their numbers, as one text."""
    return await page.js("JSON.stringify([...document.querySelectorAll('tr')].map(row => row.innerText.split('\\t')))")


def test_there_are_six_pages():
    assert names() == ["events", "key-value", "levels", "nats", "redis", "trades"]


@pytest.mark.parametrize("name", names())
async def test_a_page_ends_with_something_that_moves(hello, name):
    page = hello(name)
    await page.run()
    assert " WARN " not in page.terminals(), page.terminals()
    async with open_page(page.url(), width=900, height=500) as browser:
        if name == "key-value":
            await different(browser, lambda: rows(browser))
            for there in (True, False, True):
                await browser.until(f"document.body.innerText.includes('pears') === {json.dumps(there)}", 20, "the pears")
                shown = dict(json.loads(await rows(browser)))
                assert shown["plums"] == "7" and int(shown["apples"]) > 0
            assert await browser.text("#how") == "open"
        else:
            await values(browser)
        if name == "events":
            assert await browser.text("#rt60") == "0.805"
            assert re.fullmatch(r"[0-9a-f]{16}", await browser.text("#job"))
        if name == "levels":
            assert await browser.text("#count") == "2"
        assert browser.problems == []


async def test_the_pages_of_levels_and_demo_have_what_the_page_of_levels_says(hello):
    page = hello("levels")
    await page.run()
    port = page.env["GATEWAY_PORT"]
    async with open_page(f"http://127.0.0.1:{port}/") as browser:
        both = "['99.00', '101.00'].every(price => document.body.innerText.includes(price))"
        await browser.until(both, 20, "both levels")
        await different(browser, lambda: prices(browser))


async def test_with_a_wrong_token_the_browser_is_told(hello):
    page = hello("redis")
    await page.run()
    async with open_page(page.url().partition("#")[0] + "#wrong") as browser:
        told = "document.getElementById('how').textContent === 'closed: 1008 Authentication failed'"
        await browser.until(told, 20, "the close")
        assert await browser.text("#value") == "–"
