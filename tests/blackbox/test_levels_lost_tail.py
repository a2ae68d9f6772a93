"""A stream loses its newest messages, as after a power failure or when a backup is restored, and gives their numbers
again. The durable consumer may keep its position, which is then beyond the stream."""
import asyncio
import shutil
import signal

import pytest
from bus import publisher
from clients import connect
from ports import free_port
from waiting import until

LOST = (3, 5, 12)


def messages_of(nats, only_messages):
    """The folders of the store that go back in time."""
    streams = sorted((nats.folder / "store").rglob("streams"))
    assert len(streams) == 1
    return [one / "msgs" for one in streams[0].iterdir()] if only_messages else streams


def replace(nats, folders, copies):
    """The server of this power failure has only what was there when the copies were made."""
    for folder, copy in zip(folders, copies, strict=True):
        shutil.rmtree(folder)
        shutil.copytree(copy, folder)


def copied(nats, folders, tmp_path):
    copies = [tmp_path / str(number) for number in range(len(folders))]
    for folder, copy in zip(folders, copies, strict=True):
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(folder, copy)
    return copies


def stopped(nats):
    nats.process.send(signal.SIGTERM)
    nats.process.wait(20)


async def sees(weirgate, value):
    """Once `/ready` is 200, a new client and the state say this."""
    await until(lambda: weirgate.ready_status() == 200, 20, "/ready")
    client = await connect(weirgate.port)
    await client.wait_for(lambda c: c.messages > 0 and c.state().get("flow") == value, 10, f"{value}")
    client.transport.abort()


@pytest.mark.timeout(180)
@pytest.mark.parametrize("only_messages", [True, False], ids=["the-durable-stays", "all-goes-back"])
@pytest.mark.parametrize("runs_on", [True, False], ids=["gateway-up", "gateway-restarted"])
@pytest.mark.parametrize("flags", [[], ["--ephemeral"]], ids=["durable", "ephemeral"])
@pytest.mark.parametrize("overtakes", [False, True], ids=["few-follow", "the-numbers-are-given-again"])
async def test_every_new_state_comes(nats, start_weirgate, tmp_path, flags, runs_on, only_messages, overtakes):
    weirgate = start_weirgate("levels", *flags, nats=nats).wait_ready()
    number = 0

    async def publish(count):
        nonlocal number
        async with publisher(nats) as bus:
            for _ in range(count):
                number += 1
                await bus.streams.publish("market.flow", b'{"n":%d}' % number)

    await publish(4)
    for lost in LOST:
        await sees(weirgate, {"n": number})
        stopped(nats)
        folders = messages_of(nats, only_messages)
        copies = copied(nats, folders, tmp_path)
        kept = number
        nats.start()
        await publish(lost)
        await sees(weirgate, {"n": number})
        if not runs_on:
            weirgate.send(signal.SIGTERM)
            # In a thread: the end of the clients is this loop's, and a stop waits for them.
            await asyncio.to_thread(weirgate.wait, 10)
        if overtakes and runs_on:
            weirgate.send(signal.SIGSTOP)
        nats.kill()
        replace(nats, folders, copies)
        nats.start()
        if overtakes:
            # The stream has the same last number as before, of another message.
            await publish(lost)
        if not runs_on:
            weirgate = start_weirgate("levels", *flags, nats=nats).wait_ready()
        elif overtakes:
            weirgate.send(signal.SIGCONT)
        await sees(weirgate, {"n": number if overtakes else kept})
        for _ in range(2):
            await publish(1)
            await sees(weirgate, {"n": number})
        await publish(lost)
        await sees(weirgate, {"n": number})
        await asyncio.sleep(0.2)
        assert weirgate.ready_status() == 200


@pytest.mark.timeout(90)
async def test_a_number_that_is_not_there_any_more_proves_nothing(nats, start_weirgate, tmp_path):
    """The stream keeps one message for each subject: the message of the old number was replaced."""
    async with publisher(nats) as bus:
        config = (await bus.streams.stream_info("MARKET_DATA")).config
        config.max_msgs_per_subject = 1
        await bus.streams.update_stream(config)
        weirgate = start_weirgate("levels", nats=nats).wait_ready()
        await bus.streams.publish("market.flow", b'{"n":1}')
    await sees(weirgate, {"n": 1})
    stopped(nats)
    folders = messages_of(nats, True)
    copies = copied(nats, folders, tmp_path)
    nats.start()
    async with publisher(nats) as bus:
        for number in range(2, 6):
            await bus.streams.publish("market.flow", b'{"n":%d}' % number)
    await sees(weirgate, {"n": 5})
    weirgate.send(signal.SIGSTOP)
    nats.kill()
    replace(nats, folders, copies)
    nats.start()
    async with publisher(nats) as bus:
        await bus.streams.publish("market.flow", b'{"n":6}')
        for _ in range(8):
            await bus.streams.publish("market.noise", b"{}")
    weirgate.send(signal.SIGCONT)
    await sees(weirgate, {"n": 6})


@pytest.mark.timeout(120)
@pytest.mark.parametrize("overtakes", [False, True], ids=["few-follow", "the-numbers-are-given-again"])
@pytest.mark.parametrize("flags", [[], ["--ephemeral"]], ids=["durable", "ephemeral"])
async def test_a_connection_that_stays_shows_it_too(start_nats, start_weirgate, tmp_path, flags, overtakes):
    """The streams are on another server than that of the connection."""
    leaf_port = free_port()
    store = tmp_path / "store"
    hub = start_nats(jetstream=False, config=f'jetstream {{ store_dir: "{store}", domain: hub }}\n'
                                             f"leafnodes {{ listen: 127.0.0.1:{leaf_port} }}")
    leaf = start_nats(jetstream=False, config='default_js_domain { "$G": hub }\nleafnodes { reconnect: 1, remotes: '
                                              f'[{{ url: "nats://127.0.0.1:{leaf_port}" }}] }}')
    async with publisher(hub) as bus:
        for number in range(1, 5):
            await bus.streams.publish("market.flow", b'{"n":%d}' % number)
    weirgate = start_weirgate("levels", *flags, nats=leaf).wait_ready()
    await sees(weirgate, {"n": 4})
    stopped(hub)
    folders = [one / "msgs" for one in sorted(store.rglob("streams"))[0].iterdir()]
    copies = copied(hub, folders, tmp_path)
    hub.start()
    async with publisher(hub) as bus:
        for number in range(5, 10):
            await bus.streams.publish("market.flow", b'{"n":%d}' % number)
    await sees(weirgate, {"n": 9})
    hub.kill()
    replace(hub, folders, copies)
    # Longer than the pause between two questions.
    await asyncio.sleep(2.5)
    hub.start()
    async with publisher(hub) as bus:
        for number in range(10, 15 if overtakes else 12):
            await bus.streams.publish("market.flow", b'{"n":%d}' % number)
    await sees(weirgate, {"n": number})
    assert weirgate.lines_with("the stream has lost its newest messages")
    assert len(weirgate.lines_with("subscribed on NATS")) == 1, "the connection stayed"
