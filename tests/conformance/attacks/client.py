"""The client of the abuse suite: frames and requests of any form, a connection that sends raw bytes, and what a server's answer has to be."""
import base64
import os
import re
import socket
import struct
import threading
import time

from attacks.checks import Fail, need


def frame(op, payload=b"", fin=True, mask=True, rsv=0, length=None, form=None):
    """A frame; `length` lies about its payload, `form` (16, 64) is the width of the length."""
    b0 = (0x80 if fin else 0) | (rsv << 4) | op
    n = len(payload) if length is None else length
    m = 0x80 if mask else 0
    if form == 16 or (form is None and 126 <= n < 65536):
        h = struct.pack("!BBH", b0, m | 126, n)
    elif form == 64 or (form is None and n >= 65536):
        h = struct.pack("!BBQ", b0, m | 127, n)
    else:
        h = struct.pack("!BB", b0, m | n)
    if not mask:
        return h + payload
    key = os.urandom(4)
    if not payload:
        return h + key
    k = int.from_bytes((key * (len(payload) // 4 + 1))[:len(payload)], "big")
    return h + key + (int.from_bytes(payload, "big") ^ k).to_bytes(len(payload), "big")


def zframe(op, n, fin=True, rsv=0):
    """The head of a frame of n bytes whose mask key is 0: cheap to make."""
    b0 = (0x80 if fin else 0) | (rsv << 4) | op
    if n < 126:
        h = struct.pack("!BB", b0, 0x80 | n)
    elif n < 65536:
        h = struct.pack("!BBH", b0, 0x80 | 126, n)
    else:
        h = struct.pack("!BBQ", b0, 0x80 | 127, n)
    return h + b"\0\0\0\0"


def request(t, path=None, method="GET", version="HTTP/1.1", host=True, upgrade="websocket", connection="Upgrade",
            key="new", wsver="13", extra=()):
    """A request to upgrade, and its key; None leaves a header out."""
    if key == "new":
        key = base64.b64encode(os.urandom(16)).decode()
    path = t.path if path is None else path
    if isinstance(path, str):
        path = path.encode("latin-1")
    r = [method.encode() + b" " + path + b" " + version.encode()]
    if host:
        r.append(b"Host: %s:%d" % (t.host.encode(), t.port))
    for n, v in (("Upgrade", upgrade), ("Connection", connection), ("Sec-WebSocket-Key", key),
                 ("Sec-WebSocket-Version", wsver)):
        if v is not None:
            r.append(("%s: %s" % (n, v)).encode("latin-1"))
    for h in list(t.a.header) + list(extra):
        r.append(h if isinstance(h, bytes) else h.encode("latin-1"))
    return b"\r\n".join(r) + b"\r\n\r\n", key


class Conn:
    """One connection: raw bytes in, frames out."""

    def __init__(self, t, timeout=5.0, rcvbuf=None, s=None):
        self.t = t
        self.s = s or t.tcp(timeout, rcvbuf)
        self.buf = b""
        self.ended = None

    def __enter__(self):
        return self

    def __exit__(self, *x):
        self.close()

    def close(self):
        try:
            self.s.close()
        except OSError:
            pass

    def rst(self):
        self.s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.s.close()

    @property
    def lport(self):
        return self.s.getsockname()[1]

    def send(self, b):
        """Send all, or until the server cuts; says whether all went."""
        try:
            self.s.sendall(b)
            return True
        except (BrokenPipeError, ConnectionResetError):
            return False
        except (socket.timeout, TimeoutError):
            return False

    def push(self, b, end):
        """Send what fits until `end`; returns bytes taken; .cut if the server closed."""
        self.s.setblocking(False)
        v, off = memoryview(b), 0
        self.cut = False
        try:
            while off < len(b) and time.time() < end:
                try:
                    off += self.s.send(v[off:off + 262144])
                except BlockingIOError:
                    time.sleep(0.002)
                except OSError:
                    self.cut = True
                    break
        finally:
            self.s.setblocking(True)
        return off

    def more(self, timeout):
        """Read once more; False at the end or when nothing came in time."""
        self.s.settimeout(max(0.001, timeout))
        try:
            d = self.s.recv(262144)
        except (socket.timeout, TimeoutError):
            return False
        except ConnectionResetError:
            self.ended = "reset"
            return False
        except OSError:
            self.ended = "error"
            return False
        if not d:
            self.ended = "end"
            return False
        self.buf += d
        return True

    def head(self, timeout=5.0):
        """The response head: (status, headers as [(name, value)], raw); status 0: none came."""
        end = time.time() + timeout
        while b"\r\n\r\n" not in self.buf and not self.ended and time.time() < end:
            self.more(end - time.time())
        raw, sep, rest = self.buf.partition(b"\r\n\r\n")
        if not sep:
            return 0, [], raw
        self.buf = rest
        lines = raw.split(b"\r\n")
        m = re.match(rb"HTTP/1\.[01] (\d\d\d)", lines[0])
        hs = []
        for l in lines[1:]:
            n, _, v = l.partition(b":")
            hs.append((n.strip().lower().decode("latin-1"), v.strip().decode("latin-1")))
        return (int(m.group(1)) if m else -1), hs, raw

    def frame(self, timeout=3.0):
        """The next frame (op, payload, fin, rsv), or None."""
        end = time.time() + timeout
        while True:
            b = self.buf
            if len(b) >= 2:
                n, off = b[1] & 127, 2
                if n == 126 and len(b) >= 4:
                    n, off = struct.unpack("!H", b[2:4])[0], 4
                elif n == 127 and len(b) >= 10:
                    n, off = struct.unpack("!Q", b[2:10])[0], 10
                elif n >= 126:
                    n = 1 << 62
                if len(b) >= off + n:
                    self.buf = b[off + n:]
                    return b[0] & 15, b[off:off + n], bool(b[0] & 128), b[0] >> 4 & 7
            if self.ended or time.time() >= end:
                return None
            self.more(end - time.time())

    def until_close(self, timeout=3.0):
        """How it ends: ('close', code), ('end'|'reset'|'error', None) or ('open', None)."""
        end = time.time() + timeout
        while time.time() < end:
            f = self.frame(end - time.time())
            if f is None:
                return (self.ended, None) if self.ended else ("open", None)
            if f[0] == 8:
                return "close", (struct.unpack("!H", f[1][:2])[0] if len(f[1]) >= 2 else 1005)
        return "open", None

    def next(self, op):
        """The next frame with this opcode, or None."""
        f = self.frame()
        while f and f[0] != op:
            f = self.frame()
        return f

    def pong(self, tag=None, timeout=3.0):
        """Ping and wait for its pong; the time it took, or None."""
        tag = tag or os.urandom(8)
        t0 = time.time()
        if not self.send(frame(9, tag)):
            return None
        while time.time() < t0 + timeout:
            f = self.frame(t0 + timeout - time.time())
            if f is None:
                return None
            if f[0] == 10 and f[1] == tag:
                return time.time() - t0
        return None

    def gone(self, timeout):
        """The server ended the TCP connection within the time (whatever it still sends)."""
        end = time.time() + timeout
        while not self.ended and time.time() < end:
            self.buf = b""
            self.more(min(0.25, end - time.time()))
        return self.ended


def ws(t, timeout=5.0, rcvbuf=None, subscribe=False, **kw):
    """A WebSocket connection."""
    c = Conn(t, timeout, rcvbuf)
    r, key = request(t, **kw)
    c.send(r)
    st, hs, raw = c.head(timeout)
    if st != 101:
        c.close()
        raise Fail("handshake answered %s" % (st or "nothing"))
    c.hs, c.key = hs, key
    if subscribe:
        for m in t.a.subscribe:
            c.send(frame(1, m.encode()))
    return c


def answer(t, raw, timeout=5.0):
    """Status to raw bytes: (status or 0, headers, how it ended)."""
    with Conn(t) as c:
        c.send(raw)
        st, hs, head = c.head(timeout)
        return st, hs, c.ended


def refused(t, raw, want=None, timeout=5.0):
    """The server answers raw bytes with an error or a close; in words."""
    st, hs, ended = answer(t, raw, timeout)
    if st == 0:
        need(ended, "no answer in %.0f s" % timeout)
        return "closed without an answer"
    need(st != 101, "accepted (101)")
    need(400 <= st < 600, "answered %d" % st)
    need(st < 500 or st in (501, 505), "answered %d" % st)
    if want and st not in want:
        return "%d (%s would say more)" % (st, "/".join(map(str, want)))
    return "%d" % st


def closes(c, codes, timeout=3.0):
    """The server ends the connection with one of these codes (or cuts it, without --strict); in words."""
    how, code = c.until_close(timeout)
    need(how != "open", "still open after %.0f s" % timeout)
    if how == "close":
        need(code in codes, "closed with %d (wanted %s)" % (code, "/".join(map(str, codes))))
        return "close %d" % code
    need(not c.t.a.strict, "cut (%s) without a close frame" % how)
    return "cut (%s), no close frame" % how


def bad(t, raw, codes):
    """A connection that sends these bytes ends with one of these codes."""
    with ws(t) as c:
        c.send(raw)
        return closes(c, codes)


def alive(t, timeout=5.0):
    """A new client gets a pong: after so many seconds."""
    with ws(t, timeout) as c:
        r = c.pong(timeout=timeout)
        need(r is not None, "a new client gets no pong")
        return r


def read_thread(c, on):
    """Reads and forgets, while on[0]."""
    def run():
        while on[0] and not c.ended:
            try:
                if not c.s.recv(1 << 20):
                    return
            except (BlockingIOError, socket.timeout, TimeoutError):
                time.sleep(0.001)
            except OSError:
                return
    th = threading.Thread(target=run, daemon=True)
    th.start()
    return th


class Bystander:
    """A well-behaved client during an attack: its worst ping time."""

    def __init__(self, t):
        self.t, self.on, self.worst, self.n, self.lost = t, True, 0.0, 0, None

    def __enter__(self):
        self.c = ws(self.t)
        self.th = threading.Thread(target=self.loop, daemon=True)
        self.th.start()
        return self

    def loop(self):
        while self.on:
            r = self.c.pong(timeout=10)
            if r is None:
                self.lost = "lost its connection (%s)" % (self.c.ended or "no pong in 10 s")
                return
            self.worst = max(self.worst, r)
            self.n += 1
            time.sleep(0.05)

    def __exit__(self, *x):
        self.on = False
        self.th.join(11)
        self.c.close()

    def fine(self):
        need(not self.lost, "a bystander %s" % self.lost)
        need(self.worst <= self.t.a.stall, "a bystander's ping took %.2f s" % self.worst)
        return "bystander ping <= %.0f ms" % (self.worst * 1000)
