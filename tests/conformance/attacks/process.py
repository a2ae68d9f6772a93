"""What the process shows outside of its connections: its log, and its end at SIGTERM."""
import os
import signal
import time

from attacks.checks import Skip, check, need
from attacks.client import Conn, answer, frame, request, ws


@check("log: a token in the query and control bytes are not written", "clocks")
def _(t):
    if not t.a.log:
        raise Skip("no --log")
    secret = "s3cr3t" + os.urandom(6).hex()
    sep = "&" if "?" in t.path else "?"
    for kw in ({}, {"key": None}, {"wsver": "8"}):
        answer(t, request(t, path=t.path + sep + "token=" + secret, extra=["Authorization: Bearer " + secret,
               b"User-Agent: a\x1b[31mred"], **kw)[0])
    time.sleep(0.3)
    log = open(t.a.log, "rb").read()
    need(secret.encode() not in log, "the token is in the log")
    need(b"\x1b[31mred" not in log, "a client's escape bytes are in the log")
    return "%d bytes of log" % len(log)


@check("SIGTERM: close 1001 to every client, gone in time, status 0", "term")
def _(t):
    t.need_pid()
    if t.a.no_term:
        raise Skip("--no-term")
    cs = [ws(t) for _ in range(50)]
    stuck = ws(t, rcvbuf=4096)
    half = Conn(t)
    half.send(b"GET / HT")
    silent = Conn(t)
    os.kill(t.pid, signal.SIGTERM)
    t0 = time.time()
    codes = {}
    for c in cs:
        how, code = c.until_close(max(0.2, t0 + t.a.drain - time.time()))
        codes[code if how == "close" else how] = codes.get(code if how == "close" else how, 0) + 1
        c.send(frame(8, b"\x03\xe9"))
        c.close()
    while t.running() and time.time() < t0 + t.a.drain + 3:
        time.sleep(0.02)
    took = time.time() - t0
    gone = not t.running()
    for c in (stuck, half, silent):
        c.close()
    said = ", ".join("%s x%d" % (k, v) for k, v in codes.items())
    need(gone, "still running after %.1f s (%s)" % (took, said))
    need(took <= t.a.drain, "took %.1f s (%s)" % (took, said))
    need(set(codes) <= {1001, 1012}, "clients saw: %s" % said)
    st = t.proc.returncode if t.proc else None
    need(st in (None, 0), "ended with %s" % st)
    return "%s; gone in %.2f s%s" % (said, took, "" if st is None else ", status %d" % st)
