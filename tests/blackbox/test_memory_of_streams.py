"""`--memory-max` with a Redis stream of large messages: what is read of the stream stays within the memory."""
import pathlib
import re

from processes import RedisServer
from prometheus import scrape
from waiting import until

MIB = 1024 * 1024
KEY = "ticks"
# The largest message at this --memory-max.
PAYLOAD = 5_200_000


def peak_bytes(weirgate):
    """The most memory that the process has ever had."""
    text = pathlib.Path(f"/proc/{weirgate.child.pid}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", text)[1]) * 1024


async def test_many_large_entries_at_once_fit_in_the_memory(started, start_weirgate):
    started.append(RedisServer())
    server = started[-1]
    weirgate = start_weirgate("channels", "--redis-url", server.url, "--stream", KEY, "--history-ms", "60000",
                              "--memory-max", str(64 * MIB)).wait_ready()
    client = server.client()
    for _ in range(2):
        # In one transaction, so that the answer to one XREAD may have all of them.
        pipeline = client.pipeline(transaction=True)
        for _ in range(12):
            pipeline.xadd(KEY, {"channel": "market:tick:a", "data": "1" * PAYLOAD})
        pipeline.execute()
    await until(lambda: scrape(weirgate).sum("weirgate_bus_messages_total") >= 24, 20, "all entries are read")
    assert peak_bytes(weirgate) < 64 * MIB
