"""The gateway under test as a process."""
import asyncio
import os
import shlex
import signal
import subprocess
import time

from events_runner.fakes import SERVICES

TOKEN = "tok-events-5f2c"


class Program:
    """The gateway under test: a start for each environment, or one that runs already (--base)."""

    def __init__(self, a, fakes):
        self.a, self.fakes, self.proc = a, fakes, None
        self.host, self.port = "127.0.0.1", None
        if a.base:
            self.host, _, port = a.base.split("://")[-1].strip("/").partition(":")
            self.port = int(port)

    async def start(self, env, n):
        """Starts it with an environment, at the port with the number n."""
        a = self.a
        self.port = a.port_base + 1 + n % 60
        e = dict(os.environ)
        for k in ("MAX_MESSAGE_BYTES", "RATE_LIMIT_RPS", "RATE_LIMIT_BURST", "HTTP_TIMEOUT_SECONDS"):
            e.pop(k, None)
        for s in SERVICES:
            e[s.upper() + "_URL"] = f"http://127.0.0.1:{self.fakes[s].port}"
        e["INTERNAL_AUTH_TOKEN"] = TOKEN
        e[a.port_env] = str(self.port)
        for k, v in env.items():
            v = str(v)
            for s in SERVICES:
                v = v.replace("{" + s + "}", f"http://127.0.0.1:{self.fakes[s].port}")
            e[k] = v
        log = open(a.log, "ab") if a.log else subprocess.DEVNULL
        self.proc = subprocess.Popen(shlex.split(a.cmd.replace("{port}", str(self.port))), env=e, stdout=log, stderr=log,
                                     start_new_session=True)
        end = time.monotonic() + 15
        while time.monotonic() < end:
            if self.proc.poll() is not None:
                raise SystemExit(f"the implementation ended at once with {self.proc.returncode} (env {env})")
            try:
                _, w = await asyncio.open_connection(self.host, self.port)
                w.close()
                return
            except OSError:
                await asyncio.sleep(0.05)
        self.stop()
        raise SystemExit(f"the implementation did not listen on {self.port} within 15 s")

    def stop(self):
        p = self.proc
        if p.poll() is None:
            for sig, t in ((signal.SIGTERM, 2), (signal.SIGKILL, 2)):
                try:
                    os.killpg(p.pid, sig)
                except ProcessLookupError:
                    break
                try:
                    p.wait(t)
                    break
                except subprocess.TimeoutExpired:
                    pass
