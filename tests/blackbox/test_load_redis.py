"""The load on trades and channels, small: each client gets exactly what is its own; and a loss is noticed."""
import json
import subprocess

import pytest
from processes import loadtest_binary, weirgate_binary


def load(tmp_path, gateway, *flags, server_flags=""):
    """(status, result, what was said)"""
    file = tmp_path / "result.json"
    argv = [loadtest_binary(), gateway, "--server", f"{weirgate_binary()} {gateway} {server_flags}", "--json", file, *flags]
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
