"""Attacks on the HTTP request that opens a WebSocket, and on the plain HTTP beside it."""
import base64
import hashlib
import os
import random
import time
import urllib.parse

from attacks import sockets
from attacks.checks import MB, Skip, check, need
from attacks.client import Conn, answer, frame, refused, request, ws
from attacks.target import Watch


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
        f = c.next(10)
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
        f = c.next(10)
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
    for p in ("/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/%00", "/%ff%fe", "/%zz", "//", "*", "http://evil.example/", "/" + "../" * 500,
              "?", "/\\", "/;x"):
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
    for m, p, bad in (("GET", u.path or "/", (500,)), ("HEAD", u.path or "/", ()), ("BREW", "/", (200, 101)),
                      ("GET", "/no/such/path/zz", (200, 101))):
        with sockets.connected((u.hostname, u.port), 5) as s:
            c = Conn(t, s=s)
            c.send(("%s %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" % (m, p)).encode())
            st, hs, _ = c.head()
            need(st and st not in bad and (st < 500 or st in (501, 505)), "%s %s: %s" % (m, p, st or "nothing"))
            if m == "HEAD":
                c.gone(1)
            out.append(str(st))
    return " ".join(out)
