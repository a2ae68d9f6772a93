"""`make compare` measures the peers that are set up, and names the others. The program that measures is replaced by one that prints
its arguments."""
import os
import subprocess

from processes import ROOT

# The WebSocket listener of NATS is there with the server of the tests.
NAMES = ["uWebSockets", "tungstenite", "nchan", "axum", "axum-4KB", "ws", "nats-ws", "sockudo", "FastAPI"]


def compare(folder):
    """What the recipe prints in this folder: its notes, and the names of the servers that it measures."""
    program = folder / "target" / "release" / "loadtest"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\n")
    program.chmod(0o755)
    command = ["make", "-s", "-C", folder, "-f", ROOT / "Makefile", "-o", "build", "compare", "CARGO_TARGET_DIR=target"]
    # Not as a part of the make that runs the tests.
    env = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")}
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=True)
    lines = done.stdout.splitlines()
    servers = [after.partition("=")[0] for flag, after in zip(lines, lines[1:]) if flag == "--server"]
    return done.stderr, servers


def test_peers_that_are_not_set_up_are_named(tmp_path):
    notes, servers = compare(tmp_path)
    assert servers == ["weirgate", "nats-ws"]
    absent = (name for name in NAMES if name != "nats-ws")
    assert f"not set up, so not measured: {' '.join(absent)}\n" in notes
    assert "make peers" in notes


def test_peers_that_are_set_up_are_measured(tmp_path):
    for made in ("uwebsockets", "release/peer-tungstenite", "nchan/usr", "release/peer-axum", "sockudo/bin", "fastapi"):
        (tmp_path / "target" / "peers" / made).mkdir(parents=True)
    notes, servers = compare(tmp_path)
    assert servers == ["weirgate", *(name for name in NAMES if name != "ws")]
    assert "not set up, so not measured: ws\n" in notes


def test_with_all_peers_there_is_no_note(tmp_path):
    for made in ("uwebsockets", "release/peer-tungstenite", "nchan/usr", "release/peer-axum", "sockudo/bin", "fastapi"):
        (tmp_path / "target" / "peers" / made).mkdir(parents=True)
    (tmp_path / "loadtest" / "peers" / "node-ws" / "node_modules").mkdir(parents=True)
    notes, servers = compare(tmp_path)
    assert servers == ["weirgate", *NAMES]
    assert notes == ""
