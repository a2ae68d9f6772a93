"""`--check --connect` against real servers: who answers, what is there, what this user may do, and how each failure is told."""
import asyncio
import json
import re
import signal
import socket
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from bus import publisher
from nats.js.api import StreamConfig
from processes import ROOT, RedisServer, free_port, weirgate_binary
from services import Service
from tokens import fresh_token

SECRET = "thirty-two bytes of a test secret"
NATS_USER = """authorization {{ users: [
    {{ user: gw, password: pw, permissions: {{ publish: [{publish}], subscribe: [{subscribe}] }} }}
    {{ user: all, password: pw }} ] }}"""
# As docs/reference/nats.md has them.
PERMISSIONS = ["$JS.API.STREAM.INFO.*", "$JS.API.STREAM.CREATE.*", "$JS.API.STREAM.MSG.GET.*", "$JS.API.CONSUMER.INFO.*.*",
               "$JS.API.CONSUMER.DURABLE.CREATE.*.*", "$JS.API.CONSUMER.CREATE.*", "$JS.API.CONSUMER.DELETE.*.*", "$JS.ACK.>",
               "$JS.API.INFO"]


def check(gateway, *flags, **env):
    """(status, lines) of a check that connects; the port is a free one."""
    argv = [weirgate_binary(), gateway, "--check", "--connect", *flags]
    if "--listen" not in flags:
        argv += ["--listen", "127.0.0.1", "--port", "0"]
    done = subprocess.run(argv, env={k: str(v) for k, v in env.items()}, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, timeout=60)
    return done.returncode, done.stdout.splitlines()


def has(lines, *words):
    """There is one line with all these words."""
    return sum(all(word in line for word in words) for line in lines) == 1


def of_kind(lines, kind):
    return [line for line in lines if line.startswith(kind + ": ")]


# --- addresses

def test_a_port_that_is_taken_is_an_error_and_a_free_one_stays_free():
    port = str(free_port())
    with socket.create_server(("127.0.0.1", int(port))):
        status, lines = check("demo", "--listen", "127.0.0.1", "--port", port)
        assert status == 1 and has(lines, "error: cannot listen on 127.0.0.1:" + port, "Address already in use"), lines
    for _ in range(2):
        status, lines = check("demo", "--listen", "127.0.0.1", "--port", port)
        assert status == 0 and has(lines, "ok: can listen on 127.0.0.1:" + port), lines


def test_the_socket_of_a_running_instance_stays_and_is_told(start_weirgate, tmp_path):
    path = tmp_path / "http.sock"
    start_weirgate("demo", "--listen", f"127.0.0.1 unix:{path}").wait_ready()
    status, lines = check("demo", "--listen", f"unix:{path}")
    assert status == 1 and has(lines, "error", str(path), "another process listens there"), lines
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


@pytest.mark.parametrize("has_tls", [False, True])
def test_the_documented_check_before_a_restart_passes_beside_the_running_instance(has_tls, nats, certificates, start_weirgate, tmp_path):
    guide = (ROOT / "docs" / "guides" / "deploy.md").read_text()
    [command] = re.findall(r"^    sh -c '(set -a; .*)' && systemctl restart", guide, re.M)
    own = {"GATEWAY_PORT": free_port(), "WEIRGATE_LISTEN": "127.0.0.1", "WEIRGATE_ADMIN_ADDR": f"127.0.0.1:{free_port()}"}
    if has_tls:
        certificate, key = certificates.server
        own |= {"WEIRGATE_TLS_PORT": free_port(), "WEIRGATE_TLS_CERT": certificate, "WEIRGATE_TLS_KEY": key}
    (tmp_path / "weirgate").write_text(f"NATS_URL={nats.url}\n")
    (tmp_path / "weirgate-levels").write_text("".join(f"{name}={value}\n" for name, value in own.items()))
    running = start_weirgate("levels", nats=nats, env={name: str(value) for name, value in own.items()})
    running.logs("weirgate is listening")
    command = command.replace("/etc/default/", f"{tmp_path}/").replace("weirgate levels ", f"{weirgate_binary()} levels ")
    done = subprocess.run(["sh", "-c", command], env={}, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True, timeout=60)
    assert done.returncode == 0 and "error" not in done.stdout, done.stdout


# --- NATS

