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
"""
import argparse, base64, hashlib, os, random, re, resource, shlex, signal, socket, struct
import subprocess, sys, threading, time, urllib.parse, zlib, ctypes, json

MB = 1 << 20
CHECKS = []


class Fail(Exception):
    pass


class Skip(Exception):
    pass


def check(name, group="frames", last=False):
    def deco(f):
        CHECKS.append((name, group, f))
        return f
    return deco


def need(cond, why):
    if not cond:
        raise Fail(why)


# ---------------------------------------------------------------- the target

class Target:
    def __init__(self, a):
        self.a = a
        u = urllib.parse.urlsplit(a.ws)
        if u.scheme != "ws":
            sys.exit("only ws:// URLs")
        self.host, self.port = u.hostname, u.port or 80
        self.path = (u.path or "/") + ("?" + u.query if u.query else "")
        self.proc = None
        self.pid = a.pid
        self.deaths = 0
        self.limit = a.max_message
        self.echo = a.echo
        self.deflate = False

    def start(self):
        if not self.a.cmd:
            return
        out = open(self.a.log, "ab") if self.a.log else subprocess.DEVNULL
        self.proc = subprocess.Popen(shlex.split(self.a.cmd), stdout=out, stderr=out)
        self.pid = self.proc.pid
        for _ in range(100):
            try:
                self.tcp(1).close()
                time.sleep(0.2)
                return
            except OSError:
                time.sleep(0.1)
        sys.exit("the server did not come up")

    def fresh(self):
        """A new process, so that one attack's memory is not hidden by another's."""
        if self.a.cmd and self.proc and self.running():
            self.proc.kill()
            self.proc.wait()
            self.start()

    def running(self):
        if self.proc:
            return self.proc.poll() is None
        if self.pid:
            try:
                with open("/proc/%d/stat" % self.pid) as f:
                    return f.read().rsplit(")", 1)[1].split()[0] not in "ZX"
            except OSError:
                return False
        return True

    def revive(self):
        if not self.running():
            self.deaths += 1
            if self.a.cmd:
                self.start()
            else:
                print("abuse: the server is gone; stopping")
                raise SystemExit(2)

    def tcp(self, timeout=5.0, rcvbuf=None):
        s = socket.socket()
        if rcvbuf:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
        s.settimeout(timeout)
        s.connect((self.host, self.port))
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return s

    # -- what /proc tells
    def need_pid(self):
        if not self.pid:
            raise Skip("no --pid")

    def rss(self):
        with open("/proc/%d/status" % self.pid) as f:
            for line in f:
                if line.startswith("VmRSS:"):
                    return int(line.split()[1]) * 1024
        raise Fail("the server is gone")

    def cpu(self):
        with open("/proc/%d/stat" % self.pid) as f:
            p = f.read().rsplit(")", 1)[1].split()
        return (int(p[11]) + int(p[12])) / os.sysconf("SC_CLK_TCK")

    def fds(self):
        return len(os.listdir("/proc/%d/fd" % self.pid))

    def settle_fds(self, want, seconds=10):
        end = time.time() + seconds
        while time.time() < end:
            n = self.fds()
            if n <= want:
                return n
            time.sleep(0.1)
        return self.fds()

    def holds(self, local_ports):
        """Which of our ports the server still holds an open socket for."""
        out = set()
        for path in ("/proc/net/tcp", "/proc/net/tcp6"):
            try:
                f = open(path)
            except OSError:
                continue
            with f:
                next(f)
                for line in f:
                    p = line.split()
                    if int(p[1].rsplit(":", 1)[1], 16) != self.port:
                        continue
                    remote = int(p[2].rsplit(":", 1)[1], 16)
                    # inode 0: the process let go of it and the kernel finishes alone
                    if remote in local_ports and p[9] != "0":
                        out.add(remote)
        return out


class Watch:
    """Largest memory seen while it is open."""

    def __init__(self, t):
        self.t, self.on, self.peak = t, True, 0
        self.base = t.rss() if t.pid else 0
        self.cpu0, self.t0 = (t.cpu() if t.pid else 0), time.time()
        self.th = threading.Thread(target=self.loop, daemon=True)

    def loop(self):
        while self.on:
            try:
                self.peak = max(self.peak, self.t.rss())
            except Exception:
                pass
            time.sleep(0.02)

    def __enter__(self):
        if self.t.pid:
            self.th.start()
        return self

    def __exit__(self, *x):
        self.on = False
        if self.t.pid and x[0] is None:
            need(self.t.running(), "the server died")
            self.peak = max(self.peak, self.t.rss())
            self.cpu_used = self.t.cpu() - self.cpu0
            self.wall = time.time() - self.t0

    def grown(self):
        return max(0, self.peak - self.base)

    def bounded(self, limit=None):
        if not self.t.pid:
            return "memory not seen (no --pid)"
        limit = limit or self.t.a.mem * MB
        need(self.grown() <= limit, "memory grew by %.0f MiB (bound %.0f)" % (self.grown() / MB, limit / MB))
        return "memory +%.1f MiB" % (self.grown() / MB)


# ---------------------------------------------------------------- the client

def frame(op, payload=b"", fin=True, mask=True, rsv=0, length=None, form=None):
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
    """A frame of n zero bytes (mask key 0), cheap to make."""
    b0 = (0x80 if fin else 0) | (rsv << 4) | op
    if n < 126:
        h = struct.pack("!BB", b0, 0x80 | n)
    elif n < 65536:
        h = struct.pack("!BBH", b0, 0x80 | 126, n)
    else:
        h = struct.pack("!BBQ", b0, 0x80 | 127, n)
    return h + b"\0\0\0\0"


def request(t, path=None, method="GET", version="HTTP/1.1", host=True, upgrade="websocket", connection="Upgrade",
            key="new", wsver="13", extra=(), drop_auth=False):
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


def refused(t, raw, want=None, timeout=5.0, close_ok=True):
    st, hs, ended = answer(t, raw, timeout)
    if st == 0:
        need(ended and close_ok, "no answer in %.0f s" % timeout)
        return "closed without an answer"
    need(st != 101, "accepted (101)")
    need(400 <= st < 600, "answered %d" % st)
    need(st < 500 or st in (501, 505), "answered %d" % st)
    if want and st not in want:
        return "%d (%s would say more)" % (st, "/".join(map(str, want)))
    return "%d" % st


def closes(c, codes, timeout=3.0):
    how, code = c.until_close(timeout)
    need(how != "open", "still open after %.0f s" % timeout)
    if how == "close":
        need(code in codes, "closed with %d (wanted %s)" % (code, "/".join(map(str, codes))))
        return "close %d" % code
    need(not c.t.a.strict, "cut (%s) without a close frame" % how)
    return "cut (%s), no close frame" % how


def alive(t, timeout=5.0):
    with ws(t, timeout) as c:
        r = c.pong(timeout=timeout)
        need(r is not None, "a new client gets no pong")
        return r


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


# ------------------------------------------------- slow ones, in the background

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
            c.s.setsockopt(socket.SOL_SOCKET, 26, prog)
        port, t0 = c.lport, time.time()
        while time.time() < t0 + t.a.heartbeat + 5:
            if not t.holds({port}):
                c.ended = "let go"
                break
            time.sleep(0.25)
        took = time.time() - t0
        if blackhole:
            c.s.setsockopt(socket.SOL_SOCKET, 27, b"\0\0\0\0")
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


# ---------------------------------------------------------------- handshake

@check("handshake: valid", "http")
def _(t):
    with ws(t) as c:
        acc = base64.b64encode(hashlib.sha1((c.key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest()).decode()
        h = dict(c.hs)
        need(h.get("sec-websocket-accept") == acc, "wrong Sec-WebSocket-Accept")
        need(h.get("upgrade", "").lower() == "websocket", "no Upgrade: websocket")
        need("upgrade" in h.get("connection", "").lower(), "no Connection: Upgrade")
        need("sec-websocket-protocol" not in h, "a subprotocol nobody offered")
        need("sec-websocket-extensions" not in h, "an extension nobody offered")
        need(c.pong() is not None, "no pong")


@check("handshake: one byte per packet", "http")
def _(t):
    with Conn(t) as c:
        for b in request(t)[0]:
            c.s.send(bytes([b]))
        need(c.head()[0] == 101, "refused")
        for b in frame(9, b"split"):
            c.s.send(bytes([b]))
            time.sleep(0.001)
        f = c.frame()
        while f and f[0] != 10:
            f = c.frame()
        need(f and f[1] == b"split", "no pong to a ping sent byte by byte")


@check("handshake: token lists and letter case", "http")
def _(t):
    with Conn(t) as c:
        r, k = request(t, connection="keep-alive, uPGRADE", upgrade="WebSocket")
        c.send(r.replace(b"Sec-WebSocket-Key", b"sec-websocket-KEY"))
        need(c.head()[0] == 101, "refused")


@check("handshake: frames in the same packet are handled", "http")
def _(t):
    with Conn(t) as c:
        c.send(request(t)[0] + frame(9, b"early"))
        st, hs, raw = c.head()
        need(not raw.startswith(b"\x8a"), "the pong came before the 101")
        need(st == 101, "refused (%d)" % st)
        f = c.frame()
        while f and f[0] != 10:
            f = c.frame()
        need(f and f[1] == b"early", "the ping that came with the request got no pong")


@check("handshake: no Host", "http")
def _(t):
    return refused(t, request(t, host=False)[0], (400,))


@check("handshake: two Host headers", "http")
def _(t):
    return refused(t, request(t, extra=["Host: other.example"])[0], (400,))


@check("handshake: no key", "http")
def _(t):
    return refused(t, request(t, key=None)[0], (400,))


@check("handshake: bad key (not 16 bytes of base64)", "http")
def _(t):
    out = []
    for k in ("short", "!" * 24, base64.b64encode(b"x" * 15).decode(), ""):
        out.append(refused(t, request(t, key=k)[0], (400,)))
    return " ".join(out)


@check("handshake: two keys", "http")
def _(t):
    return refused(t, request(t, extra=["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="])[0], (400,))


@check("handshake: version 8, 14, none, nonsense", "http")
def _(t):
    out = []
    for v in ("8", "14", None, "13x"):
        st, hs, e = answer(t, request(t, wsver=v)[0])
        need(st != 101, "version %s accepted" % v)
        need(st in (400, 426) or (st == 0 and e), "version %s: answered %s" % (v, st or "nothing"))
        out.append(str(st) + ("+version" if dict(hs).get("sec-websocket-version") else ""))
    return " ".join(out)


@check("handshake: Upgrade: something else / Connection without upgrade", "http")
def _(t):
    a = answer(t, request(t, upgrade="h2c")[0])
    b = answer(t, request(t, connection="close")[0])
    for x in (a, b):
        need(x[0] != 101, "accepted (101)")
        need(x[0] or x[2], "no answer")
    return "%d %d" % (a[0], b[0])


@check("handshake: plain GET on the ws path", "http")
def _(t):
    st, hs, e = answer(t, request(t, upgrade=None, connection="keep-alive", key=None, wsver=None)[0])
    need(st or e, "no answer in 5 s")
    need(st != 101 and st < 500, "answered %d" % st)
    return "%s" % (st or "closed")


@check("handshake: POST with upgrade headers", "http")
def _(t):
    return refused(t, request(t, method="POST", extra=["Content-Length: 0"])[0], (405, 400))


@check("handshake: HTTP/1.0", "http")
def _(t):
    return refused(t, request(t, version="HTTP/1.0")[0], (400, 426, 505))


@check("handshake: HTTP/9.9 and no version", "http")
def _(t):
    a = refused(t, request(t, version="HTTP/9.9")[0], (400, 505))
    return a + " " + refused(t, b"GET /\r\n\r\n", (400,))


@check("handshake: space before the colon, bare CR, NUL in a value", "http")
def _(t):
    out = []
    for x in (b"X-A : b", b"X-A: a\rX-B: b", b"X-A: a\0b"):
        out.append(refused(t, request(t, extra=[x])[0], (400,)))
    return " ".join(out)


@check("handshake: Content-Length with Transfer-Encoding", "http")
def _(t):
    # Either refused, or the bytes after the head are not taken for a second request.
    raw = request(t, extra=["Content-Length: 6", "Transfer-Encoding: chunked"])[0] + b"0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
    with Conn(t) as c:
        c.send(raw)
        st, hs, _ = c.head()
        need(st or c.ended, "no answer")
        if st == 101:
            how, code = c.until_close(2)
            need(how != "open", "a body after the upgrade is neither a frame nor an error")
            return "101, then %s %s" % (how, code or "")
        c.more(0.5)
        need(c.buf.count(b"HTTP/1.") <= 0 or st == 404, "two answers: the body was taken for a request")
        return str(st or "closed")


@check("handshake: one 64 KiB header", "http")
def _(t):
    return refused(t, request(t, extra=["X-Big: " + "a" * 65536])[0], (431, 400))


@check("handshake: a 20 KiB header", "http")
def _(t):
    return refused(t, request(t, extra=["X-Big: " + "a" * 20480])[0], (431, 400))


@check("handshake: 2,000 headers", "http")
def _(t):
    return refused(t, request(t, extra=["X-%d: a" % i for i in range(2000)])[0], (431, 400))


@check("handshake: a head without end (16 MiB)", "http")
def _(t):
    with Watch(t) as w, Conn(t) as c:
        c.send(request(t)[0][:-2] + b"X: ")
        n = c.push(b"a" * (16 * MB), time.time() + 5)
        need(c.cut or c.gone(1) or n < 2 * MB, "took %.0f MiB of header" % (n / MB))
    return "cut after %d KiB; " % (n >> 10) + w.bounded(8 * MB)


@check("handshake: a 100 KB request target", "http")
def _(t):
    return refused(t, request(t, path="/" + "a" * 100000)[0], (414, 431, 400))


@check("handshake: not HTTP at all (TLS hello, zeros, random)", "http")
def _(t):
    hello = bytes.fromhex("16030100c8010000c403035f") + os.urandom(190)
    out = []
    for raw in (hello + b"\r\n\r\n", b"\0" * 512, random.Random(1).randbytes(4096), b"\r\n\r\n\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"):
        with Conn(t) as c:
            c.send(raw)
            st, hs, _ = c.head(1.5)
            need(st != 101, "accepted")
            out.append(str(st or c.ended or "waits"))
    return " ".join(out)


@check("handshake: CR LF in the target is not echoed into a header", "http")
def _(t):
    for p in (t.path + ("&" if "?" in t.path else "?") + "x=%0d%0aX-Injected:%20yes", "/%0d%0aX-Injected:%20yes",
              "/%0d%0a%0d%0a<script>"):
        for kw in ({}, {"upgrade": None, "connection": "close", "key": None, "wsver": None}):
            with Conn(t) as c:
                c.send(request(t, path=p, **kw)[0])
                st, hs, raw = c.head()
                need(not any(n == "x-injected" for n, v in hs), "a header was injected")
                need(st < 500, "answered %d" % st)
    with Conn(t) as c:
        c.send(request(t, extra=[b"Sec-WebSocket-Protocol: a\nX-Injected: yes"])[0])
        st, hs, raw = c.head()
        need(not any(n == "x-injected" for n, v in hs), "a header was injected by a bare LF")


@check("handshake: odd targets (dots, %00, %ff, %zz, //, *, absolute)", "http")
def _(t):
    out = []
    for p in ("/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/%00", "/%ff%fe", "/%zz", "//", "*", "http://evil.example/", "/" + "../" * 500, "?", "/\\", "/;x"):
        st, hs, e = answer(t, request(t, path=p)[0])
        need(st or e, "%s: no answer" % p[:20])
        need(st < 500 or st in (501, 505), "%s: %d" % (p[:20], st))
        out.append(str(st))
    return " ".join(out)


@check("handshake: a query that is not UTF-8", "http")
def _(t):
    out = []
    for q in (b"%ff%fe", b"\xff\xfe", b"a=%", b"&&&=&=&", b"x=" + b"%41" * 2000):
        sep = b"&" if b"?" in t.path.encode() else b"?"
        st, hs, e = answer(t, request(t, path=(t.path.encode() + sep + q).decode("latin-1"))[0])
        need(st or e, "no answer")
        need(st < 500, "answered %d" % st)
        out.append(str(st or "cut"))
    return " ".join(out)


@check("handshake: subprotocols offered are not made up", "http")
def _(t):
    with Conn(t) as c:
        c.send(request(t, extra=["Sec-WebSocket-Protocol: zz-one, zz-two"])[0])
        st, hs, _ = c.head()
        p = dict(hs).get("sec-websocket-protocol")
        need(st != 101 or p in (None, "zz-one", "zz-two"), "answered protocol %r" % p)
        return "%d %s" % (st, p or "none")


@check("handshake: a refused Origin", "http")
def _(t):
    if not t.a.origin_bad:
        raise Skip("no --origin-bad")
    out = refused(t, request(t, extra=["Origin: " + t.a.origin_bad])[0], (403,))
    out += " " + refused(t, request(t, extra=["Origin: null"])[0], (403,))
    if t.a.origin_ok:
        with ws(t, extra=["Origin: " + t.a.origin_ok]):
            pass
        out += ", good one let in"
    return out


@check("http: unknown method, unknown path, HEAD, keep-alive", "http")
def _(t):
    if not t.a.http:
        raise Skip("no --http")
    u = urllib.parse.urlsplit(t.a.http)
    out = []
    for m, p, bad in (("GET", u.path or "/", (500,)), ("HEAD", u.path or "/", ()), ("BREW", "/", (200, 101)), ("GET", "/no/such/path/zz", (200, 101))):
        with socket.create_connection((u.hostname, u.port), 5) as s:
            c = Conn(t, s=s)
            c.send(("%s %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" % (m, p)).encode())
            st, hs, _ = c.head()
            need(st and st not in bad and (st < 500 or st in (501, 505)), "%s %s: %s" % (m, p, st or "nothing"))
            if m == "HEAD":
                c.gone(1)
            out.append(str(st))
    return " ".join(out)


# ---------------------------------------------------------------- frames

def bad(t, raw, codes, **kw):
    with ws(t, **kw) as c:
        c.send(raw)
        return closes(c, codes)


@check("frame: unmasked")
def _(t):
    return bad(t, frame(1, b"hi", mask=False), (1002,))


@check("frame: reserved opcodes 3-7, 11-15")
def _(t):
    out = set()
    for op in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15):
        try:
            out.add(bad(t, frame(op, b"x"), (1002, 1003)))
        except Fail as e:
            raise Fail("opcode %d: %s" % (op, e))
    return "; ".join(sorted(out))


@check("frame: reserved bits without an extension")
def _(t):
    out = set()
    for rsv in (1, 2, 4, 7):
        for op in (1, 2, 9):
            try:
                out.add(bad(t, frame(op, b"x", rsv=rsv), (1002,)))
            except Fail as e:
                raise Fail("rsv %d opcode %d: %s" % (rsv, op, e))
    return "; ".join(sorted(out))


@check("frame: control frame of 126 bytes")
def _(t):
    return "; ".join(sorted({bad(t, frame(op, b"\x03\xe8" + b"x" * 124), (1002,)) for op in (8, 9, 10)}))


@check("frame: fragmented control frame")
def _(t):
    return "; ".join(sorted({bad(t, frame(op, b"", fin=False) + frame(0, b""), (1002,)) for op in (8, 9, 10)}))


@check("frame: continuation without a start")
def _(t):
    return bad(t, frame(0, b"x"), (1002,))


@check("frame: a new message inside a fragmented one")
def _(t):
    return bad(t, frame(1, b"a", fin=False) + frame(1, b"b"), (1002,))


@check("frame: ping between fragments is answered")
def _(t):
    with ws(t) as c:
        c.send(frame(2, b"a", fin=False))
        need(c.pong() is not None, "no pong")
        c.send(frame(0, b"b"))


@check("text: invalid UTF-8")
def _(t):
    out = set()
    for b in (b"\xff", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xf8\x88\x80\x80\x80", b"abc\xe2\x82"):
        try:
            out.add(bad(t, frame(1, b), (1007,)))
        except Fail as e:
            raise Fail("%s: %s" % (b.hex(), e))
    return "; ".join(sorted(out))


@check("text: UTF-8 broken across fragments is refused, split across them is not")
def _(t):
    with ws(t) as c:
        c.send(frame(1, b"\xe2\x82", fin=False) + frame(0, b"\xac"))
        need(c.pong() is not None, "a character split across fragments was refused")
    return bad(t, frame(1, b"\xe2\x82", fin=False) + frame(0, b"x"), (1007,))


@check("close: invalid codes")
def _(t):
    out = set()
    for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 2000, 2999, 5000, 65535):
        with ws(t) as c:
            c.send(frame(8, struct.pack("!H", code)))
            how, got = c.until_close(3)
            need(how != "open", "%d: still open" % code)
            need(how != "close" or got == 1002, "%d answered with %s" % (code, got))
            need(how == "close" or not t.a.strict, "%d: cut without a close frame" % code)
            out.add("close %d" % got if how == "close" else "cut")
    return "; ".join(sorted(out))


@check("close: valid codes come back and the server ends TCP")
def _(t):
    for code in (1000, 1001, 1003, 1007, 1011, 3000, 4999):
        with ws(t) as c:
            c.send(frame(8, struct.pack("!H", code) + b"bye"))
            how, got = c.until_close(3)
            need(how == "close", "%d: %s" % (code, how))
            need(got in (code, 1000), "%d answered with %d" % (code, got))
            need(c.gone(3), "%d: the server does not end the connection" % code)


@check("close: empty, one byte, bad UTF-8 in the reason, 123-byte reason")
def _(t):
    with ws(t) as c:
        c.send(frame(8, b""))
        need(c.until_close(3)[0] == "close", "empty close not answered")
    out = [bad(t, frame(8, b"\x03"), (1002,)), bad(t, frame(8, b"\x03\xe8\xff"), (1007, 1002))]
    with ws(t) as c:
        c.send(frame(8, b"\x03\xe8" + b"r" * 123))
        need(c.until_close(3) == ("close", 1000), "a 123-byte reason not answered")
    return "; ".join(out)


@check("close: what follows a close is ignored")
def _(t):
    with ws(t) as c:
        c.send(frame(8, b"\x03\xe8") + frame(9, b"late") + frame(3, b"junk"))
        how, code = c.until_close(3)
        need((how, code) == ("close", 1000), "%s %s" % (how, code))
        need(c.frame(1) is None, "a frame after the close frame")


@check("close: a client that closes and never hangs up")
def _(t):
    with ws(t) as c:
        c.send(frame(8, b"\x03\xe8"))
        need(c.until_close(3)[0] == "close", "not answered")
        p, t0 = c.lport, time.time()
        while t.holds({p}):
            need(time.time() < t0 + 15, "the server still holds it after 15 s")
            time.sleep(0.05)
        return "let go after %.1f s" % (time.time() - t0)


@check("length: longer forms than needed")
def _(t):
    out = []
    for form in (16, 64):
        with ws(t) as c:
            c.send(frame(9, b"x", form=form) if form == 16 else frame(2, b"x", form=form))
            how, code = c.until_close(0.5)
            need(how != "close" or code in (1002,), "closed with %s" % code)
            out.append("taken" if how == "open" else "%s %s" % (how, code or ""))
    return "; ".join(out)


@check("length: 2^63 and above", "size")
def _(t):
    with Watch(t) as w:
        # the last ones make `header + length` wrap round 64 bits (actix-web #3723)
        out = {bad(t, frame(2, b"x" * 100, length=n, form=64, fin=fin), (1002, 1009))
               for n in (1 << 63, (1 << 64) - 1, (1 << 64) - 14, (1 << 64) - 21) for fin in (True, False)}
    return "; ".join(sorted(out)) + "; " + w.bounded(4 * MB)


@check("length: lies of 2^31, 2^40, 2^62 cost no memory", "size")
def _(t):
    out = set()
    with Watch(t) as w:
        for n in ((1 << 31) + 1, 1 << 40, 1 << 62, (1 << 63) - 1):
            try:
                out.add(bad(t, frame(2, b"x" * 100, length=n, form=64), (1009, 1002)))
            except Fail as e:
                raise Fail("%d: %s" % (n, e))
    return "; ".join(sorted(out)) + "; " + w.bounded(4 * MB)


@check("length: 300 clients each announcing the largest message cost no memory", "size")
def _(t):
    t.need_pid()
    n = min(t.limit, 16 * MB)
    cs = []
    with Watch(t) as w:
        for _ in range(300):
            c = ws(t)
            c.send(zframe(2, n) + b"x" * 64)
            cs.append(c)
        time.sleep(0.5)
    for c in cs:
        c.rst()
    return w.bounded(32 * MB)


@check("size: one frame over the limit", "size")
def _(t):
    n = t.limit + 1
    with Watch(t) as w, Bystander(t) as by:
        with ws(t) as c:
            c.send(zframe(2, n))
            end = time.time() + 20
            block = bytes(4 * MB)
            left = n
            while left > 0 and time.time() < end:
                k = c.push(block[:min(left, len(block))], end)
                left -= k
                if c.cut:
                    break
            out = closes(c, (1009,), 5)
    return out + "; " + w.bounded(t.limit + t.a.mem * MB) + "; " + by.fine()


@check("size: fragments summing over the limit", "size")
def _(t):
    part = max(1, min(t.limit // 8, 4 * MB))
    with Watch(t) as w, Bystander(t) as by:
        with ws(t) as c:
            block = bytes(part)
            sent, op, end = 0, 2, time.time() + 20
            while sent <= t.limit + part and time.time() < end:
                c.push(zframe(op, part, fin=False) + block, end)
                if c.cut:
                    break
                op, sent = 0, sent + part
            out = closes(c, (1009,), 5)
    return out + "; " + w.bounded(t.limit + t.a.mem * MB) + "; " + by.fine()


def ended(c):
    """After a flood of fragments: how the server took it, in words."""
    if c.cut:
        return " (then cut)"
    c.send(frame(0, b"end"))
    if c.pong(timeout=10) is not None:
        return " (all, message done)"
    how, code = c.until_close(0.5)
    return " (then %s)" % (c.ended or "no pong")


@check("flood: a million empty fragments", "flood")
def _(t):
    with Watch(t) as w, Bystander(t) as by:
        with ws(t) as c:
            c.send(frame(2, b"", fin=False))
            blob = zframe(0, 0, fin=False) * 10000
            sent, end = 0, time.time() + 20
            for _ in range(100):
                sent += c.push(blob, end)
                if c.cut or time.time() >= end:
                    break
            how = ended(c)
    cpu = ", CPU %.2f s" % w.cpu_used if t.pid else ""
    return "%d taken%s%s; %s; %s" % (sent // 6, how, cpu, w.bounded(), by.fine())


@check("flood: 500,000 one-byte fragments", "flood")
def _(t):
    with Watch(t) as w, Bystander(t) as by:
        with ws(t) as c:
            c.send(frame(2, b"", fin=False))
            blob = (zframe(0, 1, fin=False) + b"\0") * 10000
            sent, end = 0, time.time() + 20
            for _ in range(50):
                sent += c.push(blob, end)
                if c.cut or time.time() >= end:
                    break
            how = ended(c)
    cpu = ", CPU %.2f s" % w.cpu_used if t.pid else ""
    return "%d taken%s%s; %s; %s" % (sent // 7, how, cpu, w.bounded(), by.fine())


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


def read_thread(c, on):
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
    cpu = ", CPU %.2f s" % w.cpu_used if t.pid else ""
    return "%d taken%s%s; %s; %s" % (sent // 14, " (then cut)" if c.cut else "", cpu, w.bounded(), by.fine())


def unread(t, blob, per, seconds=6.0, total=256 * MB):
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
    return unread(t, (zframe(9, 125) + b"\0" * 125) * 1000, 131)


@check("flood: pongs nobody asked for", "flood")
def _(t):
    return unread(t, (zframe(10, 125) + b"\0" * 125) * 1000, 131, 3.0, 64 * MB)


@check("flood: messages whose echoes are never read", "flood")
def _(t):
    if not t.echo:
        raise Skip("not an echo server")
    n = min(16384, t.limit)
    return unread(t, (zframe(2, n) + bytes(n)) * 16, n)


@check("flood: close frames and garbage after a violation", "flood")
def _(t):
    return unread(t, frame(3, b"x") + (zframe(8, 2) + b"\x03\xe8") * 1000 + os.urandom(65536), 8, 2.0, 32 * MB)


# ---------------------------------------------------------------- permessage-deflate

def deflater(t, **kw):
    if not t.deflate:
        raise Skip("permessage-deflate not offered by the server")
    c = ws(t, extra=["Sec-WebSocket-Extensions: permessage-deflate"], **kw)
    return c


def squeeze(b):
    z = zlib.compressobj(9, zlib.DEFLATED, -15)
    d = z.compress(b) + z.flush(zlib.Z_SYNC_FLUSH)
    return d[:-4]


@check("deflate: a message", "deflate")
def _(t):
    with deflater(t) as c:
        c.send(frame(1, squeeze(b"hello " * 100), rsv=4))
        need(c.pong() is not None, "refused a compressed message")


@check("deflate: a bomb (1 GiB in 1 MiB)", "deflate")
def _(t):
    if not t.deflate:
        raise Skip("permessage-deflate not offered by the server")
    z = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = z.compress(bytes(16 * MB)) + z.flush(zlib.Z_FULL_FLUSH)
    bomb = block * 64
    with Watch(t) as w, Bystander(t) as by:
        with deflater(t) as c:
            c.push(zframe(2, len(bomb), rsv=4) + bomb, time.time() + 10)
            out = closes(c, (1009,), 15)
    return out + "; " + w.bounded(t.limit + t.a.mem * MB) + "; " + by.fine()


@check("deflate: a bomb in many small messages is paid in CPU only", "deflate")
def _(t):
    if not t.deflate:
        raise Skip("permessage-deflate not offered by the server")
    n = min(t.limit, MB)
    m = squeeze(bytes(n))
    with Watch(t) as w, Bystander(t) as by:
        with deflater(t) as c:
            on = [True]
            read_thread(c, on)
            f = zframe(2, len(m), rsv=4) + m
            c.push(f * 200, time.time() + 5)
            on[0] = False
            time.sleep(0.2)
    cpu = ", CPU %.2f s" % w.cpu_used if t.pid else ""
    return "%d MiB asked of it%s; %s; %s" % (200 * n // MB, cpu, w.bounded(), by.fine())


@check("deflate: data that does not inflate", "deflate")
def _(t):
    out = []
    for b in (b"\xff" * 50, b"\x07", os.urandom(64), b"\x03\x00\xde\xad\xbe\xef" * 4):
        with deflater(t) as c:
            c.send(frame(2, b, rsv=4))
            how, code = c.until_close(1.5)
            if b == b"\xff" * 50:
                need(how != "open", "taken")
                need(how != "close" or code in (1002, 1003, 1007, 1011), "closed with %s" % code)
            out.append("%s %s" % (how, code or ""))
    return "; ".join(out)


@check("deflate: RSV1 on a continuation, on a ping", "deflate")
def _(t):
    out = []
    for b in (frame(2, b"a", fin=False) + frame(0, b"b", rsv=4), frame(9, b"x", rsv=4)):
        with deflater(t) as c:
            c.send(b)
            out.append(closes(c, (1002,)))
    return "; ".join(out)


@check("deflate: compressed text that is not UTF-8", "deflate")
def _(t):
    with deflater(t) as c:
        c.send(frame(1, squeeze(b"\xff\xfe\xfd"), rsv=4))
        return closes(c, (1007,))


@check("deflate: invalid parameters are not accepted", "deflate")
def _(t):
    if not t.deflate:
        raise Skip("permessage-deflate not offered by the server")
    out = []
    for p in ("server_max_window_bits=7", "server_max_window_bits=16", "server_max_window_bits=abc", "server_max_window_bits",
              "client_max_window_bits=99", "server_no_context_takeover; server_no_context_takeover", "server_no_context_takeover=1",
              "unknown_parameter", "server_max_window_bits=08", 'server_max_window_bits="'):
        st, hs, e = answer(t, request(t, extra=["Sec-WebSocket-Extensions: permessage-deflate; " + p])[0])
        need(st or e, "%s: no answer" % p)
        need(st != 101 or "permessage-deflate" not in dict(hs).get("sec-websocket-extensions", ""), "%s accepted" % p)
        need(st < 500, "%s: %d" % (p, st))
        out.append(str(st))
    return " ".join(out)


@check("deflate: extension header of 500 offers, and nonsense", "deflate")
def _(t):
    out = []
    for h in ("x-a, " * 499 + "x-b", ",,;;,=;", "permessage-deflate;" * 300, '"' * 2000, "__proto__, constructor; toString=1"):
        st, hs, e = answer(t, request(t, extra=["Sec-WebSocket-Extensions: " + h])[0])
        need(st or e, "no answer")
        need(st < 500, "answered %d" % st)
        out.append(str(st or "cut"))
    return " ".join(out)


# ---------------------------------------------------------------- connections

@check("churn: 5,000 connects, half with a close, half cut", "conns")
def _(t):
    t.need_pid()
    for _ in range(200):
        ws(t).close()
    time.sleep(0.5)
    fd0, m0, t0 = t.fds(), t.rss(), time.time()
    for i in range(5000):
        c = ws(t)
        if i % 2:
            c.send(frame(8, b"\x03\xe8"))
            c.until_close(2)
        c.close()
    took = time.time() - t0
    fd = t.settle_fds(fd0 + 2)
    need(fd <= fd0 + 2, "descriptors %d -> %d" % (fd0, fd))
    grown = max(0, t.rss() - m0)
    need(grown <= 16 * MB, "memory grew by %.1f MiB" % (grown / MB))
    return "%.0f/s, descriptors %d -> %d, memory +%.1f MiB" % (5000 / took, fd0, fd, grown / MB)


def stages(t, n, end):
    """n connections ended by `end` at every stage of their life."""
    r = request(t)[0]
    for i in range(n):
        c = Conn(t)
        k = i % 6
        if k == 1:
            c.send(r[:40])
        elif k == 2:
            c.send(r)
        elif k >= 3:
            c.send(r)
            c.head()
            if k == 4:
                c.send(zframe(2, 5000) + b"half")
            elif k == 5:
                c.send(b"\x82")
        end(c)


@check("storm: 2,000 resets at every stage", "conns")
def _(t):
    t.need_pid()
    stages(t, 200, lambda c: c.rst())
    time.sleep(0.3)
    fd0, m0 = t.fds(), t.rss()
    with Bystander(t) as by:
        fd0 = max(fd0, 0)
        stages(t, 2000, lambda c: c.rst())
    fd = t.settle_fds(fd0 + 2)
    need(fd <= fd0 + 2, "descriptors %d -> %d" % (fd0, fd))
    need(t.rss() - m0 <= 16 * MB, "memory grew by %.1f MiB" % ((t.rss() - m0) / MB))
    return "descriptors %d -> %d; %s" % (fd0, fd, by.fine())


@check("storm: 2,000 hang-ups mid-request and mid-frame", "conns")
def _(t):
    t.need_pid()
    stages(t, 200, lambda c: c.close())
    time.sleep(0.3)
    fd0 = t.fds()
    stages(t, 2000, lambda c: c.close())
    fd = t.settle_fds(fd0 + 2)
    need(fd <= fd0 + 2, "descriptors %d -> %d" % (fd0, fd))
    return "descriptors %d -> %d" % (fd0, fd)


@check("half-close: a client that shuts down its sending side", "conns")
def _(t):
    with ws(t) as c:
        c.s.shutdown(socket.SHUT_WR)
        p, t0 = c.lport, time.time()
        while t.holds({p}):
            need(time.time() < t0 + 10, "still held after 10 s")
            time.sleep(0.05)
        return "let go after %.2f s" % (time.time() - t0)


@check("crowd: 1,000 handshakes at once", "conns")
def _(t):
    ss, r = [], request(t)[0]
    t0 = time.time()
    try:
        for _ in range(1000):
            s = socket.socket()
            s.setblocking(False)
            try:
                s.connect((t.host, t.port))
            except BlockingIOError:
                pass
            ss.append(s)
        ok = 0
        for s in ss:
            s.settimeout(10)
            c = Conn(t, s=s)
            for _ in range(500):
                try:
                    s.send(r)
                    break
                except OSError:
                    time.sleep(0.01)
        for s in ss:
            c = Conn(t, s=s)
            ok += c.head(10)[0] == 101
        took = time.time() - t0
    finally:
        for s in ss:
            s.close()
    need(ok == 1000, "%d of 1000 let in" % ok)
    need(took <= 10, "took %.1f s" % took)
    return "all in %.2f s" % took


@check("crowd: 2,000 idle clients, memory each, and given back", "fresh")
def _(t):
    t.need_pid()
    m0, fd0 = t.rss(), t.fds()
    cs = [ws(t) for _ in range(2000)]
    time.sleep(0.5)
    m1 = t.rss()
    for c in cs:
        c.close()
    fd = t.settle_fds(fd0 + 2)
    need(fd <= fd0 + 2, "descriptors %d -> %d" % (fd0, fd))
    each = (m1 - m0) / 2000
    need(each <= t.a.per_client * 1024, "%.1f KiB each" % (each / 1024))
    return "%.1f KiB each" % (each / 1024)


@check("crowd: 500 slow handshakes do not disturb others", "conns")
def _(t):
    cs = [Conn(t) for _ in range(500)]
    r = request(t)[0]
    with Bystander(t) as by:
        for i in range(3):
            for c in cs:
                try:
                    c.s.send(r[i:i + 1])
                except OSError:
                    pass
            time.sleep(0.3)
        fresh = alive(t)
    for c in cs:
        c.close()
    return "new client served in %.0f ms; %s" % (fresh * 1000, by.fine())


@check("descriptors: none left; survives, stays calm, serves, accepts again", "conns")
def _(t):
    t.need_pid()
    old = resource.prlimit(t.pid, resource.RLIMIT_NOFILE)
    with ws(t) as keep:
        n0 = t.fds()
        resource.prlimit(t.pid, resource.RLIMIT_NOFILE, (n0 + 10, old[1]))
        ss = []
        try:
            for _ in range(60):
                s = socket.socket()
                s.setblocking(False)
                try:
                    s.connect((t.host, t.port))
                except BlockingIOError:
                    pass
                ss.append(s)
            time.sleep(0.5)
            need(t.running(), "the server died")
            c0 = t.cpu()
            time.sleep(2)
            busy = (t.cpu() - c0) / 2
            served = keep.pong(timeout=3)
        finally:
            if t.running():
                resource.prlimit(t.pid, resource.RLIMIT_NOFILE, old)
            for s in ss:
                s.close()
    need(t.running(), "the server died")
    need(served is not None, "a connected client is not served meanwhile")
    end, back = time.time() + 10, None
    while time.time() < end:
        try:
            back = alive(t, 2)
            break
        except (Fail, OSError):
            time.sleep(0.2)
    need(back is not None, "accepts nobody for 10 s after")
    need(busy <= 0.5, "spins: %.0f%% CPU while it cannot accept" % (busy * 100))
    return "CPU %.0f%% meanwhile, accepts again" % (busy * 100)


@check("descriptors: who waited in the queue is served once there is room", "conns")
def _(t):
    # an edge-triggered accept loop that gave up on EMFILE hears nothing more of these
    t.need_pid()
    old = resource.prlimit(t.pid, resource.RLIMIT_NOFILE)
    n0 = t.fds()
    resource.prlimit(t.pid, resource.RLIMIT_NOFILE, (n0 + 10, old[1]))
    cs = []
    try:
        for _ in range(30):
            cs.append(Conn(t, 2))
        time.sleep(1)
        waiting = [c for c in cs if c.lport not in t.holds({c.lport})]
    finally:
        resource.prlimit(t.pid, resource.RLIMIT_NOFILE, old)
    need(t.running(), "the server died")
    if not waiting:
        for c in cs:
            c.close()
        return "it turned the others away"
    for c in cs:
        if c not in waiting:
            c.close()
    t0, ok = time.time(), 0
    for c in waiting:
        c.send(request(t)[0])
    for c in waiting:
        st = c.head(max(0.05, t0 + 5 - time.time()))[0]
        ok += st == 101 or bool(c.ended) or st == 503
    took = time.time() - t0
    for c in cs:
        c.close()
    need(ok == len(waiting), "%d of %d who waited were forgotten for 5 s" % (len(waiting) - ok, len(waiting)))
    return "%d waited, all answered in %.2f s" % (len(waiting), took)


# ---------------------------------------------------------------- a feed and readers

class Feed:
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
                s = s or socket.create_connection((u.hostname, u.port), 3)
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


def feeds(t):
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
    feeds(t)
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
    feeds(t)
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
    fd = t.settle_fds(fd0 + 2)
    need(out and out[0][0] > 0 and not out[0][2], "the steady reader got %s" % (out,))
    need(fd <= fd0 + 2, "descriptors %d -> %d" % (fd0, fd))
    need(t.rss() - m0 <= 16 * MB, "memory grew by %.1f MiB" % ((t.rss() - m0) / MB))
    return "%d came and went; the steady reader got %d" % (n, out[0][0])


# ---------------------------------------------------------------- clocks (run in the background)

def clock(name, label, bound):
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


# ---------------------------------------------------------------- the end

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


# ---------------------------------------------------------------- main

def main():
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
    a = p.parse_args()
    order = ["fresh", "http", "frames", "size", "flood", "deflate", "conns", "feed", "clocks", "term"]
    checks = sorted(CHECKS, key=lambda c: order.index(c[1]))
    if a.only:
        checks = [c for c in checks if re.search(a.only, c[0])]
    if a.skip:
        checks = [c for c in checks if not re.search(a.skip, c[0])]
    if a.list:
        for c in checks:
            print(c[1], c[0], sep="\t")
        return 0
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 20000) if hard > 0 else 20000, hard))
    t = Target(a)
    t.start()
    try:
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
    except (Fail, OSError) as e:
        print("abuse: no WebSocket server at %s: %s" % (a.ws, e))
        return 2
    print("abuse %s  pid=%s  echo=%s  deflate=%s  limit=%d" % (a.ws, t.pid, t.echo, t.deflate, t.limit))
    t.bg = None
    done = {"ok": 0, "FAIL": 0, "skip": 0}
    rows = []
    begin = time.time()
    for name, group, f in checks:
        if group in ("fresh", "size", "flood", "deflate"):
            t.fresh()
        elif order.index(group) >= order.index("conns") and t.bg is None:
            t.fresh()
            t.bg = Background(t)
            if any(c[1] == "clocks" for c in checks):
                t.bg.start()
                time.sleep(0.2)
        t0 = time.time()
        try:
            try:
                why = f(t) or ""
                if group != "term":
                    need(t.running(), "the server died")
                    alive(t)
                kind = "ok"
            except Fail as e:
                kind, why = "FAIL", str(e)
            except Skip as e:
                kind, why = "skip", str(e)
            except (OSError, struct.error, ValueError) as e:
                kind, why = "FAIL", "%s: %s" % (type(e).__name__, e)
            if group != "term" and not t.running():
                kind, why = "FAIL", why + " [the server died]"
        finally:
            done[kind] += 1
            rows.append({"name": name, "result": kind, "why": why, "seconds": round(time.time() - t0, 2)})
            print("%-4s %s%s" % (kind, name, " - " + why if why else ""), flush=True)
        if group != "term":
            t.revive()
    print("took %.0f s; the server died %d times" % (time.time() - begin, t.deaths))
    print("%d passed, %d failed, %d skipped" % (done["ok"], done["FAIL"], done["skip"]))
    if a.json:
        with open(a.json, "w") as o:
            json.dump({"ws": a.ws, "passed": done["ok"], "failed": done["FAIL"], "skipped": done["skip"], "checks": rows}, o, indent=1)
    if t.proc and t.running():
        t.proc.terminate()
        try:
            t.proc.wait(5)
        except subprocess.TimeoutExpired:
            t.proc.kill()
    return 1 if done["FAIL"] else 0


if __name__ == "__main__":
    sys.exit(main())
