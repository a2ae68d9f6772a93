"""Late clients of trades and channels get what they missed beside others; and a hole is noticed."""
import json
import subprocess

import pytest
from processes import loadtest_binary, weirgate_binary


def late(tmp_path, gateway, *flags, kept=""):
    """(status, result, what was said) of late clients beside others, few and with patient bounds."""
    file = tmp_path / "result.json"
    few = ("-n", "40", "--others", "20", "--rate", "200", "--quiet", "1", "--rounds", "1", "--p99-more-max", "5000")
    names = "--channels-max 51 --history-names market:*" if gateway == "channels" else ""
    server = f"{weirgate_binary()} {gateway} --history-ms 60000 {names} {kept}"
    argv = [loadtest_binary(), "storm", "late", "--gateway", gateway, "--server", server, "--json", file, *few, *flags]
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=100)
    assert file.exists(), done.stdout
    return done.returncode, json.loads(file.read_text()), done.stdout


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
    # Of channels, the newest message of a name stays however little fits: names without a message meanwhile are whole.
    assert result["story"]["wrong"] == 40 and result["recovered"] <= 40 * 25
