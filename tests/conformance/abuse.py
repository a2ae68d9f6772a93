#!/usr/bin/env python3
"""Black-box abuse suite for a WebSocket server.  Standard library only, Linux.

  abuse.py --ws ws://127.0.0.1:8000/path [--pid PID | --cmd 'server args'] [options]

Each check prints `ok`, `FAIL` or `skip` with the reason; the last line is
`N passed, M failed, K skipped`.  Exit 0: none failed, 1: some failed, 2: no server.

What only some servers can be asked is told by options:
  --pid / --cmd      memory, CPU, descriptors, SIGTERM (else those are skipped)
  --echo             the server sends each message back (detected when not given)
  --subscribe TEXT   sent after the handshake by every subscriber (repeatable)
  --feed-cmd CMD     runs while a feed is needed; must make messages flow to subscribers
  --feed-http URL    POSTed in a loop instead (with --feed-body)
  --max-message N    the server's largest message; larger must end in 1009
  --origin-bad URL   an Origin that must be refused (and --origin-ok one that must not)
  --heartbeat S      a peer that answers nothing must be gone in S seconds (0: not asked)
  --handshake S      a handshake not done in S seconds must be cut (15)

The checks are in attacks/, a file for each topic.
"""
import argparse
import importlib
import json
import os
import re
import resource
import struct
import subprocess
import sys
import time

from attacks.checks import CHECKS, MB, Fail, Skip, need
from attacks.client import alive, frame, ws
from attacks.clocks import Background
from attacks.target import Target

# Checks of a group run in this order of their files.
TOPICS = ("handshake", "frames", "sizes", "floods", "deflate", "connections", "feeds", "clocks", "process")
GROUPS = ("fresh", "http", "frames", "size", "flood", "deflate", "conns", "feed", "clocks", "term")
# A check of these has a new process, so that one attack's memory is not hidden by another's.
GROUPS_OF_A_NEW_PROCESS = ("fresh", "size", "flood", "deflate")


def options():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--ws", required=True)
    p.add_argument("--http")
    p.add_argument("--pid", type=int)
    p.add_argument("--cmd", help="start the server with this (and again when it dies)")
    p.add_argument("--log", help="the server's stderr, with --cmd")
    p.add_argument("--header", action="append", default=[])
    p.add_argument("--echo", action="store_true")
    p.add_argument("--subscribe", action="append", default=[])
    p.add_argument("--feed-cmd")
    p.add_argument("--feed-http")
    p.add_argument("--feed-body", default="x" * 512)
    p.add_argument("--feed-rate", type=float, default=2000, help="posts a second for --feed-http (2000)")
    p.add_argument("--feed-flows", action="store_true", help="messages flow by themselves")
    p.add_argument("--feed-seconds", type=float, default=15)
    p.add_argument("--feed-gap", type=float, default=0.5, help="the feed's own longest pause")
    p.add_argument("--max-message", type=int, default=MB)
    p.add_argument("--origin-bad")
    p.add_argument("--origin-ok")
    p.add_argument("--handshake", type=float, default=15)
    p.add_argument("--heartbeat", type=float, default=60)
    p.add_argument("--drain", type=float, default=5)
    p.add_argument("--mem", type=float, default=64, help="MiB one attack may cost (64)")
    p.add_argument("--per-client", type=float, default=64, help="KiB an idle client may cost (64)")
    p.add_argument("--stall", type=float, default=1.0, help="a bystander's longest ping, s (1)")
    p.add_argument("--strict", action="store_true", help="a violation must be answered with a close frame")
    p.add_argument("--no-term", action="store_true")
    p.add_argument("--only", help="regular expression of check names")
    p.add_argument("--skip", help="regular expression of check names")
    p.add_argument("--json", help="write the results here too")
    p.add_argument("--list", action="store_true")
    return p.parse_args()


def chosen(a):
    """The checks that the options ask for, in the order in which they run."""
    for topic in TOPICS:
        importlib.import_module("attacks." + topic)
    checks = sorted(CHECKS, key=lambda c: GROUPS.index(c[1]))
    if a.only:
        checks = [c for c in checks if re.search(a.only, c[0])]
    if a.skip:
        checks = [c for c in checks if not re.search(a.skip, c[0])]
    return checks


def learn(t):
    """Finds out whether the server sends messages back, and whether it compresses."""
    with ws(t) as c:
        need(c.pong() is not None, "no pong")
        if not t.echo:
            tag = b"abuse-" + os.urandom(4).hex().encode()
            c.send(frame(1, tag))
            end = time.time() + 1
            while time.time() < end:
                f = c.frame(end - time.time())
                if f is None or f[0] == 8:
                    break
                if f[0] == 1 and f[1] == tag:
                    t.echo = True
                    break
    with ws(t, extra=["Sec-WebSocket-Extensions: permessage-deflate"]) as c:
        t.deflate = "permessage-deflate" in dict(c.hs).get("sec-websocket-extensions", "")


def prepare(t, group, checks):
    """The process that a check of this group wants; the clocks run from the first one that may share it with them."""
    if group in GROUPS_OF_A_NEW_PROCESS:
        t.fresh()
    elif GROUPS.index(group) >= GROUPS.index("conns") and t.bg is None:
        t.fresh()
        t.bg = Background(t)
        if any(c[1] == "clocks" for c in checks):
            t.bg.start()
            time.sleep(0.2)


def result(t, group, f):
    """Runs a check: ("ok", "FAIL" or "skip", why)."""
    try:
        kind, why = "ok", f(t) or ""
        if group != "term":
            need(t.running(), "the server died")
            alive(t)
    except Fail as e:
        kind, why = "FAIL", str(e)
    except Skip as e:
        kind, why = "skip", str(e)
    except (OSError, struct.error, ValueError) as e:
        kind, why = "FAIL", "%s: %s" % (type(e).__name__, e)
    if group != "term" and not t.running():
        kind, why = "FAIL", why + " [the server died]"
    return kind, why


def run(t, checks):
    """Runs the checks, and prints what comes of each: a row for each."""
    rows = []
    for name, group, f in checks:
        prepare(t, group, checks)
        t0 = time.time()
        kind, why = result(t, group, f)
        rows.append({"name": name, "result": kind, "why": why, "seconds": round(time.time() - t0, 2)})
        print("%-4s %s%s" % (kind, name, " - " + why if why else ""), flush=True)
        if group != "term":
            t.revive()
    return rows


def main():
    a = options()
    checks = chosen(a)
    if a.list:
        for name, group, _ in checks:
            print(group, name, sep="\t")
        return 0
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 20000) if hard > 0 else 20000, hard))
    t = Target(a)
    t.start()
    try:
        learn(t)
    except (Fail, OSError) as e:
        print("abuse: no WebSocket server at %s: %s" % (a.ws, e))
        return 2
    print("abuse %s  pid=%s  echo=%s  deflate=%s  limit=%d" % (a.ws, t.pid, t.echo, t.deflate, t.limit))
    begin = time.time()
    rows = run(t, checks)
    passed, failed, skipped = (sum(row["result"] == kind for row in rows) for kind in ("ok", "FAIL", "skip"))
    print("took %.0f s; the server died %d times" % (time.time() - begin, t.deaths))
    print("%d passed, %d failed, %d skipped" % (passed, failed, skipped))
    if a.json:
        with open(a.json, "w") as o:
            json.dump({"ws": a.ws, "passed": passed, "failed": failed, "skipped": skipped, "checks": rows}, o, indent=1)
    if t.proc and t.running():
        t.proc.terminate()
        try:
            t.proc.wait(5)
        except subprocess.TimeoutExpired:
            t.proc.kill()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
