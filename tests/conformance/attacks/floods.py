"""Floods of fragments, pings, pongs, messages and garbage from one client: memory stays bounded, others are served meanwhile."""
import os
import time

from attacks.checks import MB, Skip, check
from attacks.client import Bystander, frame, read_thread, ws, zframe
from attacks.target import Watch


def ended(c):
    """After a flood of fragments: how the server took it, in words."""
    if c.cut:
        return " (then cut)"
    c.send(frame(0, b"end"))
    if c.pong(timeout=10) is not None:
        return " (all, message done)"
    how, code = c.until_close(0.5)
    return " (then %s)" % (c.ended or "no pong")


def fragments(t, one, times):
    """A message of 10,000 times `times` fragments, whose end comes last."""
    with Watch(t) as w, Bystander(t) as by:
        with ws(t) as c:
            c.send(frame(2, b"", fin=False))
            blob = one * 10000
            sent, end = 0, time.time() + 20
            for _ in range(times):
                sent += c.push(blob, end)
                if c.cut or time.time() >= end:
                    break
            how = ended(c)
    return "%d taken%s%s; %s; %s" % (sent // len(one), how, w.cpu_text(), w.bounded(), by.fine())


@check("flood: a million empty fragments", "flood")
def _(t):
    return fragments(t, zframe(0, 0, fin=False), 100)


@check("flood: 500,000 one-byte fragments", "flood")
def _(t):
    return fragments(t, zframe(0, 1, fin=False) + b"\0", 50)


@check("flood: 50 clients each keep 16,000 one-byte fragments unfinished", "flood")
def _(t):
    # ws #2331 (CVE-2026-48779): every fragment kept as an object of its own is paid 15 times over
    t.need_pid()
    blob = frame(2, b"", fin=False) + (zframe(0, 1, fin=False) + b"\0") * 16000
    cs = []
    with Watch(t) as w:
        for _ in range(50):
            c = ws(t)
            c.push(blob, time.time() + 5)
            cs.append(c)
        time.sleep(0.5)
    for c in cs:
        c.rst()
    return w.bounded(16 * MB)


@check("flood: 500,000 pings, read", "flood")
def _(t):
    with Watch(t) as w, Bystander(t) as by:
        with ws(t) as c:
            on = [True]
            read_thread(c, on)
            blob = (zframe(9, 8) + b"\0" * 8) * 10000
            sent, end = 0, time.time() + 20
            for _ in range(50):
                sent += c.push(blob, end)
                if c.cut or time.time() >= end:
                    break
            on[0] = False
    return "%d taken%s%s; %s; %s" % (sent // 14, " (then cut)" if c.cut else "", w.cpu_text(), w.bounded(), by.fine())


def unread(t, blob, seconds=6.0, total=256 * MB):
    """A client that sends and reads nothing."""
    with Watch(t) as w, Bystander(t) as by:
        c = ws(t, rcvbuf=4096)
        sent, end = 0, time.time() + seconds
        while time.time() < end and sent < total:
            k = c.push(blob, min(end, time.time() + 2))
            sent += k
            if c.cut or k == 0:
                break
        port = c.lport
        time.sleep(0.3)
        held = bool(t.holds({port}))
        c.rst()
    return "%.1f MiB taken, %s; %s; %s" % (sent / MB, "still held" if held else "dropped", w.bounded(), by.fine())


@check("flood: pings whose pongs are never read", "flood")
def _(t):
    return unread(t, (zframe(9, 125) + b"\0" * 125) * 1000)


@check("flood: pongs nobody asked for", "flood")
def _(t):
    return unread(t, (zframe(10, 125) + b"\0" * 125) * 1000, 3.0, 64 * MB)


@check("flood: messages whose echoes are never read", "flood")
def _(t):
    if not t.echo:
        raise Skip("not an echo server")
    n = min(16384, t.limit)
    return unread(t, (zframe(2, n) + bytes(n)) * 16)


@check("flood: close frames and garbage after a violation", "flood")
def _(t):
    return unread(t, frame(3, b"x") + (zframe(8, 2) + b"\x03\xe8") * 1000 + os.urandom(65536), 2.0, 32 * MB)
