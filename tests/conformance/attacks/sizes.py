"""Lengths that lie, and messages over the limit: what is announced costs no memory, what is too large ends in 1009."""
import time

from attacks.checks import MB, Fail, check, need
from attacks.client import Bystander, bad, closes, frame, ws, zframe
from attacks.target import Watch


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
