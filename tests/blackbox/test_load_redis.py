"""The load on trades and channels, small: each client gets exactly what is its own; and a loss is noticed."""
import json
import subprocess

import pytest
from processes import loadtest_binary, weirgate_binary


def load(tmp_path, gateway, *flags, server_flags="", command=()):
    """(status, result, what was said)"""
    file = tmp_path / "result.json"
    argv = [loadtest_binary(), *(command or [gateway]), "--server", f"{weirgate_binary()} {gateway} {server_flags}", "--json", file, *flags]
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=100)
    assert file.exists(), done.stdout
    return done.returncode, json.loads(file.read_text()), done.stdout


@pytest.mark.parametrize("flags", [
    ("trades", "-n", "300", "--symbols", "60", "--rate", "600", "--seconds", "2"),
    ("trades", "-n", "60", "--symbols", "60", "--rate", "600", "--seconds", "2", "--deflate"),
    ("channels", "-n", "100", "--rate", "50", "--seconds", "2"),
    ("channels", "-n", "100", "--bus", "nats", "--rate", "50", "--seconds", "2"),
    ("channels", "-n", "100", "--bus", "nats", "--channels", "100", "--rate", "500", "--seconds", "2"),
    ("channels", "-n", "100", "--channels", "7", "--rate", "50", "--seconds", "2", "--deflate"),
], ids=" ".join)
def test_each_client_gets_exactly_its_own(tmp_path, flags):
    status, result, said = load(tmp_path, *flags)
    assert status == 0, said
    assert result["deliveries"] == result["expected"] > 0 and result["wrong_clients"] == 0
    assert result["clients"] == int(flags[2])


def test_a_loss_is_a_failure(tmp_path):
    flags = ["-n", "20", "--rate", "50", "--seconds", "2"]
    status, result, said = load(tmp_path, "channels", *flags, server_flags="--messages-per-second-max 10")
    assert status == 1 and "clients with too few or too many" in said, said
    assert result["deliveries"] < result["expected"] and result["wrong_clients"] == 20


def late(tmp_path, gateway, *flags, kept=""):
    """Late clients beside others, few and with patient bounds."""
    few = ("-n", "40", "--others", "20", "--rate", "200", "--quiet", "1", "--rounds", "1", "--p99-more-max", "5000")
    names = "--channels-max 51 --history-names market:*" if gateway == "channels" else ""
    return load(tmp_path, gateway, *few, *flags, server_flags=f"--history-ms 60000 {names} {kept}",
                command=("storm", "late", "--gateway", gateway))


@pytest.mark.parametrize("flags", [("--missed", "200"), ("--last", "1")], ids=" ".join)
@pytest.mark.parametrize("gateway", ["trades", "channels"])
def test_late_clients_get_what_they_missed(tmp_path, gateway, flags):
    status, [result], said = late(tmp_path, gateway, *flags)
    assert status == 0, said
    at_least = 200 if "--missed" in flags else {"trades": 5, "channels": 1_050}[gateway]
    assert result["story"]["replayed"] >= 40 * at_least


@pytest.mark.parametrize("gateway, what", [("trades", "late clients got less than they asked for"), ("channels", "late clients with a hole")])
def test_late_clients_that_get_less_are_a_failure(tmp_path, gateway, what):
    status, [result], said = late(tmp_path, gateway, "--missed", "200", kept="--history-bytes-max 65536")
    assert status == 1 and f"40 {what}" in said, said
    assert result["recovered"] == 0 and result["story"]["wrong"] == 40
