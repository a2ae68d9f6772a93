"""--relay and --endpoint: more subjects in the payload, more paths that send a part of it."""
import asyncio
import contextlib
import json

import nats as nats_py
import pytest
import websockets
from bus import publisher
from link import Link
from nats.js.api import AckPolicy, ConsumerConfig, ReplayPolicy, StreamConfig
from prometheus import scrape
from waiting import until

RELAYS = ["--relay", "news.flash=news", "--relay", "depth.ES=depth,stream=DEPTH,durable=depth_reader"]
ENDPOINTS = ["--endpoint", "/ws/flow=flow", "--endpoint", "/ws/more=depth,viewport"]
PATHS = ["/ws/stream", "/ws/flow", "/ws/more"]
LEVELS = {"ts": 1795167584505, "levels": [{"id": "a"}], "viewport": {"targets": []}}


async def send(bus, subject, value):
    """One message, acknowledged by its stream."""
    await bus.streams.publish(subject, json.dumps(value).encode())


async def make_streams(bus):
    await bus.streams.add_stream(StreamConfig(name="NEWS", subjects=["news.*"]))
    await bus.streams.add_stream(StreamConfig(name="DEPTH", subjects=["depth.*"]))


@contextlib.asynccontextmanager
async def connected(weirgate, paths=PATHS):
    """A client on each path, in this order."""
    async with contextlib.AsyncExitStack() as stack:
        yield [await stack.enter_async_context(websockets.connect(f"ws://127.0.0.1:{weirgate.port}{path}"))
               for path in paths]


async def got(client, seconds=10):
    return json.loads(await asyncio.wait_for(client.recv(), seconds))


async def nothing_more(*clients):
    """No message in the time that some would have come in."""
    for client in clients:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(client.recv(), 0.3)


async def test_relays_and_endpoints(nats, start_weirgate):
    async with publisher(nats) as bus:
        await make_streams(bus)
        weirgate = start_weirgate("levels", *RELAYS, *ENDPOINTS, nats=nats).wait_ready()
        async with connected(weirgate) as (everything, flow, more):
            await send(bus, "depth.ES", [1, 2.50])
            assert await got(everything) == await got(more) == {"depth": [1, 2.5]}
            await send(bus, "news.flash", "first")
            assert await got(everything) == {"news": "first", "depth": [1, 2.5]}
            await send(bus, "market.flow", {"n": 1})
            assert await got(flow) == {"flow": {"n": 1}}
            await got(everything)
            await send(bus, "levels.signals", LEVELS)
            state = await got(everything)
            assert list(state) == ["flow", "levels", "viewport", "news", "depth"], "the order of the keys"
            assert list((await got(more)).items()) == [("viewport", {"targets": []}), ("depth", [1, 2.5])]
            await send(bus, "depth.ES", None)
            assert "depth" not in await got(everything)
            assert await got(more) == {"viewport": {"targets": []}}
            # Subjects beside those relayed, and bad messages, are nobody's.
            await send(bus, "news.other", 1)
            await bus.streams.publish("news.flash", b"not json")
            await nothing_more(everything, flow, more)

            # Newcomers get the state of their path at once, and only of theirs.
            async with connected(weirgate) as newcomers:
                want = [{key: state[key] for key in state if key != "depth"}, {"flow": {"n": 1}}, {"viewport": {"targets": []}}]
                assert [await got(client) for client in newcomers] == want
                await nothing_more(*newcomers)
        assert set(weirgate.health()["consumer_lag"]) == {"gateway_levels", "gateway_flow", "gateway_news", "depth_reader"}
        metrics = scrape(weirgate)
        assert metrics.sum("weirgate_bus_messages_total", subject="depth.ES") == 2
        assert metrics.sum("weirgate_bus_messages_bad_total", subject="news.flash") == 1
        assert (await bus.streams.consumer_info("DEPTH", "depth_reader")).config.filter_subject == "depth.ES"
        with pytest.raises(websockets.InvalidStatus, match="403"):
            await websockets.connect(f"ws://127.0.0.1:{weirgate.port}/ws/news")


