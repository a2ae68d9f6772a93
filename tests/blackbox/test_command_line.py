"""Settings: where they come from, and what a wrong one says."""
import os
import subprocess

import pytest
from processes import free_port, weirgate_binary


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
