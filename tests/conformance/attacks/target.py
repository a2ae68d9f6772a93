"""The server under attack: its process, its port, and what /proc tells of its memory, CPU and descriptors."""
import os
import shlex
import socket
import subprocess
import sys
import threading
import time
import urllib.parse

from attacks import sockets
from attacks.checks import MB, Fail, Skip, need


class Target:
    """The server: started by --cmd and started again when it dies, or one that runs already."""

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
        # What has to be cut by a clock (attacks/clocks.py).
        self.bg = None

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
        """Counts a death, and starts the server again."""
        if not self.running():
            self.deaths += 1
            if self.a.cmd:
                self.start()
            else:
                print("abuse: the server is gone; stopping")
                raise SystemExit(2)

    def tcp(self, timeout=5.0, rcvbuf=None):
        s = sockets.new()
        if rcvbuf:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
        s.settimeout(timeout)
        s.connect((self.host, self.port))
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return s

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

    def descriptors_back(self, before):
        """That no more descriptors are open than before, soon; in words."""
        now = self.settle_fds(before + 2)
        said = "descriptors %d -> %d" % (before, now)
        need(now <= before + 2, said)
        return said

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

    def cpu_text(self):
        return ", CPU %.2f s" % self.cpu_used if self.t.pid else ""

    def grown(self):
        return max(0, self.peak - self.base)

    def bounded(self, limit=None):
        if not self.t.pid:
            return "memory not seen (no --pid)"
        limit = limit or self.t.a.mem * MB
        need(self.grown() <= limit, "memory grew by %.0f MiB (bound %.0f)" % (self.grown() / MB, limit / MB))
        return "memory +%.1f MiB" % (self.grown() / MB)