async def test_the_state_of_all_is_there_again_after_a_restart(nats, start_weirgate):
    async with publisher(nats) as bus:
        await make_streams(bus)
        for subject, value in (("news.flash", "kept"), ("depth.ES", 3), ("market.flow", 4)):
            await send(bus, subject, value)
        for flags in ([], ["--ephemeral"]):
            weirgate = start_weirgate("levels", *RELAYS, *ENDPOINTS, *flags, nats=nats).wait_ready()
            async with connected(weirgate) as clients:
                want = [{"flow": 4, "news": "kept", "depth": 3}, {"flow": 4}, {"depth": 3}]
                assert [await got(client) for client in clients] == want
            weirgate.kill()


async def test_a_backlog_reaches_each_path_once(nats, start_weirgate):
    async with publisher(nats) as bus, Link(nats.port).running() as link:
        await make_streams(bus)
        weirgate = start_weirgate("levels", *RELAYS, *ENDPOINTS, env={"NATS_URL": link.url})
        await until(lambda: weirgate.ready_status() == 200, 20, "/ready")
        async with connected(weirgate) as (everything, flow, more):
            await send(bus, "market.flow", 0)
            await got(everything), await got(flow)
            link.cut()
            await until(lambda: not weirgate.health()["nats_connected"], 20, "the loss is noticed")
            for n in range(50):
                await send(bus, "depth.ES", n)
            link.mend()
            assert await got(everything, 20) == {"flow": 0, "depth": 49}
            assert await got(more) == {"depth": 49}
            await nothing_more(everything, flow, more)


async def test_a_missing_stream_keeps_nobody_waiting_but_its_subject(nats, start_weirgate):
    async with publisher(nats) as bus:
        weirgate = start_weirgate("levels", *RELAYS, *ENDPOINTS, nats=nats).wait_ready()
        weirgate.logs("no stream holds this subject")
        async with connected(weirgate) as (everything, _, more):
            await send(bus, "market.flow", 1)
            assert await got(everything) == {"flow": 1}
            with pytest.raises(nats_py.js.errors.NotFoundError):
                await bus.streams.stream_info("DEPTH")
            assert weirgate.health()["consumer_lag"]["depth_reader"] is None
            await make_streams(bus)
            await send(bus, "depth.ES", 5)
            assert await got(more) == {"depth": 5}
            assert await got(everything) == {"flow": 1, "depth": 5}
            await send(bus, "news.flash", "late")
            assert await got(everything) == {"flow": 1, "news": "late", "depth": 5}


async def test_without_flags_there_is_one_path_and_two_subjects(nats, start_weirgate):
    async with publisher(nats) as bus:
        await make_streams(bus)
        weirgate = start_weirgate(nats=nats).wait_ready()
        async with connected(weirgate, ["/ws/stream"]) as [client]:
            await send(bus, "news.flash", 1)
            await send(bus, "market.flow", 2)
            assert await got(client) == {"flow": 2}
        assert set(weirgate.health()["consumer_lag"]) == {"gateway_levels", "gateway_flow"}
        with pytest.raises(websockets.InvalidStatus, match="403"):
            await websockets.connect(f"ws://127.0.0.1:{weirgate.port}/ws/flow")


async def test_the_demo_has_endpoints_too_and_env_takes_several(start_weirgate):
    env = {"WEIRGATE_ENDPOINT": "/ws/flow=flow\n/ws/levels=levels,viewport"}
    weirgate = start_weirgate("demo", env=env).wait_ready()
    async with connected(weirgate, ["/ws/flow", "/ws/levels"]) as (flow, levels):
        for _ in range(3):
            assert list(await got(flow)) == ["flow"]
            assert list(await got(levels)) == ["levels", "viewport"]


