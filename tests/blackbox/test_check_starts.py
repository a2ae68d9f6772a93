"""`--check --connect` says yes exactly when a start becomes ready, over settings of streams, accounts and rights; a no names
the thing in the way. One nats-server has an account for each setting.

TEST_CHECK_SETTINGS=all tries all of them (`make check-starts`), otherwise every fourth."""
import asyncio
import dataclasses
import json
import os
import time

import nats as nats_py
from processes import Weirgate
from test_check import check

ALL = os.environ.get("TEST_CHECK_SETTINGS") == "all"
#: A start that becomes ready does so within a second; the machine may be busy.
READY_S, NOT_READY_S = 15, 4
NO_LIMITS = "max_mem: 64M, max_file: 64M"


@dataclasses.dataclass
class Setting:
    """A gateway, and what it finds. `missing`: words of the no; `None` if a start becomes ready. `is_deaf`: a start may be ready,
    and gets no message. `nats`: the first version of nats-server with such streams."""
    name: str
    gateway: tuple
    missing: tuple = None
    limits: str = NO_LIMITS
    denied: tuple = ()
    denied_sub: tuple = ()
    streams: tuple = ()
    consumers: tuple = ()
    messages: tuple = ()
    is_deaf: bool = False
    nats: tuple = (2, 0)


def stream(name, *subjects, **config):
    return {"name": name, "subjects": list(subjects), "storage": "memory", "max_consumers": -1, "retention": "limits", **config}


def consumer(of, name, **config):
    return of, {"durable_name": name, "ack_policy": "explicit", "deliver_policy": "all", **config}


LEVELS = ("levels",)
ORDERS = ("channels", "--stream", "ORDERS", "--history-ms", "60000")
LEVEL_SIGNALS, MARKET_DATA = (stream("LEVEL_SIGNALS", "levels.*"), stream("MARKET_DATA", "market.*", "market.*.*"))
BOTH = (LEVEL_SIGNALS, MARKET_DATA)
MADE_OF_LEVELS, MADE_OF_OTHERS = ({**LEVEL_SIGNALS, "subject_transform": {"src": f"levels.{some}", "dest": f"out.{some}"}} for some in (">", "more"))
KEPT = stream("ORDERS", "orders.>")
PUSH = {"deliver_subject": "_INBOX.of.others", "filter_subject": "levels.signals"}


def with_(of, **config):
    return {**of, **config}


def levels(name, missing=None, **more):
    return Setting("levels: " + name, LEVELS, missing, **more)


def orders(name, missing=None, streams=(KEPT,), **more):
    return Setting("stream: " + name, ORDERS, missing, streams=streams, **more)


def denied(subject, missing, of=levels, **more):
    return of("denied " + subject, missing, denied=(subject,), **more)


