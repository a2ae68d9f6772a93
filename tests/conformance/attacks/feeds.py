"""Subscribers of a feed: those that never read, and those that come and go."""
import os
import signal
import socket
import subprocess
import threading
import time
import urllib.parse

from attacks import sockets
from attacks.checks import MB, Skip, check, need
from attacks.client import frame, ws
from attacks.target import Watch


class Feed:
    """Messages for subscribers, from a command or from posts, while it is open."""

    def __init__(self, t):
        self.t, self.on, self.p, self.sent = t, True, None, 0

    def __enter__(self):
        a = self.t.a
        if a.feed_cmd:
            self.p = subprocess.Popen(a.feed_cmd, shell=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                      start_new_session=True)
        elif a.feed_http:
            threading.Thread(target=self.post, daemon=True).start()
        return self

    def post(self):
        u = urllib.parse.urlsplit(self.t.a.feed_http)
        body = self.t.a.feed_body.encode()
        r = ("POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (u.path + ("?" + u.query if u.query else ""), len(body))).encode() + body
        s, t0 = None, time.time()
        while self.on:
            ahead = self.sent / self.t.a.feed_rate - (time.time() - t0)
            if ahead > 0:
                time.sleep(min(ahead, 0.1))
                continue
            try:
                s = s or sockets.connected((u.hostname, u.port), 3)
                s.sendall(r)
                if not s.recv(65536):
                    s = None
                self.sent += 1
            except OSError:
                s = None
                time.sleep(0.01)

    def __exit__(self, *x):
        self.on = False
        if self.p:
            os.killpg(self.p.pid, signal.SIGTERM)
            self.p.wait()


def need_feed(t):
    if not (t.a.feed_cmd or t.a.feed_http or t.a.feed_flows):
        raise Skip("no --feed-cmd, --feed-http or --feed-flows")


def reading(c, seconds, out):
    """Read frames as fast as this language can: (messages, longest gap, how it ended)."""
    end, n, last, gap, buf = time.time() + seconds, 0, time.time(), 0.0, bytearray(c.buf)
    c.s.settimeout(0.25)
    while time.time() < end and not c.ended:
        off, size = 0, len(buf)
        while size - off >= 2:
            k, h = buf[off + 1] & 127, 2
            if k >= 126:
                h = 4 if k == 126 else 10
                if size - off < h:
                    break
                k = int.from_bytes(buf[off + 2:off + h], "big")
            if size - off < h + k:
                break
            op = buf[off] & 15
            if op == 9:
                c.send(frame(10, bytes(buf[off + h:off + h + k])))
            elif op == 8:
                c.ended = "close"
            elif op < 3:
                now = time.time()
                gap, last, n = max(gap, now - last), now, n + 1
            off += h + k
        del buf[:off]
        try:
            d = c.s.recv(1 << 20)
            if not d:
                c.ended = "end"
            buf += d
        except (socket.timeout, TimeoutError):
            pass
        except OSError:
            c.ended = "reset"
    out.append((n, gap, c.ended))


@check("feed: 20 clients that never read; others get theirs, memory bounded, dropped", "feed")
def _(t):
    need_feed(t)
    with Feed(t), Watch(t) as w:
        good = [ws(t, subscribe=True) for _ in range(3)]
        stuck = [ws(t, rcvbuf=4096, subscribe=True) for _ in range(20)]
        ports = {c.lport for c in stuck}
        out, ths, t0 = [], [], time.time()
        for c in good:
            ths.append(threading.Thread(target=reading, args=(c, t.a.feed_seconds, out), daemon=True))
            ths[-1].start()
        gone_at = None
        while time.time() < t0 + t.a.feed_seconds:
            if gone_at is None and not t.holds(ports):
                gone_at = time.time() - t0
            time.sleep(0.1)
        for th in ths:
            th.join(5)
        left = len(t.holds(ports))
        for c in good + stuck:
            c.close()
    n = [x[0] for x in out]
    need(len(out) == 3 and min(n) > 0, "readers got %s messages" % n)
    need(not any(x[2] for x in out), "a reader was cut off")
    need(max(x[1] for x in out) <= max(t.a.stall, 0.1) + t.a.feed_gap, "a reader waited %.2f s" % max(x[1] for x in out))
    mem = w.bounded()
    need(left == 0, "%d of 20 stuck clients still held after %.0f s (%s; readers got %s)" % (left, t.a.feed_seconds, mem, n))
    return "dropped after %.1f s; %s; readers got %s" % (gone_at or 0, mem, n)


@check("feed: subscribers that come and go by the hundred", "feed")
def _(t):
    need_feed(t)
    t.need_pid()
    with Feed(t):
        good = ws(t, subscribe=True)
        out = []
        th = threading.Thread(target=reading, args=(good, 6, out), daemon=True)
        th.start()
        m0, fd0, end, n = t.rss(), t.fds(), time.time() + 5, 0
        while time.time() < end:
            c = ws(t, subscribe=True)
            c.rst() if n % 2 else c.close()
            n += 1
        th.join(10)
        good.close()
    need(out and out[0][0] > 0 and not out[0][2], "the steady reader got %s" % (out,))
    t.descriptors_back(fd0)
    need(t.rss() - m0 <= 16 * MB, "memory grew by %.1f MiB" % ((t.rss() - m0) / MB))
    return "%d came and went; the steady reader got %d" % (n, out[0][0])
