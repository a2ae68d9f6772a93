"""Connections that a clock of the server has to cut: slow requests, and peers that answer nothing. They wait while other checks run."""
import ctypes
import socket
import struct
import threading
import time

from attacks.checks import Skip, check, need
from attacks.client import Conn, frame, request, ws

# Of Linux; the module `socket` has no names for them.
SO_ATTACH_FILTER, SO_DETACH_FILTER = 26, 27


class Background:
    """Connections that must be cut by a clock; watched while the rest runs."""

    def __init__(self, t):
        self.t, self.items, self.on = t, {}, True
        self.threads = []
        self.deaths0 = t.deaths

    def start(self):
        t = self.t
        full = request(t)[0]

        def slow():
            c = Conn(t)
            end = time.time() + t.a.handshake + 10
            i = 0
            long = full[:-2] + b"X-Slow: " + b"a" * 4096
            t0 = time.time()
            while time.time() < end and i < len(long):
                try:
                    c.s.send(long[i:i + 1])
                except OSError:
                    break
                i += 1
                if c.gone(1.0):
                    break
            return c, time.time() - t0

        def still(first):
            c = Conn(t)
            t0 = time.time()
            if first:
                c.send(first)
            c.gone(t.a.handshake + 10)
            return c, time.time() - t0

        def job(name, f, *args):
            def run():
                try:
                    c, took = f(*args)
                    self.items[name] = (c.ended, took)
                    c.close()
                except Exception as e:
                    self.items[name] = (None, repr(e))
            th = threading.Thread(target=run, daemon=True)
            th.start()
            self.threads.append(th)
        job("slowloris", slow)
        job("silent", still, b"")
        job("half request", still, full[:-2])
        job("slow body", still, request(t, method="POST", upgrade=None, connection="keep-alive", key=None, wsver=None,
                                        extra=["Content-Length: 100000"])[0] + b"x")
        if t.a.heartbeat:
            job("frozen", self.frozen, False)
            job("black hole", self.frozen, True)
            job("idle", self.idle)

    def idle(self):
        t = self.t
        c = ws(t)
        end, self.pings = time.time() + t.a.heartbeat * 1.25, 0
        t0 = time.time()
        while time.time() < end and not c.ended:
            f = c.frame(1.0)
            if f and f[0] == 9:
                self.pings += 1
                c.send(frame(10, f[1]))
            elif f and f[0] == 8:
                c.ended = "close"
        return c, time.time() - t0

    def frozen(self, blackhole):
        t = self.t
        c = ws(t)
        if blackhole:
            # a socket filter that drops every packet: no acks, no FIN, as if the cable was cut
            code = struct.pack("HBBI", 6, 0, 0, 0)
            b = ctypes.create_string_buffer(code)
            prog = struct.pack("HL", 1, ctypes.addressof(b))
            c.s.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, prog)
        port, t0 = c.lport, time.time()
        while time.time() < t0 + t.a.heartbeat + 5:
            if not t.holds({port}):
                c.ended = "let go"
                break
            time.sleep(0.25)
        took = time.time() - t0
        if blackhole:
            c.s.setsockopt(socket.SOL_SOCKET, SO_DETACH_FILTER, b"\0\0\0\0")
        return c, took

    def result(self, name, bound):
        end = time.time() + bound + 20
        while name not in self.items and time.time() < end:
            time.sleep(0.1)
        need(name in self.items, "did not finish")
        need(self.t.deaths == self.deaths0, "the server died meanwhile")
        ended, took = self.items[name]
        need(not isinstance(took, str), str(took))
        need(ended, "still held after %.0f s" % took)
        need(took <= bound + 1, "held for %.1f s (bound %g)" % (took, bound))
        return "cut after %.1f s" % took


def clock(name, label, bound):
    """A check of what came of a connection in the background."""
    @check(label, "clocks")
    def _(t):
        b = bound(t)
        if not b:
            raise Skip("no --heartbeat" if name in ("frozen", "black hole") else "not asked")
        return t.bg.result(name, b)


clock("slowloris", "slow: a request at a byte a second", lambda t: t.a.handshake)

clock("silent", "slow: a connection that says nothing", lambda t: t.a.handshake)

clock("half request", "slow: a request that stops before its end", lambda t: t.a.handshake)

clock("slow body", "slow: a POST whose body never comes", lambda t: t.a.handshake)

clock("frozen", "half-open: a peer that reads nothing and answers no ping", lambda t: t.a.heartbeat)

clock("black hole", "half-open: a peer whose packets vanish", lambda t: t.a.heartbeat)


@check("half-open: an idle client that answers pings is kept, and is pinged", "clocks")
def _(t):
    if not t.a.heartbeat:
        raise Skip("no --heartbeat")
    end = time.time() + t.a.heartbeat * 1.25 + 20
    while "idle" not in t.bg.items and time.time() < end:
        time.sleep(0.1)
    got, took = t.bg.items.get("idle", ("did not finish", 0))
    need(not got, "%s after %s" % (got, took))
    need(t.bg.pings > 0, "not one ping in %.0f s: a proxy would cut it" % took)
    return "%d pings in %.0f s" % (t.bg.pings, took)
