"""Frames, texts and close frames against RFC 6455, and unusual ones that it allows."""
import struct
import time

from attacks.checks import Fail, check, need
from attacks.client import bad, frame, ws


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