SETTINGS = [
    levels("nothing there"),
    levels("no JetStream", ("JetStream",), limits=""),
    levels("one stream permitted", ("max_streams",), limits=NO_LIMITS + ", max_streams: 1"),
    levels("two streams permitted", limits=NO_LIMITS + ", max_streams: 2"),
    levels("two streams permitted, one used up", ("max_streams",), limits=NO_LIMITS + ", max_streams: 2",
           streams=(stream("OTHER", "other"),)),
    levels("no streams are left, and both are there", limits=NO_LIMITS + ", max_streams: 2", streams=BOTH),
    levels("no file storage", ("file",), limits="max_mem: 64M, max_file: 0"),
    levels("no file storage, and both are there", limits="max_mem: 64M, max_file: 0", streams=BOTH),
    levels("max_bytes_required", ("max_bytes",), limits=NO_LIMITS + ", max_bytes_required: true"),
    levels("max_bytes_required, and both are there", limits=NO_LIMITS + ", max_bytes_required: true",
           streams=tuple(with_(one, max_bytes=1000000) for one in BOTH)),
    levels("another stream holds the subject", ("OTHER",), streams=(stream("OTHER", "levels.signals"),)),
    levels("another stream holds all subjects", ("OTHER",), streams=(stream("OTHER", "market.>"),)),
    levels("another stream holds a part", ("OTHER",), streams=(stream("OTHER", "market.flow.x"),)),
    levels("another stream holds others", streams=(stream("OTHER", "levels.other.>"),)),
    levels("both streams", streams=BOTH, messages=("levels.signals",)),
    # nats-server 2.9 refuses the consumer, later ones make it.
    levels("a stream with other subjects", ("levels.signals",), streams=(stream("LEVEL_SIGNALS", "levels.other"), MARKET_DATA),
           is_deaf=True),
    levels("consumers used up", ("max_consumers",), streams=(with_(LEVEL_SIGNALS, max_consumers=1), MARKET_DATA),
           consumers=(consumer("LEVEL_SIGNALS", "others"),)),
    levels("consumers left", streams=(with_(LEVEL_SIGNALS, max_consumers=2), MARKET_DATA),
           consumers=(consumer("LEVEL_SIGNALS", "others"),)),
    levels("consumers used up by ours", streams=(with_(LEVEL_SIGNALS, max_consumers=1), MARKET_DATA),
           consumers=(consumer("LEVEL_SIGNALS", "gateway_levels", **PUSH),)),
    levels("consumers used up by ours that cannot be used", ("max_consumers",),
           streams=(with_(LEVEL_SIGNALS, max_consumers=1), MARKET_DATA),
           consumers=(consumer("LEVEL_SIGNALS", "gateway_levels", filter_subject="levels.signals"),)),
    levels("ours cannot be used", streams=BOTH,
           consumers=(consumer("LEVEL_SIGNALS", "gateway_levels", filter_subject="levels.signals"),)),
    levels("ours replays slowly", streams=BOTH,
           consumers=(consumer("LEVEL_SIGNALS", "gateway_levels", replay_policy="original", **PUSH),)),
    levels("ours replays slowly and is the last", ("max_consumers",), streams=(with_(LEVEL_SIGNALS, max_consumers=1), MARKET_DATA),
           consumers=(consumer("LEVEL_SIGNALS", "gateway_levels", replay_policy="original", **PUSH),)),
    levels("a work queue", ("workqueue",), streams=(with_(LEVEL_SIGNALS, retention="workqueue"), MARKET_DATA)),
    levels("a work queue with ours", streams=(with_(LEVEL_SIGNALS, retention="workqueue"), MARKET_DATA),
           consumers=(consumer("LEVEL_SIGNALS", "gateway_levels", **PUSH),)),
    levels("interest", streams=(with_(LEVEL_SIGNALS, retention="interest"), MARKET_DATA)),
    levels("a mirror", streams=(stream("FIRST", "levels.signals"), with_(stream("LEVEL_SIGNALS"), mirror={"name": "FIRST"}), MARKET_DATA)),
    levels("a stream of sources", streams=(stream("FIRST", "levels.signals"),
                                           with_(stream("LEVEL_SIGNALS"), sources=[{"name": "FIRST"}]), MARKET_DATA)),
    levels("sealed", streams=(with_(LEVEL_SIGNALS, sealed=False), MARKET_DATA)),
    levels("one consumer permitted for each stream", limits=NO_LIMITS + ", max_consumers: 1"),
    levels("the consumers of the account are used up", ("max_consumers",), limits=NO_LIMITS + ", max_consumers: 1", streams=BOTH,
           consumers=(consumer("LEVEL_SIGNALS", "others"),)),
    levels("few messages on their way permitted", limits=NO_LIMITS + ", max_ack_pending: 3", messages=("levels.signals",) * 40),
    denied("$JS.API.>", ("$JS.API",)),
    denied("$JS.API.INFO", None),
    denied("$JS.API.STREAM.NAMES", None),
    denied("$JS.API.STREAM.INFO.*", ("STREAM.INFO",)),
    denied("$JS.API.STREAM.CREATE.*", ("STREAM.CREATE",)),
    denied("$JS.API.STREAM.CREATE.*", None, lambda name, missing, **of: levels(name + ", both there", missing, streams=BOTH, **of)),
    denied("$JS.API.STREAM.MSG.GET.*", ("STREAM.MSG.GET",)),
    denied("$JS.API.CONSUMER.INFO.*.*", ("CONSUMER.INFO",)),
    denied("$JS.API.CONSUMER.DURABLE.CREATE.*.*", ("CONSUMER.DURABLE.CREATE",)),
    denied("$JS.API.CONSUMER.DURABLE.CREATE.*.*", None, lambda name, missing, **of: levels(
        name + ", ours is free", missing, streams=BOTH, consumers=(
            consumer("LEVEL_SIGNALS", "gateway_levels", **PUSH),
            consumer("MARKET_DATA", "gateway_flow", **PUSH | {"filter_subject": "market.flow"})), **of)),
    denied("$JS.API.CONSUMER.CREATE.*", None),
    denied("$JS.API.CONSUMER.CREATE.*", ("CONSUMER.CREATE",), lambda name, missing, **of: levels(
        name + ", ours cannot be used", missing, streams=BOTH, consumers=(
            consumer("LEVEL_SIGNALS", "gateway_levels", filter_subject="levels.signals"),), **of)),
    denied("$JS.API.CONSUMER.DELETE.*.*", None),
    denied("$JS.ACK.>", ("$JS.ACK",), lambda name, missing, **of: levels(
        name, missing, streams=BOTH, messages=("levels.signals",) * 40, **of)),
    levels("denied inboxes", ("_INBOX",), denied_sub=("_INBOX.>",)),
    Setting("levels: ephemeral", (*LEVELS, "--ephemeral"), denied=("$JS.API.CONSUMER.DURABLE.CREATE.*.*",)),
    Setting("levels: ephemeral, denied", (*LEVELS, "--ephemeral"), ("CONSUMER.CREATE",), denied=("$JS.API.CONSUMER.CREATE.*",)),
    Setting("levels: a relay without a stream", (*LEVELS, "--relay", "news.flash=news")),
    Setting("names: no JetStream", ("channels",), limits=""),
    levels("a transform of the subject", ("another subject", "out.>"), streams=(MADE_OF_LEVELS, MARKET_DATA), nats=(2, 10)),
    Setting("levels: a relay of a transform", (*LEVELS, "--relay", "out.more=more,stream=LEVEL_SIGNALS"), nats=(2, 10),
            streams=(MADE_OF_OTHERS, MARKET_DATA)),
    orders("there"),
    orders("not there", ("ORDERS",), streams=()),
    orders("no JetStream", ("JetStream",), streams=(), limits=""),
    orders("a work queue", ("workqueue",), streams=(with_(KEPT, retention="workqueue"),)),
    orders("interest", streams=(with_(KEPT, retention="interest"),)),
    orders("consumers used up", ("max_consumers",), streams=(with_(KEPT, max_consumers=1),), consumers=(consumer("ORDERS", "others"),)),
    orders("consumers left", streams=(with_(KEPT, max_consumers=2),), consumers=(consumer("ORDERS", "others"),)),
    orders("the consumers of the account are used up", ("max_consumers",), limits=NO_LIMITS + ", max_consumers: 1",
           consumers=(consumer("ORDERS", "others"),)),
    orders("few messages on their way permitted", limits=NO_LIMITS + ", max_ack_pending: 3", messages=("orders.1",) * 40),
    orders("a mirror", streams=(stream("FIRST", "orders.>"), with_(stream("ORDERS"), mirror={"name": "FIRST"}))),
    orders("a stream of sources", streams=(stream("FIRST", "orders.>"), with_(stream("ORDERS"), sources=[{"name": "FIRST"}]))),
    orders("no memory storage", limits="max_mem: 0, max_file: 64M", streams=(with_(KEPT, storage="file"),)),
    denied("$JS.API.STREAM.INFO.*", ("STREAM.INFO",), orders),
    denied("$JS.API.CONSUMER.CREATE.*", ("CONSUMER.CREATE",), orders),
    denied("$JS.API.CONSUMER.DELETE.*.*", None, orders),
    denied("$JS.FC.>", None, orders),
    # Flow control alone bounds the messages on their way.
    denied("$JS.ACK.>", None, lambda name, missing, **of: orders(name, missing, messages=("orders.1",) * 40, **of)),
    denied("$JS.API.>", ("$JS.API",), orders),
    orders("denied inboxes", ("_INBOX",), denied_sub=("_INBOX.>",)),
]