def test_nats_answers_and_a_start_would_make_what_is_missing(nats):
    status, lines = check("levels", NATS_URL=nats.url)
    assert status == 0, lines
    assert has(lines, "ok: NATS 2.", nats.url, "answered in", " ms")
    assert has(lines, "ok: the stream LEVEL_SIGNALS for levels.signals is not there; a start makes it")
    again = check("levels", NATS_URL=nats.url)[1]
    assert has(again, "MARKET_DATA", "is not there"), "a check makes nothing"


async def test_streams_durables_and_who_holds_them(nats, start_weirgate):
    weirgate = start_weirgate(nats=nats).wait_ready()
    for durable in ("gateway_levels", "gateway_flow"):
        status, lines = check("levels", NATS_URL=nats.url)
        assert status == 0 and has(lines, "warning", durable, "held by another client"), lines
    assert has(lines, "ok: the stream MARKET_DATA holds market.flow")
    weirgate.send(signal.SIGTERM)
    assert await asyncio.to_thread(weirgate.wait, 20) == 0
    async with publisher(nats) as bus:
        await asyncio.sleep(0)
        async with asyncio.timeout(20):
            while (await bus.streams.consumer_info("MARKET_DATA", "gateway_flow")).push_bound:
                await asyncio.sleep(0.05)
        before = await bus.streams.consumer_info("MARKET_DATA", "gateway_flow")
        status, lines = check("levels", "--relay", "market.more=more", "--relay", "news.flash=news", NATS_URL=nats.url)
        after = await bus.streams.consumer_info("MARKET_DATA", "gateway_flow")
        consumers = await bus.streams.consumers_info("MARKET_DATA")
    assert status == 0, lines
    assert has(lines, "ok: the durable consumer gateway_flow is free")
    assert has(lines, "ok: may read and acknowledge market.flow")
    assert has(lines, "ok: the durable consumer gateway_more is not there; a start makes it")
    assert has(lines, "warning: no stream holds news.flash; weirgate waits for one")
    assert (before.config, before.delivered, before.ack_floor) == (after.config, after.delivered, after.ack_floor)
    assert [one.name for one in consumers] == ["gateway_flow"], "a check leaves no consumer behind"


async def test_a_stream_is_asked_about_once(nats):
    """For a relay: whether it is there, its subjects, and the room that its limits leave."""
    async with publisher(nats) as bus:
        await bus.streams.add_stream(StreamConfig(name="NEWS", subjects=["news.*"]))
        asked = await bus.connection.subscribe("$JS.API.STREAM.INFO.NEWS")
        await bus.connection.flush()
        status, lines = await asyncio.to_thread(check, "levels", "--relay", "news.flash=news", NATS_URL=nats.url)
        assert status == 0 and has(lines, "ok: the stream NEWS holds news.flash"), lines
        await asked.next_msg(10)
        with pytest.raises(TimeoutError):
            await asked.next_msg(0.5)


async def test_a_stream_with_other_subjects_is_an_error(nats):
    async with publisher(nats) as bus:
        await bus.streams.delete_stream("MARKET_DATA")
        await bus.streams.add_stream(name="MARKET_DATA", subjects=["elsewhere.*"])
    status, lines = check("levels", NATS_URL=nats.url)
    assert status == 1, lines
    assert has(lines, "error: the stream MARKET_DATA does not hold market.flow: its subjects are elsewhere.*"), lines


@pytest.mark.parametrize("missing, said", [
    (None, None),
    ("$JS.ACK.>", "publish to $JS.ACK.>"),
    ("$JS.API.STREAM.MSG.GET.*", "publish to $JS.API.STREAM.MSG.GET.LEVEL_SIGNALS"),
    ("$JS.API.CONSUMER.DURABLE.CREATE.*.*", "publish to $JS.API.CONSUMER.DURABLE.CREATE.LEVEL_SIGNALS.gateway_levels"),
    ("$JS.API.STREAM.INFO.*", "publish to $JS.API.STREAM.INFO.LEVEL_SIGNALS"),
    ("inboxes", "subscribe to _INBOX.>"),
])
async def test_a_missing_permission_is_named(start_nats, missing, said):
    publish = ", ".join(f'"{subject}"' for subject in PERMISSIONS if subject != missing)
    subscribe = '"other"' if missing == "inboxes" else '"_INBOX.>"'
    nats = start_nats(config=NATS_USER.format(publish=publish, subscribe=subscribe))
    url = nats.url
    nats.url = url.replace("//", "//all:pw@")
    async with publisher(nats):
        pass
    status, lines = check("levels", NATS_URL=url.replace("//", "//gw:pw@"))
    assert "pw" not in "\n".join(lines)
    if missing is None:
        assert status == 0 and not of_kind(lines, "error"), lines
    else:
        assert status == 1 and any(said in line for line in of_kind(lines, "error")), lines


