#!/usr/bin/env python3
"""Ports for the servers that tests start: ports.py prints one.

Programs of tests run side by side, and a server listens some time after its port was chosen. So all of them take the
next number from one file (tests/support/src/port.rs is the same in Rust), and none of them gets a number twice before
8,000 others were given.
"""
import fcntl
import os
import pathlib
import socket
import tempfile

# Above those that the runner of the events cases takes (23,000 to 23,100), and below those that the kernel gives to clients.
FIRST, COUNT = 24_000, 8_000


def free_port():
    """A port that nobody listens on, and that no other test was given lately."""
    path = pathlib.Path(tempfile.gettempdir()) / f"weirgate-test-ports-{os.getuid()}"
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        text = file.read()
        number = int(text) if text.isdigit() else 0
        while True:
            number = (number + 1) % COUNT
            with socket.socket() as probe:
                try:
                    probe.bind(("127.0.0.1", FIRST + number))
                except OSError:
                    continue
            file.seek(0)
            file.truncate()
            file.write(str(number))
            return FIRST + number


if __name__ == "__main__":
    print(free_port())
