"""Settings: where they come from, and what a wrong one says. The status at the end."""
import asyncio
import os
import signal
import subprocess

import pytest
from clients import connect
from processes import free_port, weirgate_binary
from waiting import until


def run(*argv, env=None):
    """(status, everything printed) of a start that ends by itself."""
    done = subprocess.run(
        [weirgate_binary(), *argv], env={**os.environ, **(env or {})}, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=10)
    return done.returncode, done.stdout


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
    assert "GATEWAY_PORT=tcp://10.0.0.1:80 is ignored" in weirgate.log()


def test_a_near_miss_is_pointed_out(start_weirgate):
    weirgate = start_weirgate("demo", env={"WEIRGATE_PING_INTERVAL": "1000"}).wait_ready()
    assert "did you mean WEIRGATE_PING_INTERVAL_MS?" in weirgate.log()


def test_a_port_that_is_taken_ends_with_1_and_says_so(start_weirgate):
    weirgate = start_weirgate("demo").wait_ready()
    status, printed = run("demo", "--port", str(weirgate.port))
    assert status == 1 and f"cannot listen on 127.0.0.1:{weirgate.port}" in printed, printed