STREAM_RIGHTS = ["$JS.API.STREAM.INFO.T", "$JS.API.CONSUMER.CREATE.T", "$JS.ACK.>", "$JS.API.CONSUMER.DELETE.T.*", "$JS.FC.>", "$JS.API.STREAM.MSG.GET.T",
                 "$JS.API.CONSUMER.MSG.NEXT.T.*", "$JS.API.INFO"]
RETAINED_RIGHTS = ["$JS.API.STREAM.LIST", "$JS.API.STREAM.MSG.GET.*", "$JS.API.CONSUMER.CREATE.*", "$JS.API.CONSUMER.DELETE.*.*",
                   "$JS.API.CONSUMER.MSG.NEXT.*.*"]
NEEDED = {*STREAM_RIGHTS[:2], *RETAINED_RIGHTS[:3], RETAINED_RIGHTS[4], "inboxes"}


@pytest.mark.parametrize("flags, rights, missing", [
    *[(["--retained"], RETAINED_RIGHTS, missing) for missing in [None, *RETAINED_RIGHTS, "inboxes"]],
    *[(["--history-ms", "60000", "--stream", "T"], STREAM_RIGHTS, missing) for missing in [None, *STREAM_RIGHTS, "inboxes"]],
])
async def test_a_check_asks_for_what_streams_and_last_values_need(start_nats, tmp_path, flags, rights, missing):
    """Each right of the documents: without one that is needed an error, without one that is optional a warning with what is worse."""
    publish = ", ".join(f'"{subject}"' for subject in rights if subject != missing)
    nats = start_nats(config=NATS_USER.format(publish=publish, subscribe='"t.>"' + (', "_INBOX.>"' if missing != "inboxes" else "")))
    url = nats.url
    nats.url = url.replace("//", "//all:pw@")
    async with publisher(nats) as bus:
        await bus.streams.add_stream(name="T", subjects=["t.>"])
    acl = tmp_path / "acl.json"
    acl.write_text(json.dumps({"user": ["t.>"]}))
    status, lines = check("channels", "--bus", url.replace("//", "//gw:pw@"), "--acl", str(acl), *flags, DEFAULT_ROLE="user")
    errors, warnings = of_kind(lines, "error"), of_kind(lines, "warning")
    assert status == (missing in NEEDED), lines
    assert len(errors) == (missing in NEEDED) and len(warnings) == (missing not in NEEDED and missing is not None), lines
    what = "subscribe to _INBOX.>" if missing == "inboxes" else missing and missing.replace("GET.*", "GET.T").replace("CREATE.*", "CREATE.T").replace("DELETE.*.", "DELETE.T.").replace("NEXT.*.", "NEXT.T.")
    assert missing is None or what in (errors + warnings)[0], lines


@pytest.mark.parametrize("flags", [["--retained"], ["--history-ms", "60000", "--stream", "T"]])
async def test_requests_that_the_server_is_too_small_for_are_an_error(start_nats, flags):
    """With `max_payload` of 128 bytes a consumer cannot be made."""
    nats = start_nats(max_payload=128)
    status, lines = check("channels", "--bus", nats.url, *flags, DEFAULT_ROLE="internal")
    assert status == 1 and has(lines, "error", "NATS takes messages of 128 bytes (max_payload)"), lines


def test_last_values_without_jetstream_are_an_error(start_nats):
    nats = start_nats(jetstream=False)
    status, lines = check("channels", "--bus", nats.url, "--retained", DEFAULT_ROLE="internal")
    assert status == 1 and has(lines, "error", "JetStream is not there"), lines


async def test_patterns_over_a_work_queue_are_a_warning(nats, tmp_path):
    """JetStream permits no second consumer there, so a pattern has no last values; a name alone has them."""
    async with publisher(nats) as jetstream:
        await jetstream.streams.add_stream(name="JOBS", subjects=["jobs.>"], retention="workqueue")
    for name, warnings in (("jobs.>", 1), ("jobs.a", 0)):
        (tmp_path / "roles.json").write_text(json.dumps({"user": [name]}))
        status, lines = check("channels", "--bus", nats.url, "--retained", "--acl", str(tmp_path / "roles.json"))
        found = [line for line in of_kind(lines, "warning") if "JOBS (retention: workqueue)" in line]
        assert status == 0 and len(found) == warnings, lines