async def test_a_durable_consumer_that_replays_slowly_is_left_to_others(nats, start_weirgate):
    """What was published over minutes would come over minutes."""
    connection = await nats_py.connect(nats.url)
    streams = connection.jetstream()
    await streams.add_stream(name="NEWS", subjects=["news.flash"])
    config = ConsumerConfig(durable_name="gateway_news", deliver_subject="chosen.news", filter_subject="news.flash",
                            ack_policy=AckPolicy.EXPLICIT, replay_policy=ReplayPolicy.ORIGINAL)
    await streams.add_consumer("NEWS", config)
    weirgate = start_weirgate("levels", "--relay", "news.flash=news", nats=nats).wait_ready()
    weirgate.logs("the durable consumer cannot be read from", "replay_policy: original")
    await connection.close()


async def test_a_transform_that_is_added_to_the_stream_of_a_relay_is_told_at_once(nats, start_weirgate):
    """From then on the stream stores the subject under another one: nothing would come, and nobody would know why."""
    async with publisher(nats) as bus:
        version = bus.connection.connected_server_version
        if (version.major, version.minor) < (2, 10):
            pytest.skip("this server knows no transforms")
        await make_streams(bus)
        weirgate = start_weirgate("levels", *RELAYS, "--ready-bus-grace-ms", 100, nats=nats).wait_ready()
        changed = {"name": "NEWS", "subjects": ["news.*"], "subject_transform": {"src": "news.>", "dest": "old.>"}}
        async with connected(weirgate, PATHS[:1]) as (client,):
            await send(bus, "news.flash", 1)
            assert await got(client) == {"news": 1}
            answer = await bus.connection.request("$JS.API.STREAM.UPDATE.NEWS", json.dumps(changed).encode(), timeout=10)
            assert "error" not in json.loads(answer.data), answer.data
            await until(lambda: "stores news.flash under another subject (old.>)" in weirgate.log(), 20, "the transform is told")
            await until(lambda: weirgate.ready_status() == 503, 20, "not ready")
            await send(bus, "depth.ES", 2)
            assert await got(client) == {"news": 1, "depth": 2}, "the other relays go on"


async def test_a_subject_that_moves_to_another_stream_is_read_from_there(nats, start_weirgate):
    async with publisher(nats) as bus:
        stream = bus.connection.jetstream()
        await stream.add_stream(name="A", subjects=["news.*", "x.*"])
        weirgate = start_weirgate("levels", "--market", "off", "--relay", "news.flash=news", nats=nats).wait_ready()
        async with connected(weirgate, PATHS[:1]) as (client,):
            await send(bus, "news.flash", 1)
            assert await got(client) == {"news": 1}
            await stream.update_stream(name="A", subjects=["x.*"])
            await stream.add_stream(name="B", subjects=["news.*"])
            await send(bus, "news.flash", 2)
            assert await got(client, 20) == {"news": 2}


async def test_a_subject_that_its_stream_gives_up_is_told_until_it_is_back(nats, start_weirgate):
    """The consumer stays, and nothing comes: its publishers look quiet."""
    async with publisher(nats) as bus:
        stream = bus.connection.jetstream()
        await stream.add_stream(name="NEWS", subjects=["news.*"])
        flags = ["--market", "off", "--relay", "news.flash=news,stream=NEWS", "--ready-bus-grace-ms", 100]
        weirgate = start_weirgate("levels", *flags, nats=nats).wait_ready()
        async with connected(weirgate, PATHS[:1]) as (client,):
            await send(bus, "news.flash", 1)
            assert await got(client) == {"news": 1}
            await send(bus, "news.flash", 2)
            await stream.update_stream(name="NEWS", subjects=["x.*"])
            assert await got(client) == {"news": 2}
            told = "the stream NEWS does not take the subject news.flash"
            await until(lambda: told in weirgate.log(), 20, "the missing subject is told")
            await until(lambda: weirgate.ready_status() == 503, 20, "not ready")
            await stream.update_stream(name="NEWS", subjects=["x.*", "news.*"])
            await send(bus, "news.flash", 3)
            assert await got(client, 40) == {"news": 3}
            await until(lambda: weirgate.ready_status() == 200, 20, "ready")
