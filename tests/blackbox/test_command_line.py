"""Settings: where they come from, and what a wrong one says. The log in a terminal and in a pipe. The status at the end."""
import asyncio
import datetime
import json
import os
import re
import signal
import subprocess
import time

import pytest
from clients import connect
from processes import ROOT, Process, Weirgate, free_port, weirgate_binary
from terminal import Terminal
from waiting import until


def run(*argv, env=None):
    """(status, everything printed) of a start that ends by itself."""
    done = subprocess.run(
        [weirgate_binary(), *argv], env={**os.environ, **(env or {})}, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=10)
    return done.returncode, done.stdout


@pytest.fixture(autouse=True)
def nobody_asks_for_colour(monkeypatch):
    """CI is a wish for colour even where TERM is dumb, as CLICOLOR is: the machine of these tests may have either."""
    for name in ["CI", "CLICOLOR", "CLICOLOR_FORCE", "NO_COLOR"]:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("argv, env, named", [
    (["levels"], {"GATEWAY_PORT": "many"}, "GATEWAY_PORT"),
    (["levels", "--send-queue-soft-bytes", "much"], {}, "--send-queue-soft-bytes"),
    (["levels", "--no-such-flag"], {}, "--no-such-flag"),
    (["no-such-gateway"], {}, "no-such-gateway"),
])
def test_a_wrong_setting_ends_the_start_with_its_name(argv, env, named):
    status, printed = run(*argv, env=env)
    assert status == 2, printed
    assert named in printed


def test_help_and_version():
    status, printed = run("--help")
    assert status == 0 and "levels" in printed and "demo" in printed
    status, printed = run("levels", "--help")
    assert status == 0 and "GATEWAY_PORT" in printed and "--drain-ms" in printed
    status, printed = run("--version")
    assert status == 0 and printed.startswith("weirgate ")


def test_an_empty_value_is_unset(nats, start_weirgate):
    weirgate = start_weirgate(nats=nats, env={"WEIRGATE_DRAIN_MS": ""}).wait_ready()
    assert weirgate.health()["nats_url"] == nats.url


def test_port_is_read_where_gateway_port_is_not_set(nats, start_weirgate):
    port = free_port()
    weirgate = start_weirgate(nats=nats, env={"GATEWAY_PORT": "", "PORT": str(port)})
    weirgate.http_url = f"http://127.0.0.1:{port}"
    weirgate.wait_ready()
    assert weirgate.health()["status"] == "healthy"


def test_the_health_subcommand_tells_by_its_status(nats, start_weirgate):
    weirgate = start_weirgate(nats=nats).wait_ready()
    status, printed = run("health", env={"GATEWAY_PORT": str(weirgate.port)})
    assert status == 0, printed
    status, printed = run("health", env={"GATEWAY_PORT": str(free_port())})
    assert status == 1, printed


def test_a_password_in_the_url_is_never_shown(start_nats, start_weirgate):
    nats = start_nats()
    weirgate = start_weirgate(env={"NATS_URL": nats.url.replace("//", "//someone:opensesame@")}).wait_ready()
    assert "opensesame" not in weirgate.log()
    assert "***" in weirgate.health()["nats_url"]
    for path in ("/health", "/stats", "/metrics", "/ready"):
        assert "opensesame" not in weirgate.get(path)[2], path


@pytest.mark.parametrize("signals", [[signal.SIGTERM], [signal.SIGINT], [signal.SIGTERM, signal.SIGTERM], [signal.SIGINT, signal.SIGTERM]])
async def test_the_status_is_0_after_a_signal(start_weirgate, signals):
    weirgate = start_weirgate("demo", "--drain-ms", "60000" if len(signals) > 1 else "0").wait_ready()
    client = await connect(weirgate.port)
    weirgate.send(signals[0])
    await until(lambda: "stopping" in weirgate.log(), 15, "the first signal noticed")
    for sig in signals[1:]:
        weirgate.send(sig)
    assert await asyncio.to_thread(weirgate.wait, 10) == 0
    client.abort()