def quoted(subjects):
    return ", ".join(f'"{subject}"' for subject in subjects)


def config(settings):
    accounts = []
    for at, setting in settings:
        jetstream = f"jetstream: {{ {setting.limits} }}," if setting.limits else ""
        permissions = f"publish: {{ deny: [{quoted(setting.denied)}] }}, subscribe: {{ deny: [{quoted(setting.denied_sub)}] }}"
        accounts.append(f"A{at}: {{ {jetstream} users: [ {{ user: all{at}, password: pw }}, "
                        f"{{ user: gw{at}, password: pw, permissions: {{ {permissions} }} }} ] }}")
    return "accounts {\n" + "\n".join(accounts) + "\n}"


async def prepare(nats, at, setting):
    """Makes what the setting finds. Returns whether this nats-server can."""
    connection = await nats_py.connect(nats.url.replace("//", f"//all{at}:pw@"))
    version = connection.connected_server_version
    if (version.major, version.minor) < setting.nats:
        await connection.close()
        return False

    async def ask(verb, body):
        answer = json.loads((await connection.request("$JS.API." + verb, json.dumps(body).encode(), timeout=10)).data)
        assert "error" not in answer, (setting.name, verb, answer)
    for one in setting.streams:
        one = {key: value for key, value in one.items() if key != "subjects" or value}
        await ask("STREAM.CREATE." + one["name"], one)
    for of, one in setting.consumers:
        await ask(f"CONSUMER.DURABLE.CREATE.{of}.{one['durable_name']}", {"stream_name": of, "config": one})
    await connection.close()
    return True