def test_nats_that_is_away_refuses_or_is_silent(start_nats):
    nats = start_nats(config="authorization { token: right }")
    status, lines = check("levels", NATS_URL=nats.url, NATS_TOKEN="wrong")
    assert status == 1 and has(lines, "error", "Authorization Violation"), lines
    status, lines = check("levels", NATS_URL=f"nats://127.0.0.1:{free_port()}")
    assert status == 1 and has(lines, "error: cannot reach NATS at", "Connection refused", "check --nats-url,"), lines
    status, lines = check("channels", "--bus", f"nats://127.0.0.1:{free_port()}")
    assert status == 1 and has(lines, "error: cannot reach NATS at", "check --bus,"), lines
    away = f"nats://127.0.0.1:{free_port()}"
    status, lines = check("levels", NATS_URL=f"{away},{nats.url}", NATS_TOKEN="right")
    assert status == 0 and has(lines, "warning: cannot reach NATS at", away), "the next server answers"
    nats.freeze()
    status, lines = check("levels", "--connect-timeout-ms", "100", NATS_URL=nats.url)
    assert status == 1 and has(lines, "error: NATS at", "no answer within 100 ms (--connect-timeout-ms)"), lines


# --- Redis

@pytest.mark.parametrize("gateway, rules, errors, warnings", [
    ("trades", "&channel:trade:*", 0, 0),
    ("trades", "&market:*", 1, 0),
    ("channels", "allchannels", 0, 0),
    # The pattern `market:tick:*` has no rule of its own, and `*` neither.
    ("channels", "&market:*", 0, 1),
    ("channels", "", 1, 1),
])
def test_redis_answers_and_what_its_rules_refuse_is_told(started, gateway, rules, errors, warnings):
    server = RedisServer()
    started.append(server)
    commands = "+ping +select +role +client|setname +subscribe +psubscribe +unsubscribe +punsubscribe"
    server.client().execute_command("ACL", "SETUSER", "gw", "on", ">pw", "resetchannels", *rules.split(), "-@all", *commands.split())
    url = server.url.replace("//", "//gw:pw@")
    status, lines = check(gateway, REDIS_URL=url)
    version = server.client().info("server")["redis_version"]
    assert has(lines, f"ok: Redis {version} at 127.0.0.1:{server.port} answered in", " ms"), lines
    assert status == (1 if errors else 0), lines
    assert (len(of_kind(lines, "error")), len(of_kind(lines, "warning"))) == (errors, warnings), lines
    assert all("NOPERM" in line for line in of_kind(lines, "warning"))
    assert not any("pw" in line for line in lines)
    if gateway == "trades" and not errors:
        assert has(lines, "ok: may subscribe to the pattern channel:trade:*")
    if rules == "&market:*" and gateway == "channels":
        assert has(lines, "ok: may subscribe to market:tick, market:tick:example")
        assert has(lines, "warning: may not subscribe to the pattern *,", "the pattern market:tick:*: NOPERM")


def test_the_right_to_publish_marks_is_no_condition_of_a_start(redis_server):
    bus = redis_server.client()
    with bus.pubsub(ignore_subscribe_messages=True) as marks:
        marks.subscribe("weirgate:mark")
        bus.execute_command("ACL", "SETUSER", "u", "on", ">p", "+@all", "-publish", "&*")
        url = redis_server.url.replace("//", "//u:p@")
        status, lines = check("trades", "--history-ms", "60000", REDIS_URL=url)
        assert status == 0 and has(lines, "warning: may not publish to weirgate:mark", "valid on one instance only"), lines
        bus.execute_command("ACL", "SETUSER", "u", "+publish")
        status, lines = check("trades", "--history-ms", "60000", REDIS_URL=url)
        assert status == 0 and has(lines, "ok: may publish to weirgate:mark"), lines
        assert marks.get_message(timeout=5) is None and marks.get_message(timeout=5)["data"] == b"", "no mark"