def test_a_kubernetes_service_address_is_ignored_with_a_warning(start_weirgate):
    port = free_port()
    weirgate = start_weirgate("demo", "--log-format", "json", env={"GATEWAY_PORT": "tcp://10.0.0.1:80", "PORT": str(port)})
    weirgate.http_url = f"http://127.0.0.1:{port}"
    weirgate.wait_ready()
    weirgate.logs("GATEWAY_PORT=tcp://10.0.0.1:80 is ignored")


def test_a_near_miss_is_pointed_out(start_weirgate):
    weirgate = start_weirgate("demo", env={"WEIRGATE_PING_INTERVAL": "1000"}).wait_ready()
    weirgate.logs("did you mean WEIRGATE_PING_INTERVAL_MS?")


def test_a_port_that_is_taken_ends_with_1_and_says_so(start_weirgate):
    weirgate = start_weirgate("demo").wait_ready()
    status, printed = run("demo", "--port", str(weirgate.port))
    assert status == 1 and f"cannot listen on 127.0.0.1:{weirgate.port}" in printed, printed


# --- terminals

@pytest.fixture
def in_terminal(started):
    """in_terminal(subcommand, *flags, env=…) → (weirgate, Terminal), once it is ready."""
    def start(*args, env=None):
        terminal = Terminal()
        env = {"TERM": "xterm", "NO_COLOR": "", **(env or {})}
        started.append(Weirgate(*args, env=env, output=terminal.slave))
        os.close(terminal.slave)
        return started[-1].wait_ready(), terminal
    return start


ESCAPE = re.compile(r"\x1b\[\d*m")
LINE = re.compile(r"(ERROR|WARN |INFO |DEBUG|TRACE) (\d\d:\d\d:\d\d\.\d{3}) (\S.*)")
PLAIN_LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z  ?(ERROR|WARN|INFO|DEBUG|TRACE) weirgate\S*: \S.*")


async def ended_line(weirgate, text):
    """The line of a client that has come and gone."""
    (await connect(weirgate.port)).abort()
    line = lambda: next((line for line in text().splitlines() if "connection ended" in line), None)
    await until(lambda: line() is not None, 10, "the line of the connection")
    return line()


async def test_a_terminal_gets_short_aligned_lines_with_colour(in_terminal):
    weirgate, terminal = in_terminal("demo")
    line = await ended_line(weirgate, lambda: terminal.text)
    assert line.startswith("\x1b[32mINFO \x1b[0m \x1b[2m"), repr(line)
    plain = ESCAPE.sub("", line)
    assert "\x1b" not in plain and LINE.fullmatch(plain), plain
    message, fields = plain[19:43], plain[44:]
    assert message == "connection ended".ljust(24) and fields.startswith("client=127.0.0.1 path=/ws/stream reason="), plain
    assert "peer=" not in plain and "lines_left_out" not in plain, plain
    assert len(plain) < 180, plain
    start = next(line for line in ESCAPE.sub("", terminal.text).splitlines() if "weirgate is listening" in line)
    assert LINE.fullmatch(start), start


