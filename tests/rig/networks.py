"""Networks that treat WebSockets badly: the relays of tests/node/networks.mjs."""
import asyncio
import contextlib
import json

from browser import open_page
from foreign_pages import Site
from processes import ROOT, node_binary

DATA_S = 20
# Its WebSockets are whole, so nobody may leave them. The client's own time limits are so many times longer there: how fast
# this machine brings the pieces says nothing about the network.
PIECES = "cuts into other pieces"
PATIENT = "const timeout = setTimeout; globalThis.setTimeout = (work, ms, ...more) => timeout(work, 20 * ms, ...more);"
LISTEN = """(async () => {
  const files = "http://127.0.0.1:%d", [{ Levels }, { withFallback }] = await Promise.all(
    ["weirgate", "event-stream"].map((name) => import(`${files}/${name}.js`)));
  const WebSocket = withFallback();
  globalThis.seen = {};
  for (const [name, port] of Object.entries(%s)) {
    seen[name] = 0;
    new Levels(`ws://127.0.0.1:${port}/ws/stream`, { WebSocket, onState: () => { seen[name] += 1; } });
  }
})()"""


@contextlib.asynccontextmanager
async def networks(port, *names):
    """Ports by the names of tests/node/networks.mjs, and a function for the counts."""
    argv = [node_binary(), ROOT / "tests" / "node" / "networks.mjs", str(port), *names]
    relay = await asyncio.create_subprocess_exec(*argv, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE)

    async def counts():
        relay.stdin.write(b"\n")
        return json.loads(await relay.stdout.readline())

    try:
        yield json.loads(await relay.stdout.readline()), counts
    finally:
        relay.kill()
        await relay.wait()


async def check_page(start_weirgate, **more):
    """Data within 20 s on every network, which goes on without another WebSocket."""
    weirgate = start_weirgate("demo", "--rate-hz", "2").wait_ready()
    await check_pieces(weirgate, **more)
    async with networks(weirgate.port) as (ports, counts), Site(None) as site, open_page(site.origin("127.0.0.1") + "/page", **more) as page:
        await page.js(LISTEN % (weirgate.port, json.dumps(ports)))
        await asyncio.sleep(DATA_S)
        before, known = json.loads(await page.js("JSON.stringify(seen)")), await counts()
        assert not (without := [name for name, count in before.items() if not count]), f"no data: {without}"
        await asyncio.sleep(5)
        after, later = json.loads(await page.js("JSON.stringify(seen)")), await counts()
    assert not (without := [name for name in ports if after[name] < before[name] + 3]), f"data has ended: {without}"
    assert {name: one["upgrades"] for name, one in later.items()} == {name: one["upgrades"] for name, one in known.items()}
    # Two, and one more where the browser was late on a busy machine.
    assert {name: one["upgrades"] for name, one in later.items() if one["upgrades"] > 3} == {}


async def check_pieces(weirgate, **more):
    """Other pieces are no reason for a stream."""
    async with networks(weirgate.port, PIECES) as (ports, counts), Site(None) as site, open_page(site.origin("127.0.0.1") + "/page", **more) as page:
        await page.js(PATIENT)
        await page.js(LISTEN % (weirgate.port, json.dumps(ports)))
        await page.until(f'seen["{PIECES}"] > 9', DATA_S, "states")
        assert (await counts())[PIECES] == {"upgrades": 1, "streams": 0}