def test_names_of_the_table_are_asked_for_while_messages_come(redis_server, tmp_path):
    table = tmp_path / "acl.json"
    table.write_text(json.dumps({"user": [f"name:{n}" for n in range(1_300)]}))
    with subprocess.Popen(["redis-benchmark", "-p", str(redis_server.port), "-q", "-l", "publish", "name:0", "x" * 1000],
                          stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as busy:
        status, lines = check("channels", "--acl", str(table), REDIS_URL=redis_server.url)
        busy.kill()
    assert status == 0 and has(lines, "ok: may subscribe to 1000 names"), lines
    assert has(lines, "warning: 300 more names were not asked for"), lines


def test_redis_that_is_away_or_refuses(redis_server):
    status, lines = check("trades", REDIS_URL=f"redis://127.0.0.1:{free_port()}")
    assert status == 1 and has(lines, "error: cannot reach Redis at", "Connection refused"), lines
    status, lines = check("trades", REDIS_URL=redis_server.url.replace("//", "//nobody:opensesame@"))
    assert status == 1 and has(lines, "error", "refused AUTH") and "opensesame" not in str(lines), lines
    status, lines = check("trades", REDIS_URL=redis_server.url + "/99")
    assert status == 1 and has(lines, "error", "refused SELECT"), lines
    redis_server.freeze()
    status, lines = check("trades", "--connect-timeout-ms", "200", REDIS_URL=redis_server.url)
    assert status == 1 and has(lines, "error: Redis at", "no answer within 200 ms (--connect-timeout-ms)"), lines
    # It answers late, but within the time of a query.
    threading.Timer(3, redis_server.thaw).start()
    status, lines = check("trades", REDIS_URL=redis_server.url)
    assert status == 0 and has(lines, "ok: Redis", "answered in"), lines


def test_each_sentinel_is_asked(sentinel, start_sentinel, redis_server):
    away = free_port()
    env = {"REDIS_SENTINELS": f"127.0.0.1:{away},127.0.0.1:{sentinel}", "REDIS_SENTINEL_MASTER": "main"}
    status, lines = check("channels", **env)
    assert status == 0, lines
    assert has(lines, f"warning: the sentinel at 127.0.0.1:{away}", "Connection refused")
    assert has(lines, f"ok: the sentinel at 127.0.0.1:{sentinel} answered in", f"main is at 127.0.0.1:{redis_server.port}")
    status, lines = check("channels", **env | {"REDIS_SENTINEL_MASTER": "other"})
    assert status == 1 and has(lines, 'error: no sentinel knows the master "other"'), lines
    # This sentinel names a master that has failed.
    stale = start_sentinel(away)
    status, lines = check("channels", **env | {"REDIS_SENTINELS": f"127.0.0.1:{stale},127.0.0.1:{sentinel}"})
    assert status == 0 and has(lines, "warning: the sentinels name different masters"), lines
    assert has(lines, "ok: Redis", f"at 127.0.0.1:{redis_server.port} answered in"), lines


# --- events

def redirecting(place):
    """The URL of a service that sends everybody away."""
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(308)
            self.send_header("Location", place)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}"


def test_each_service_is_asked_and_the_bus(service, redis_server, nats):
    urls = {name: service(lambda _: None).url for name in ("LOBBY_URL", "MEASUREMENT_URL", "SIMULATION_URL")}
    env = {**urls, "INTERNAL_AUTH_TOKEN": SECRET}
    for bus, name in ((redis_server.url, "Redis"), (nats.url, "NATS")):
        status, lines = check("events", "--events-bus", bus, **env)
        assert status == 0, lines
        assert has(lines, f"ok: {name} ", "answered in") and has(lines, "may publish to weirgate.events.")
        # The service of the tests knows no GET, and that is an answer.
        assert has(lines, "ok: the service lobby at", "answered 501")
    moved = redirecting("https://user:pw@lobby.example/gateway/handle?key=secret")
    status, lines = check("events", **env | {"LOBBY_URL": moved})
    assert status == 1 and len(of_kind(lines, "error")) == 1, lines
    assert has(lines, "error: the service lobby at", "answered 308", " to https://lobby.example/gateway/handle: ", "no redirect")
    away = f"http://127.0.0.1:{free_port()}"
    silent = socket.create_server(("127.0.0.1", 0))
    env |= {"LOBBY_URL": away, "MEASUREMENT_URL": f"http://127.0.0.1:{silent.getsockname()[1]}", "SIMULATION_URL": nats.url.replace("nats", "http")}
    status, lines = check("events", "--connect-timeout-ms", "500", **env)
    assert status == 1 and len(of_kind(lines, "error")) == 3, lines
    assert has(lines, f"error: the service lobby at {away} does not answer", "Connection refused")
    assert has(lines, "error: the service measurement at", "no answer within 500 ms (--connect-timeout-ms)")
    assert has(lines, "error: the service simulation at", "does not answer")
    silent.close()