@pytest.mark.parametrize("env", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
async def test_a_terminal_without_colour_gets_the_same_lines(in_terminal, env):
    weirgate, terminal = in_terminal("demo", env=env)
    line = await ended_line(weirgate, lambda: terminal.text)
    assert LINE.fullmatch(line) and "\x1b" not in terminal.text, repr(line)


async def test_the_time_in_a_terminal_is_that_of_its_place(in_terminal):
    weirgate, terminal = in_terminal("demo", env={"TZ": "<+0545>-05:45"})
    line = ESCAPE.sub("", await ended_line(weirgate, lambda: terminal.text))
    there = datetime.datetime.now(datetime.timezone(datetime.timedelta(hours=5, minutes=45)))
    shown = datetime.datetime.strptime(LINE.fullmatch(line)[2], "%H:%M:%S.%f")
    apart = abs((there.replace(tzinfo=None) - shown).seconds)
    assert min(apart, 86_400 - apart) < 60, line


@pytest.mark.parametrize("gateway, message, fields", [
    ("demo", "weirgate demo: a simulated market", {"page", "websocket"}),
    ("levels", "GATEWAY SERVICE", {"nats_url", "websocket"}),
    ("trades", "weirgate trades", {"redis", "websocket", "environment", "server_id"}),
    ("channels", "weirgate channels", {"bus", "address", "websocket"}),
    ("events", "weirgate events", {"lobby", "measurement", "simulation", "websocket"}),
])
def test_the_first_text_is_one_message_with_fields_in_json(start_weirgate, gateway, message, fields):
    env = {"REDIS_URL": "redis://127.0.0.1:1"} if gateway == "trades" else {}
    weirgate = start_weirgate(gateway, "--log-format", "json", env=env)
    [line] = weirgate.lines_with(f'"{message}"')
    known = set(json.loads(line)) - {"timestamp", "level", "target", "message"}
    assert known == fields, line
    assert f"localhost:{weirgate.port}" in json.loads(line)["websocket"]
    assert "  " not in weirgate.log(), "no text of several columns"


@pytest.mark.parametrize("gateway", ["channels", "events"])
def test_the_first_text_names_the_pages_for_people(start_weirgate, gateway):
    weirgate = start_weirgate(gateway, "--admin-addr", f"127.0.0.1:{(port := free_port())}", "--log-format", "text",
                              env={"REDIS_URL": "redis://127.0.0.1:1"})
    for name, url in [("Health", f"http://localhost:{weirgate.port}/health"), ("Operator", f"http://localhost:{port}/operator")]:
        [line] = weirgate.lines_with(f"  {name}:")
        assert line.split() == [f"{name}:", url]


async def test_json_is_json_in_a_terminal_too(in_terminal):
    weirgate, terminal = in_terminal("demo", "--log-format", "json")
    line = await ended_line(weirgate, lambda: terminal.text)
    ended = json.loads(line)
    assert ended["message"] == "connection ended" and ended["lines_left_out"] == 0 and "peer" in ended


@pytest.mark.plain("the line has tls= between peer= and path=")
async def test_a_pipe_gets_whole_lines_without_colour(start_weirgate):
    weirgate = start_weirgate("demo", env={"CLICOLOR_FORCE": "1"}).wait_ready()
    line = await ended_line(weirgate, weirgate.log)
    assert PLAIN_LINE.fullmatch(line), repr(line)
    assert re.search(r" peer=127\.0\.0\.1:\d+ path=\"/ws/stream\" .* lines_left_out=0$", line), line


def in_a_terminal(started, *argv, env=None, columns=200):
    """What a command writes to a terminal until it ends."""
    terminal = Terminal(columns)
    started.append(Process([weirgate_binary(), *argv], {"TERM": "xterm", "NO_COLOR": "", **(env or {})}, output=terminal.slave))
    started[-1].wait(10)
    os.close(terminal.slave)
    return terminal


async def test_help_and_errors_have_colour_in_a_terminal_alone(started):
    for argv, words in [(["levels", "-h"], "Usage:"), (["levels", "--prot"], "error:"), (["levels", "--port=x"], "error:")]:
        terminal = in_a_terminal(started, *argv)
        await until(lambda: words in terminal.text, 5, words)
        assert re.search(rf"\x1b\[\d+m{words}\x1b\[0m", terminal.text), repr(terminal.text)
        plain = in_a_terminal(started, *argv, env={"NO_COLOR": "1"})
        await until(lambda: words in plain.text, 5, words)
        assert "\x1b" not in plain.text + run(*argv)[1]


async def test_the_short_help_is_no_longer_than_a_screen(started):
    terminal = in_a_terminal(started, "levels", "-h", columns=100, env={"NO_COLOR": "1"})
    await until(lambda: "--help has all" in terminal.text, 5, "the last line")
    assert terminal.text.count("\n") < 26, terminal.text


# --- the start line

def start_line(weirgate):
    [line] = weirgate.lines_with("weirgate is listening")
    return json.loads(line)


async def test_the_start_says_what_runs_and_where(start_weirgate, tmp_path):
    flags = ["--log-format", "json", "--port", "0", "--listen", "127.0.0.1", "--listen", "[::1]", "--listen",
             f"unix:{tmp_path}/a.sock", "--admin-addr", "127.0.0.1:0", "--connections-max", "321", "--memory-max", "300000000"]
    weirgate = start_weirgate("demo", *flags, files_max=2048)
    await until(lambda: "weirgate is listening" in weirgate.log(), 10, "the start line")
    line = start_line(weirgate)
    version = json.loads(run("version", "--json")[1])
    assert (line["gateway"], line["version"], line["commit"]) == ("demo", version["version"], version["commit"])
    v4, v6, unix = line["listen"].split(",")
    port = int(re.fullmatch(r"127\.0\.0\.1:([1-9]\d*)", v4)[1])
    assert re.fullmatch(r"\[::1\]:[1-9]\d*", v6) and unix == f"unix:{tmp_path}/a.sock"
    assert re.fullmatch(r"127\.0\.0\.1:[1-9]\d*", line["admin"])
    assert (line["connections_max"], line["files_max"], line["memory_max"]) == (321, 2048, 300000000)
    weirgate.http_url = f"http://127.0.0.1:{port}"
    assert weirgate.health()["status"] == "healthy", "the port is the real one"


def test_the_start_warns_of_few_descriptors(start_weirgate):
    few = start_weirgate("demo", files_max=256).wait_ready()
    few.logs("raise it: ulimit -n", "files_max=256")
    enough = start_weirgate("demo", files_max=4096).wait_ready()
    assert "ulimit" not in enough.log() and "connections_max=" in enough.log()


async def test_a_name_that_differs_by_a_letter_is_pointed_out(start_weirgate, nats):
    env = {"NATS_URLS": nats.url, "NATS_URL": "", "REDIS_URI": "x"}
    weirgate = start_weirgate("levels", env=env)
    await until(lambda: "did you mean NATS_URL?" in weirgate.log(), 10, "the warning")
    weirgate.logs("NATS_URLS is not a setting of this gateway and was ignored; did you mean NATS_URL?")
    assert "REDIS_URI" not in weirgate.log(), "a setting of other gateways"


def test_an_address_of_its_own_is_what_one_would_open(start_weirgate):
    weirgate = start_weirgate("demo", "--listen", "127.0.0.2")
    weirgate.http_url = f"http://127.0.0.2:{weirgate.port}"
    weirgate.wait_ready()
    weirgate.logs(f"http://127.0.0.2:{weirgate.port}/")


# --- version

def test_an_archive_says_its_commit(tmp_path):
    """`git archive` writes the commit into src/server/build.rs, which a build without git reads."""
    if not (ROOT / ".git").exists():
        assert re.search(r'ARCHIVED: &str = "[0-9a-f]{40}"', (ROOT / "src/server/build.rs").read_text())
        return
    git = lambda *args: subprocess.run(["git", *args], cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout
    archive = git("archive", "--format=tar", "HEAD", "src/server/build.rs")
    subprocess.run(["tar", "-x", "-C", tmp_path], input=archive, check=True)
    commit = git("rev-parse", "HEAD").decode().strip()
    assert f'ARCHIVED: &str = "{commit}"' in (tmp_path / "src/server/build.rs").read_text()
    # Alone it is what cargo runs: a debug build without a name says nothing of git.
    script = tmp_path / "script"
    subprocess.run(["rustc", "--edition", "2024", ROOT / "src/server/build.rs", "-o", script], check=True)
    told = lambda **env: re.search(r"COMMIT=(\S+)", subprocess.run(
        [script], cwd=tmp_path, env={"PATH": os.environ["PATH"], **env}, stdout=subprocess.PIPE, text=True).stdout)[1]
    assert told() == "unknown", "a tarball without git"
    assert told(WEIRGATE_COMMIT=commit) == commit[:12]
    assert told(PROFILE="debug", CARGO_MANIFEST_DIR=str(ROOT / "src/server")) == "unknown"
    in_clone = subprocess.run([script], env={"PATH": os.environ["PATH"], "PROFILE": "release",
                              "CARGO_MANIFEST_DIR": str(ROOT / "src/server")}, stdout=subprocess.PIPE, text=True, cwd=ROOT / "src/server").stdout
    assert re.search(rf"COMMIT={commit[:12]}(-modified)?$", in_clone, re.M), in_clone
    # Every path is there, from the folder of the crate: cargo builds again and again for one that is not.
    for path in re.findall(r"rerun-if-changed=(.*)", in_clone):
        assert (ROOT / "src/server" / path).exists(), path


HANGS = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netdb.h>
#include <string.h>
#include <unistd.h>
typedef int (*look_up)(const char *, const char *, const struct addrinfo *, struct addrinfo **);
int getaddrinfo(const char *name, const char *port, const struct addrinfo *hints, struct addrinfo **found) {
    if (name && !strcmp(name, "hangs.test")) sleep(60);
    return ((look_up)dlsym(RTLD_NEXT, "getaddrinfo"))(name, port, hints, found);
}
"""


@pytest.fixture
def hanging_lookups(tmp_path):
    """The environment of programs whose lookups of the name `hangs.test` take a minute."""
    (tmp_path / "hangs.c").write_text(HANGS)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", tmp_path / "hangs.so", tmp_path / "hangs.c", "-ldl"], check=True)
    return {**os.environ, "LD_PRELOAD": str(tmp_path / "hangs.so")}


def test_a_check_names_the_host_whose_lookup_hangs(hanging_lookups, redis_server, sentinel, started):
    nats = {"NATS_URL": "nats://hangs.test:1"}
    sentinels = {"REDIS_SENTINELS": f"hangs.test:1,127.0.0.1:{sentinel}", "REDIS_SENTINEL_MASTER": "main"}
    too_long = "the lookup of the name took too long"
    for gateway, env, status, words in (
        ("levels", nats, 1, ("hangs.test", too_long)),
        ("trades", sentinels, 0, ("the sentinel at hangs.test:1", too_long, "main is at 127.0.0.1")),
    ):
        argv = [weirgate_binary(), gateway, "--check", "--connect"]
        process = Process(argv, env={**hanging_lookups, "PORT": "0", **env})
        started.append(process)
        assert process.wait(20) == status
        process.logs(*words)


def test_a_name_lookup_that_hangs_ends_with_the_time_limit_of_the_command(hanging_lookups, started):
    env = hanging_lookups
    publish = {scheme: ["publish", f"{scheme}://hangs.test:1", "name", "text"] for scheme in ("nats", "redis")}
    commands = {
        ("no answer within 5 s",): (["top", "--once", "hangs.test:1"], ["disconnect", "--user", "ann", "http://hangs.test:1"]),
        ("hangs.test", "the lookup of the name took too long"): (["tail", "ws://hangs.test:1"], *publish.values()),
    }

    def start(argv):
        process = Process([weirgate_binary(), *argv], env=env)
        started.append(process)
        return process

    running = [(start(argv), words) for words, all_of_them in commands.items() for argv in all_of_them]
    # A signal ends the command at once.
    stopped = [start(argv) for argv in publish.values()]
    time.sleep(1)
    for process in stopped:
        process.send(signal.SIGINT)
        assert process.wait(3) == 0
        process.logs("published 0 messages on name")
    for process, words in running:
        assert process.wait(20) == 1
        process.logs(*words)
