"""permessage-deflate (RFC 7692): bombs, data that does not inflate, and malformed offers."""
import os
import time
import zlib

from attacks.checks import MB, Skip, check, need
from attacks.client import Bystander, answer, closes, frame, read_thread, request, ws, zframe
from attacks.target import Watch


def need_deflate(t):
    if not t.deflate:
        raise Skip("permessage-deflate not offered by the server")


def deflater(t):
    """A connection that may send compressed messages."""
    need_deflate(t)
    return ws(t, extra=["Sec-WebSocket-Extensions: permessage-deflate"])


def squeeze(b):
    """The payload of a compressed message (RFC 7692 section 7.2.1)."""
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
    need_deflate(t)
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
    need_deflate(t)
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
    return "%d MiB asked of it%s; %s; %s" % (200 * n // MB, w.cpu_text(), w.bounded(), by.fine())


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
    need_deflate(t)
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
