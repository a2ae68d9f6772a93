#!/usr/bin/env python3
"""Ports for the servers of tests: ports.py prints a port.

Test programs run side by side, and a server listens some time after the choice of the port. All test programs therefore
take the next number from a shared file (tests/support/src/port.rs does the same in Rust), and a number comes again only
after 8,000 others.
"""
import contextlib
import fcntl
import os
import pathlib
import socket
import tempfile

# Above the hundreds of `hundred_ports`, and below the ports that the kernel gives to clients.
FIRST, COUNT = 24_000, 8_000


def free_port():
    """A port that is free on every address, not given to another test recently."""
    path = pathlib.Path(tempfile.gettempdir()) / f"weirgate-test-ports-{os.getuid()}"
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        text = file.read()
        number = int(text) if text.isdigit() else 0
        while True:
            number = (number + 1) % COUNT
            with socket.socket() as probe:
                try:
                    probe.bind(("", FIRST + number))
                except OSError:
                    continue
            file.seek(0)
            file.truncate()
            file.write(str(number))
            return FIRST + number


@contextlib.contextmanager
def hundred_ports():
    """The first of a hundred ports in a row, from 23,000 on; nobody else gets them until the end of the block."""
    for first in range(23_000, FIRST, 100):
        with open(pathlib.Path(tempfile.gettempdir()) / f"weirgate-test-ports-{first}-{os.getuid()}", "w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            yield first
            return
    raise RuntimeError("ten runs of the events cases at once")


def listens(path):
    """Whether somebody listens at a unix socket: its file is there a moment before."""
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


if __name__ == "__main__":
    print(free_port())