@pytest.mark.parametrize("refused", ["publish", "subscribe"])
def test_permissions_on_the_bus_of_events(start_nats, service, refused):
    may = {"publish": '"weirgate.>", "_INBOX.>"', "subscribe": '"weirgate.>", "_INBOX.>"'} | {refused: '"_INBOX.>"'}
    nats = start_nats(config=NATS_USER.format(**may))
    env = {name: service(lambda _: None).url for name in ("LOBBY_URL", "MEASUREMENT_URL", "SIMULATION_URL")}
    status, lines = check("events", "--events-bus", nats.url.replace("//", "//gw:pw@"), INTERNAL_AUTH_TOKEN=SECRET, **env)
    assert status == 1 and any(f"{refused} to weirgate.events" in line for line in of_kind(lines, "error")), lines


# --- what it prints

@pytest.mark.parametrize("more", [(), ("--all",)])
def test_env_lines_start_a_gateway_with_the_same_settings(start_weirgate, tmp_path, more):
    flags = ["--listen", "127.0.0.1", "--port", str(free_port()), "--log-filter", "info, weirgate_server::http=debug",
             "--endpoint", "/a=flow", "--endpoint", "/b=levels", "--trusted-proxies", "10.0.0.0/8,unix"]
    argv = [weirgate_binary(), "demo", *flags, "--check"]
    lines = subprocess.run([*argv, "--format", "env", *more], env={}, check=True, text=True, stdout=subprocess.PIPE).stdout
    # A shell reads the lines as systemd does.
    read = subprocess.run(["sh", "-c", f"set -a; . {tmp_path}/env; exec env -0"], env={}, text=True, stdout=subprocess.PIPE,
                          check=not (tmp_path / "env").write_text(lines)).stdout
    env = dict(pair.split("=", 1) for pair in read.split("\0") if pair.startswith("WEIRGATE") or pair.startswith(("GATEWAY", "RUST", "FORWARDED")))
    as_json = [json.loads(subprocess.run([*words, "--format", "json"], env=env, check=True, text=True, stdout=subprocess.PIPE).stdout)
               for env, words in (({}, argv), (env, [weirgate_binary(), "--check"]))]
    flags_alone, from_env = [{one["flag"]: one["value"] for one in told["settings"]} for told in as_json]
    assert flags_alone == from_env and len(flags_alone) == 5
    assert as_json[1]["gateway"] == "demo"


# --- tokens

@pytest.mark.parametrize("role, env", [
    ("admin", {}), ("user", {}), ("nosuchrole", {}), (None, {}), (None, {"DEFAULT_ROLE": "guest"}), ("guest", {"acl": {"guest": ["a"]}}),
    ("admin", {"acl": {"guest": ["a"]}}), ("admin", {"JWT_AUDIENCE": "here"}),
])
async def test_inspect_says_what_the_gateway_says(start_weirgate, tmp_path, role, env):
    import websockets
    env = {"JWT_SECRET": SECRET, **env}
    if table := env.pop("acl", None):
        (tmp_path / "acl.json").write_text(json.dumps(table))
        env["WEIRGATE_ACL"] = str(tmp_path / "acl.json")
    token = fresh_token(SECRET, **({"role": role} if role else {}))
    told = subprocess.run([weirgate_binary(), "token", "inspect"], input=token, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    gateway = start_weirgate("channels", env={**env, "REQUIRE_AUTH": "true", "REDIS_URL": "redis://127.0.0.1:1"}).wait_for("/health")
    async with websockets.connect(f"ws://127.0.0.1:{gateway.port}/ws?token={token}") as client:
        try:
            admitted = json.loads(await asyncio.wait_for(client.recv(), 60))["role"]
        except websockets.ConnectionClosed:
            admitted = None
            assert client.close_code == 1008
    if admitted is None:
        assert told.returncode == 1 and "refused with 1008: " in told.stderr, told
        reason = told.stderr.rsplit("[", 1)[1].split("]")[0]
        assert f'weirgate_auth_refusals_total{{reason="{reason}"}} 1' in gateway.get("/metrics")[2]
    else:
        assert told.returncode == 0 and f"  role:     {admitted}" in told.stdout, told
        assert "  gateway:  channels" in told.stdout and "  names:    " in told.stdout
