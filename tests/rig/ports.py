#!/usr/bin/env python3
"""Ports for the servers of tests: ports.py prints a port.

Test programs run side by side, and a server listens some time after the choice of the port. All test programs therefore
take the next number from a shared file (tests/support/src/port.rs does the same in Rust), and a number comes again only
after 8,000 others.
"""
import fcntl
import os
import pathlib
import socket
import tempfile

# Above the ports of the runner of the events cases (23,000 to 23,100), and below the ports that the kernel gives to clients.
FIRST, COUNT = 24_000, 8_000


def free_port():
    """A free port, not given to another test recently."""
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


def listens(path):
    """Whether somebody listens at a unix socket: its file is there a moment before."""
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


if __name__ == "__main__":
    print(free_port())
