"""Starts programs for a test: a real nats-server and weirgate, each on a free port of 127.0.0.1.

Every process started here ends with the test, and with the test run if the run is killed.
"""
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
import json

import redis

from ports import free_port
from waiting import patient

ROOT = pathlib.Path(__file__).resolve().parents[2]
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target")


class StartError(AssertionError):
    """A program could not be started; the text says what to do."""


def build():
    """The build with the programs: that of `make test`; TEST_BUILD=release is for measurements."""
    return os.environ.get("TEST_BUILD") or "debug"


def built(path):
    """The path of a program, which must be there."""
    if not path.exists():
        raise StartError(f"no program at {path}: run `make {'build' if build() == 'release' else 'test'}` once")
    return path


def weirgate_binary():
    """The program under test: TEST_BINARY, or the program of the build."""
    return built(pathlib.Path(os.environ.get("TEST_BINARY") or TARGET / build() / "weirgate"))


def loadtest_binary():
    """The load test program."""
    return built(TARGET / build() / "loadtest")


def system_binary(name, package):
    """A program from the PATH, or from Debian's folder for servers, missing in some PATHs."""
    path = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin:/usr/local/bin")
    if path is None:
        raise StartError(f"no {name}: run `scripts/install-test-deps.sh` (Debian package {package})")
    return path


def nats_server_binary():
    """The real nats-server: NATS_SERVER, or the system's."""
    return os.environ.get("NATS_SERVER") or system_binary("nats-server", "nats-server")


def node_binary():
    """Node, with the packages of tests/node installed."""
    path = shutil.which("node")
    folder = ROOT / "tests" / "node"
    packages = json.loads((folder / "package.json").read_text())["dependencies"]
    if path is None or not all((folder / "node_modules" / package).is_dir() for package in packages):
        raise StartError(f"no Node with the packages {', '.join(packages)}: run `scripts/install-test-deps.sh`")
    return path


class Process:
    """A child with the output in a file, or in the descriptor `output`; `files_max` bounds the descriptors (soft and hard)."""

    def __init__(self, argv, env=None, files_max=None, output=None):
        self.log_path = pathlib.Path(tempfile.mkstemp(prefix="weirgate-test-", suffix=".log")[1])

        # Programs of util-linux, each of which becomes the next: code of Python between fork and exec would copy the page
        # tables of this process for every child.
        before = ["setpriv", "--pdeathsig", "KILL"]
        if files_max is not None:
            before += ["prlimit", f"--nofile={files_max}:{files_max}"]
        with open(self.log_path, "wb") as log:
            self.child = subprocess.Popen(
                [*before, *(str(a) for a in argv)], env={**os.environ, **(env or {})}, stdin=subprocess.DEVNULL,
                stdout=log if output is None else output, stderr=subprocess.STDOUT)

    @property
    def pid(self):
        return self.child.pid

    def alive(self):
        return self.child.poll() is None

    def send(self, sig):
        """Sends a signal to this process alone."""
        self.child.send_signal(sig)

    def wait(self, seconds):
        """Returns the exit status; fails if the process does not end in time."""
        limit = patient(seconds)
        try:
            return self.child.wait(limit)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {limit:.0f} s\n{self.log_tail()}") from None

    def kill(self):
        """SIGKILL, and waits for the end; works on a stopped process too."""
        if self.alive():
            self.child.kill()
        self.child.wait(10)

    def log(self):
        return self.log_path.read_text(errors="replace")

    def lines_with(self, *texts):
        """Waits for a line of the log that has all of these texts; returns all such lines. A separate thread of weirgate writes the log."""
        end = time.monotonic() + patient(10)
        while not (lines := [line for line in self.log().splitlines() if all(text in line for text in texts)]):
            assert time.monotonic() < end, f"no line with {texts}\n{self.log_tail()}"
            time.sleep(0.02)
        return lines

    def logs(self, *texts):
        """Waits until each of these texts is in a line of the log."""
        for text in texts:
            self.lines_with(text)

    def log_tail(self, chars=3000):
        return f"--- last output of pid {self.pid} ---\n{self.log()[-chars:]}"

    def cpu_seconds(self):
        """User and system time so far."""
        fields = pathlib.Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def discard(self):
        """Ends the process in any state, and removes the log."""
        self.kill()
        self.log_path.unlink(missing_ok=True)


