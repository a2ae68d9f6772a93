"""A process that stood still for a while (SIGSTOP, `docker pause`, a migration) does not blame its clients for it."""
import asyncio
import signal

from clients import connect
from prometheus import scrape
from waiting import until


async def test_a_client_that_reads_everything_during_a_freeze_stays(start_weirgate):
    weirgate = start_weirgate("demo", "--send-queue-stall-ms", "2000").wait_ready()
    client = await connect(weirgate.port, receive_bytes=4096)
    client.stop_reading()
    await until(lambda: scrape(weirgate).sum("weirgate_messages_waiting") > 0, 60, "a client that is behind")
    weirgate.send(signal.SIGSTOP)
    try:
        client.transport.resume_reading()
        await asyncio.sleep(3)
    finally:
        weirgate.send(signal.SIGCONT)
    before = client.messages
    await client.wait_for(lambda c: c.messages > before + 2, 10, "the feed")
    assert client.open
    assert scrape(weirgate).sum("weirgate_client_closes_total") == 0
