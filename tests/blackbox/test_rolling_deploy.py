"""A new instance beside the old one on the same durables, behind nginx, and the old one stopped: no client is
without fresh data for long, and none sees an older state after a newer one.

`make deploy-test` does the same with 1,000 clients and the bound of 2 s; here the machine may be busy.
"""
import json
import os
import subprocess

import pytest
from processes import loadtest_binary, nats_server_binary, system_binary, weirgate_binary

CLIENTS = 150
GAP_MAX_S = 6


def deploy(tmp_path, flags, *options, gap_max_s=GAP_MAX_S):
    """Runs `loadtest deploy` on weirgate with `flags`; (exit status, its rolls, what it said)."""
    result = tmp_path / "result.json"
    folders = {os.path.dirname(nats_server_binary()), os.path.dirname(system_binary("nginx", "nginx-light"))}
    env = {**os.environ, "PATH": os.pathsep.join([os.environ["PATH"], *folders])}
    command = [loadtest_binary(), "deploy", "--server", f"{weirgate_binary()} levels {flags}", "--clients", str(CLIENTS),
               "--gap-max", str(gap_max_s), "--json", result, *options]
    ran = subprocess.run(command, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=100)
    rolls = json.loads(result.read_text())["rolls"] if result.exists() else []
    return ran.returncode, rolls, ran.stdout


@pytest.mark.timeout(120)
@pytest.mark.parametrize("flags, options, end", [
    ("--drain-delay-ms 500 --drain-ms 500", ["--pause", "2"], "exit status: 0"),
    ("--drain-ms 500", ["--pause", "0"], "exit status: 0"),
    ("", ["--kill", "--rolls", "1", "--pause", "1"], "signal: 9 (SIGKILL)"),
], ids=["and-on", "and-back-at-once", "killed"])
def test_clients_stay_fresh_and_never_go_back(tmp_path, flags, options, end):
    status, rolls, said = deploy(tmp_path, flags, *options)
    assert status == 0, said
    for roll in rolls:
        assert (roll["back"], roll["older"], roll["twice"]) == (CLIENTS, 0, 0), said
        assert roll["returns"]["ended"] >= CLIENTS, said
        assert roll["end"] == end, said
        assert 0 < roll["gap"]["p50"] <= roll["gap"]["max"] <= GAP_MAX_S, said


@pytest.mark.timeout(120)
def test_what_is_measured_can_be_wrong(tmp_path):
    status, rolls, said = deploy(tmp_path, "", "--rolls", "1", "--pause", "0", gap_max_s=0.01)
    assert status == 1 and "without a newer state" in said, said
    assert rolls[0]["gap"]["max"] > 0.05, "states are 100 ms apart"


RESUMING = {
    "trades": "trades --history-ms 60000",
    "channels": "channels --history-ms 60000 --history-names 'market:*'",
}


def resuming(tmp_path, gateway, flags, *options):
    """Runs `loadtest deploy` with clients that resume; (exit status, its result, what it said)."""
    result = tmp_path / "result.json"
    folders = {os.path.dirname(system_binary("redis-server", "redis-server")), os.path.dirname(system_binary("nginx", "nginx-light"))}
    env = {**os.environ, "PATH": os.pathsep.join([os.environ["PATH"], *folders])}
    command = [loadtest_binary(), "deploy", "--gateway", gateway, "--server", f"{weirgate_binary()} {flags}",
               "--clients", str(CLIENTS), "--gap-max", str(GAP_MAX_S), "--json", result, *options]
    ran = subprocess.run(command, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=100)
    return ran.returncode, json.loads(result.read_text()) if result.exists() else {}, ran.stdout


@pytest.mark.timeout(120)
@pytest.mark.parametrize("gateway", RESUMING)
@pytest.mark.parametrize("options", [["--pause", "1"], ["--kill"]], ids=["rolled", "killed"])
def test_nothing_is_lost_or_double(tmp_path, gateway, options):
    status, result, said = resuming(tmp_path, gateway, RESUMING[gateway], *options)
    assert status == 0, said
    totals = result["totals"]
    assert totals["resumes"] == totals["recovered"] >= CLIENTS, said
    assert (totals["lost"], totals["told"], totals["double"]) == (0, 0, 0), said


@pytest.mark.timeout(120)
def test_a_client_that_comes_to_a_young_instance_is_told(tmp_path):
    status, result, said = resuming(tmp_path, "trades", RESUMING["trades"], "--kill", "--pause", "0")
    assert status == 1 and "resumes not recovered" in said, said
    totals = result["totals"]
    assert totals["not_recovered"]["epoch"] > 0 and totals["told"] > 0, said
    assert (totals["lost"], totals["double"]) == (0, 0), said
