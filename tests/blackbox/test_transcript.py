"""The session that docs/reference/protocol-channels.md shows for authors of clients, replayed: what weirgate sends is what the page says, byte
for byte, but for times, the client's id and the texts of positions."""
import asyncio
import functools
import itertools
import json
import re

import websockets
from processes import ROOT
from prometheus import scrape
from waiting import until

PAGE = ROOT / "docs" / "reference" / "protocol-channels.md"
HISTORY = ("--history-ms", "60000", "--history-names", "news:*")


def sessions():
    """The lines of both connections of the page."""
    text = PAGE.read_text()
    text = text[text.index("A whole session"):text.index("## How it ends")]
    return [block.splitlines() for block in re.findall(r"^```text\n(.*?)^```$", text, re.M | re.S)]


POSITION = re.compile(r'"(pos|since)":"[^"]*"')


def shown(line):
    """The line as both compare it: a position grows with each mark, too, so only its place is compared."""
    line = re.sub(r'"(timestamp|clientId)":"[^"]*"', r'"\1":"…"', line)
    return POSITION.sub(r'"\1":"POSITION"', line)


async def test_the_session_of_the_page(redis_server, start_weirgate, tmp_path):
    table = tmp_path / "roles.json"
    table.write_text('{"user": ["news:*"]}')
    weirgate = start_weirgate("channels", *HISTORY, "--acl", str(table), redis=redis_server, env={"DEFAULT_ROLE": "user"}).wait_ready()
    await until(lambda: scrape(weirgate).sum("weirgate_positions_shared") == 1, 10, "positions")
    numbers = itertools.count(1)
    blocks = sessions()
    assert len(blocks) == 2
    position = None
    publish = functools.partial(redis_server.client().publish, "news:hello")
    for block in blocks:
        async with websockets.connect(f"ws://127.0.0.1:{weirgate.port}/ws") as client:
            missed = block is blocks[1]
            for line in block:
                if line.startswith("> "):
                    await client.send(POSITION.sub(f'"since":"{position}"', line.removeprefix("> ")))
                    continue
                if '"type":"data"' in line and not missed:
                    publish(json.dumps({"n": next(numbers)}, separators=(",", ":")))
                text = await asyncio.wait_for(client.recv(), 60)
                assert shown(text) == shown(line)
                position = json.loads(text).get("pos", position)
        for _ in range(2):
            publish(json.dumps({"n": next(numbers)}, separators=(",", ":")))
