#!/usr/bin/env python3
"""Resident memory while 10,000 clients come and go, again and again.

    tides.py [--clients 10000] [--tides 3]

The gateway runs with the environment of deploy/systemd, and with what the caller's environment adds.
"""
import argparse
import contextlib
import pathlib
import resource
import socket
import sys
import time

sys.path[:0] = [str(pathlib.Path(__file__).resolve().parent), str(pathlib.Path(__file__).resolve().parents[1] / "rig")]

from clients import upgrade_request
from hostile import start
from measures import resident_kib

# More clients of one address than ports are left to it would not get in.
ADDRESSES = 200


def come(port, count):
    """Clients that have their 101."""
    socks = []
    for number in range(count):
        source = (f"127.0.0.{2 + number % ADDRESSES}", 0)
        sock = socket.create_connection(("127.0.0.1", port), 20, source_address=source)
        sock.sendall(upgrade_request(port, "/ws/stream"))
        socks.append(sock)
    for sock in socks:
        sock.recv(4_096)
    return socks


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=10_000)
    parser.add_argument("--tides", type=int, default=3)
    args = parser.parse_args()
    files_max = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(2 * args.clients + 1_000, files_max), files_max))
    with contextlib.ExitStack() as stack:
        weirgate, _ = start("levels", [], stack)
        mib = lambda: resident_kib(weirgate.pid) / 1024
        print(f"tides: at the start {mib():.1f} MiB", flush=True)
        for _ in range(args.tides):
            socks = come(weirgate.port, args.clients)
            time.sleep(1)
            here = mib()
            for sock in socks:
                sock.close()
            # Closes take 5 s.
            time.sleep(7)
            print(f"tides: {args.clients} clients {here:.1f} MiB, gone {mib():.1f} MiB", flush=True)


if __name__ == "__main__":
    main()