def gateway(nats, at, setting):
    """The command line and the environment of the gateway."""
    url = nats.url.replace("//", f"//gw{at}:pw@")
    kind, *flags = setting.gateway
    bus = () if kind == "levels" else ("--bus", url)
    return (kind, *bus, *flags, "--ready-bus-grace-ms", "0"), {"NATS_URL": url} if kind == "levels" else {}


async def publish(nats, at, setting):
    connection = await nats_py.connect(nats.url.replace("//", f"//all{at}:pw@"))
    for subject in setting.messages:
        await connection.request(subject, b'{"n":1}', timeout=10)
    await connection.close()


def checked(argv, env):
    """A check of a server that had time for its connection."""
    for _ in range(5):
        status, lines = check(*argv, **env)
        if any("answered in" in line for line in lines):
            break
    return status, lines


def starts(argv, env, is_to_be_ready, messages):
    """(whether a start becomes ready and stays so, its log)"""
    weirgate = Weirgate(*argv, env=env)
    try:
        end = time.monotonic() + (READY_S if is_to_be_ready else NOT_READY_S)
        while time.monotonic() < end:
            if weirgate.ready_status() == 200:
                messages()
                stays = [weirgate.ready_status() == 200 for _ in range(10) if time.sleep(0.1) is None]
                return all(stays), weirgate.log_tail()
            time.sleep(0.1)
        return False, weirgate.log_tail()
    finally:
        weirgate.discard()


async def test_a_check_says_yes_exactly_when_a_start_becomes_ready(start_nats):
    settings = list(enumerate(SETTINGS))
    settings = settings if ALL else settings[::4]
    nats = start_nats(config=config(settings))
    at_once, wrong = asyncio.Semaphore(3), []

    async def try_one(at, setting):
        async with at_once:
            if not await prepare(nats, at, setting):
                return
            argv, env = gateway(nats, at, setting)
            status, lines = await asyncio.to_thread(checked, argv, env)
            is_ready, log = await asyncio.to_thread(
                starts, argv, env, setting.missing is None, lambda: asyncio.run(publish(nats, at, setting)))
        errors = [line for line in lines if line.startswith("error: ")]
        named = all(any(word in line for line in errors) for word in setting.missing or ())
        is_ready = is_ready and not setting.is_deaf
        if not (is_ready == (setting.missing is None) == (status == 0)) or not named:
            wrong.append(f"{setting.name}: check {status}, a start is {'' if is_ready else 'not '}ready, expected "
                         f"{setting.missing or 'ready'}\n  " + "\n  ".join(lines) + "\n" + "\n".join(log.splitlines()[-6:]))
    await asyncio.gather(*(try_one(at, setting) for at, setting in settings))
    assert not wrong, f"{len(wrong)} of {len(settings)}:\n" + "\n".join(wrong)
