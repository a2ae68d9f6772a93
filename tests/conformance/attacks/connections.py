"""Many connections: those that come and go, that are cut at every stage, that come all at once, and more than there are descriptors."""
import resource
import socket
import time

from attacks import sockets
from attacks.checks import MB, Fail, check, need
from attacks.client import Bystander, Conn, alive, frame, request, ws, zframe


def begun(t):
    """A socket whose connection is under way."""
    s = sockets.new()
    s.setblocking(False)
    try:
        s.connect((t.host, t.port))
    except BlockingIOError:
        pass
    return s


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
    fds = t.descriptors_back(fd0)
    grown = max(0, t.rss() - m0)
    need(grown <= 16 * MB, "memory grew by %.1f MiB" % (grown / MB))
    return "%.0f/s, %s, memory +%.1f MiB" % (5000 / took, fds, grown / MB)


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
        stages(t, 2000, lambda c: c.rst())
    fds = t.descriptors_back(fd0)
    need(t.rss() - m0 <= 16 * MB, "memory grew by %.1f MiB" % ((t.rss() - m0) / MB))
    return fds + "; " + by.fine()


@check("storm: 2,000 hang-ups mid-request and mid-frame", "conns")
def _(t):
    t.need_pid()
    stages(t, 200, lambda c: c.close())
    time.sleep(0.3)
    fd0 = t.fds()
    stages(t, 2000, lambda c: c.close())
    return t.descriptors_back(fd0)


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
            ss.append(begun(t))
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
    t.descriptors_back(fd0)
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
                ss.append(begun(t))
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
