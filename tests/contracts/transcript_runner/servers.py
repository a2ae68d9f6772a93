"""What a case runs against: a redis-server, the program, and ports for both."""
import fcntl
import os
import shlex
import shutil
import signal
import socket
import subprocess
import tempfile
import time

import redis as redis_mod

from transcript_runner.matching import Fail

LOW, HIGH = 22000, 22099
PORT_LOCKS = {}


def free_port():
    """A port in LOW+10..HIGH, locked against other runs of this tool until release_port."""
    span = HIGH - LOW - 9
    for i in range(span):
        p = LOW + 10 + (os.getpid() * 13 + i) % span
        if p in PORT_LOCKS:
            continue
        f = open(os.path.join(tempfile.gettempdir(), f".transcript-port-{p}"), "w")
        s = socket.socket()
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
            s.bind(("127.0.0.1", p))
            PORT_LOCKS[p] = f
            return p
        except OSError:
            f.close()
        finally:
            s.close()
    raise SystemExit("no free port")


def release_port(p):
    f = PORT_LOCKS.pop(p, None)
    if f:
        f.close()


class Redis:
    """A redis-server without persistence, and a client of it."""

    def __init__(self, port):
        self.port = port
        self.proc = None
        self.dir = tempfile.mkdtemp(prefix="transcript-redis-")
        self.cli = redis_mod.Redis(host="127.0.0.1", port=port, socket_timeout=5)

    def start(self):
        if self.proc and self.proc.poll() is None:
            return
        self.proc = subprocess.Popen(["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--save", "",
                                      "--appendonly", "no", "--dir", self.dir, "--client-output-buffer-limit", "pubsub 0 0 0"],
                                     stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(200):
            try:
                self.cli.ping()
                return
            except Exception:
                time.sleep(0.02)
        raise SystemExit("redis-server did not start")

    def stop(self):
        if self.proc:
            self.proc.kill()
            self.proc.wait()
            self.proc = None
            try:
                self.cli.connection_pool.disconnect()
            except Exception:
                pass

    def end(self):
        self.stop()
        shutil.rmtree(self.dir, ignore_errors=True)


class Server:
    """The program: a start for each environment."""

    def __init__(self, args, rds):
        self.args, self.rds, self.proc, self.port = args, rds, None, None

    def start(self, env, suite, redis_up=True):
        release_port(self.port)
        self.port = free_port()
        e = {k: v for k, v in os.environ.items() if k not in (
            "REQUIRE_AUTH", "GATEWAY_API_KEY", "DEFAULT_ROLE", "MAX_CHANNELS_PER_CLIENT", "MAX_WILDCARD_SUBSCRIPTIONS",
            "MAX_MESSAGES_PER_SECOND", "REDIS_WS_GATEWAY_HOST")}
        url = f"redis://127.0.0.1:{self.rds.port}"
        e.update(REDIS_URL=url, REDIS_HOST="127.0.0.1", REDIS_PORT=str(self.rds.port), WS_PORT=str(self.port),
                 REDIS_WS_GATEWAY_PORT=str(self.port), REDIS_WS_GATEWAY_HOST="127.0.0.1")
        e[self.args.port_env] = str(self.port)
        e.update({k: str(v) for k, v in env.items()})
        cmd = [x.replace("{port}", str(self.port)).replace("{redis_url}", url) for x in shlex.split(self.args.cmd)]
        self.log = open(self.args.log, "ab") if self.args.log else subprocess.DEVNULL
        self.proc = subprocess.Popen(cmd, env=e, stdout=self.log, stderr=self.log, stdin=subprocess.DEVNULL, start_new_session=True)
        end = time.time() + 20
        while time.time() < end:
            if self.proc.poll() is not None:
                raise Fail(f"the program ended at its start with status {self.proc.returncode}")
            try:
                socket.create_connection(("127.0.0.1", self.port), 0.5).close()
                break
            except OSError:
                time.sleep(0.02)
        else:
            self.stop()
            raise Fail("the program did not listen within 20 s")
        if redis_up:
            end = time.time() + 3
            while time.time() < end:
                try:
                    if suite == "trades":
                        if self.rds.cli.pubsub_numpat() >= 1:
                            break
                    elif len(self.rds.cli.client_list()) > 1:
                        break
                except Exception:
                    pass
                time.sleep(0.02)

    def alive(self):
        return self.proc is not None and self.proc.poll() is None

    def stop(self):
        if self.proc is None:
            return
        if self.proc.poll() is None:
            self.proc.terminate()
            try:
                self.proc.wait(3)
            except subprocess.TimeoutExpired:
                os.killpg(self.proc.pid, signal.SIGKILL)
                self.proc.wait()
        self.proc = None