class NatsServer:
    """nats-server with JetStream in a separate folder; can be killed, stopped and restarted on the same port."""

    def __init__(self, max_payload=None, config="", jetstream=True):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="weirgate-nats-"))
        self.port = free_port()
        self.url = f"nats://127.0.0.1:{self.port}"
        self.max_payload, self.config, self.jetstream = max_payload, config, jetstream
        self.process = None
        self.start()

    def start(self):
        """Starts the server and waits until the server responds."""
        config = self.write_config()
        if self.process:
            self.process.discard()
        self.process = Process([nats_server_binary(), "-c", config])
        self.wait_until_it_answers()

    def write_config(self):
        lines = ["listen: 127.0.0.1:%d" % self.port]
        if self.jetstream:
            lines.append('jetstream { store_dir: "%s" }' % (self.folder / "store"))
        if self.max_payload:
            lines.append(f"max_payload: {self.max_payload}")
            lines.append(f"max_pending: {16 * self.max_payload}")
        lines.append(self.config)
        config = self.folder / "nats.conf"
        config.write_text("\n".join(lines) + "\n")
        return config

    def reload(self, config):
        """SIGHUP, with other lines."""
        self.config = config
        self.write_config()
        self.process.send(signal.SIGHUP)

    def wait_until_it_answers(self, seconds=60):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=1) as link:
                    if link.recv(4) == b"INFO":
                        return
            except OSError:
                pass
            if not self.process.alive():
                raise StartError(f"nats-server ended at start\n{self.process.log_tail()}")
            time.sleep(0.05)
        raise StartError(f"nats-server does not answer\n{self.process.log_tail()}")

    def kill(self):
        self.process.kill()

    def forget_everything(self):
        """Only while the server is down: empties the store for the next start."""
        shutil.rmtree(self.folder / "store", ignore_errors=True)

    def freeze(self):
        """SIGSTOP: connections stay open and nobody answers."""
        self.process.send(signal.SIGSTOP)

    def thaw(self):
        self.process.send(signal.SIGCONT)

    def discard(self):
        if self.process:
            self.process.discard()
        shutil.rmtree(self.folder, ignore_errors=True)


class RedisServer:
    """redis-server without a store, with these arguments; can be killed and restarted on the same port."""

    def __init__(self, *args):
        self.args = args
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}"
        self.process = None
        # A replica writes the master's data into the directory, and a server reads the data at the start.
        self.directory = tempfile.TemporaryDirectory(prefix="weirgate-redis-")
        self.start()

    def start(self, seconds=60):
        """Starts the server and waits until the server responds."""
        if self.process:
            self.process.discard()
        self.process = Process([system_binary("redis-server", "redis-server"), "--port", self.port, "--bind", "127.0.0.1",
                                "--dir", self.directory.name, "--save", "", "--appendonly", "no", *self.args])
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                if self.client().ping():
                    return
            except redis.ConnectionError:
                pass
            if not self.process.alive():
                raise StartError(f"redis-server ended at start\n{self.process.log_tail()}")
            time.sleep(0.03)
        raise StartError(f"redis-server does not answer\n{self.process.log_tail()}")

    def client(self, patience_s=10):
        """A separate connection, for PUBLISH and PUBSUB."""
        return redis.Redis(port=self.port, socket_timeout=patience_s)

    def freeze(self):
        """SIGSTOP: connections stay open and nobody answers."""
        self.process.send(signal.SIGSTOP)

    def thaw(self):
        self.process.send(signal.SIGCONT)

    def kill(self):
        self.process.kill()

    def discard(self):
        if self.process:
            self.process.discard()


class Weirgate(Process):
    """`weirgate SUBCOMMAND` on a free port, with the test's flags and env; `under` is a program that starts weirgate, `program`
    another version of it."""

    def __init__(self, subcommand="levels", *flags, nats=None, redis=None, env=None, files_max=None, output=None, under=(), program=None):
        self.port = free_port()
        settings = {name: str(self.port) for name in ("GATEWAY_PORT", "WS_PORT", "REDIS_WS_GATEWAY_PORT")}
        # A test that starts a gateway again names the port itself.
        named = [int(port) for port in map((env or {}).get, settings) if str(port).isdigit()]
        self.listens_at = named[0] if named else self.port
        if redis is not None:
            settings["REDIS_URL"] = redis.url
        if nats is not None:
            settings["NATS_URL"] = nats.url
        super().__init__([*under, program or weirgate_binary(), subcommand, *flags], {**settings, **(env or {})}, files_max, output)
        self.http_url = f"http://127.0.0.1:{self.port}"
        self.ws_url = f"ws://127.0.0.1:{self.port}/ws/stream"
        self.scraped_at = 0

    def freeze(self):
        """SIGSTOP: weirgate reads and writes nothing."""
        self.send(signal.SIGSTOP)

    def thaw(self):
        self.send(signal.SIGCONT)

    def get(self, path, timeout=20):
        """(status, headers, body as text); status 0 when there is no answer."""
        if path == "/metrics":
            # The text is served again for a quarter of a second; a test wants what is true now.
            time.sleep(max(0, self.scraped_at + 0.26 - time.monotonic()))
        try:
            with urllib.request.urlopen(self.http_url + path, timeout=timeout) as answer:
                self.scraped_at = time.monotonic() if path == "/metrics" else self.scraped_at
                return answer.status, answer.headers, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.headers, error.read().decode(errors="replace")
        except OSError as error:
            return 0, {}, repr(error)

    def health(self):
        status, _, body = self.get("/health")
        assert status == 200, f"/health answered {status}: {body}"
        return json.loads(body)

    def ready_status(self):
        return self.get("/ready")[0]

    def wait_ready(self, seconds=60):
        """Returns once /ready is 200."""
        return self.wait_for("/ready", seconds)

    def wait_for(self, path, seconds=60):
        """Returns once the path is answered with 200; /health says that the gateway listens, whatever its bus does."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self.get(path)[0] == 200:
                return self
            if not self.alive():
                raise StartError(f"weirgate ended at start with status {self.child.returncode}\n{self.log_tail()}")
            time.sleep(0.03)
        raise StartError(f"{path} is {self.get(path)} after {seconds} s\n{self.log_tail()}")
