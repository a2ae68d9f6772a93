"""Real clients in two languages, with and without permessage-deflate: all get the same text."""
import asyncio
import json

import websockets
from bus import publisher
from processes import ROOT, node_binary
from waiting import until

STATES = [
    {"n": 0},
    {"n": 1, "text": "żółw 龍 🜁 \u0000 \" \\"},
    {"n": 2, "pad": "abc" * 50_000},
    {"n": 3, "list": list(range(5_000))},
    {"n": 4, "big": 12345678901234567890, "small": 1e-300},
    {"n": 5, "noise": "".join(chr(33 + (i * i * 7919 + i // 3) % 90) for i in range(70_000))},
    {"n": 6, "empty": {}},
]


async def python_client(url, compression):
    """(extensions agreed on, texts) of the Python library."""
    async with websockets.connect(url, compression=compression, max_size=None) as ws:
        texts = [await asyncio.wait_for(ws.recv(), 20) for _ in STATES]
        assert all(isinstance(text, str) for text in texts)
        return [e.name for e in ws.protocol.extensions], texts


async def node_client(url, encoding):
    """The same of the package ws."""
    child = await asyncio.create_subprocess_exec(
        node_binary(), ROOT / "tests" / "node" / "collect.mjs", url, str(len(STATES)), encoding,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, limit=1 << 24)
    try:
        out, err = await asyncio.wait_for(child.communicate(), 30)
    except BaseException:
        child.kill()
        raise
    assert child.returncode == 0, err.decode()
    extensions, *texts = [json.loads(line) for line in out.decode().splitlines()]
    return [extensions.partition(";")[0]] if extensions else [], texts


async def test_compressed_clients_get_the_same_text_as_plain_ones(nats, start_weirgate):
    weirgate = start_weirgate(nats=nats).wait_ready()
    url = weirgate.ws_url
    running = [asyncio.create_task(c) for c in (
        python_client(url, None), python_client(url, "deflate"), node_client(url, "plain"), node_client(url, "deflate"))]
    try:
        await until(lambda: weirgate.health()["connections"] == 4, 10, "four clients")
        async with publisher(nats) as bus:
            for state in STATES:
                await bus.flow(state)
                await asyncio.sleep(0.05)
        plain, deflated, node_plain, node_deflated = await asyncio.gather(*running)
    finally:
        for task in running:
            task.cancel()
    assert [plain[0], node_plain[0]] == [[], []]
    assert [deflated[0], node_deflated[0]] == [["permessage-deflate"]] * 2
    assert [json.loads(text) for text in plain[1]] == [{"flow": state} for state in STATES]
    for texts in (deflated[1], node_plain[1], node_deflated[1]):
        assert texts == plain[1]


async def test_a_compressed_newcomer_gets_the_cached_state(nats, start_weirgate):
    weirgate = start_weirgate(nats=nats).wait_ready()
    async with publisher(nats) as bus, websockets.connect(weirgate.ws_url) as early:
        await bus.flow(STATES[2])
        text = await asyncio.wait_for(early.recv(), 5)
        async with websockets.connect(weirgate.ws_url, max_size=None) as late:
            assert await asyncio.wait_for(late.recv(), 5) == text
