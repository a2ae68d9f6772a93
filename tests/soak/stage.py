"""A fresh gateway with its broker and a service, and clients of it from many addresses."""
import multiprocessing
import pathlib
import socket
import tempfile
import threading
import time

from clients import small_socket, upgrade_request
from measures import deployed_environment
from processes import NatsServer, RedisServer, Weirgate, free_port
from tls import Authority, MemoryClient

ADDRESSES = 50


def serve_badly(pipe, big):
    """A service in a process of its own: reads no body, answers a path that ends in `big` with so many bytes, and anything else never."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=4_096)
    pipe.send(listener.getsockname()[1])
    kept = []

    def answer(link):
        while b"/big " in link.recv(2_048):
            link.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % big + bytes(big))
        kept.append(link)
    while True:
        link, _ = listener.accept()
        # What the kernel holds of a body that nobody reads is no memory of the gateway, but it would delay its end.
        link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        threading.Thread(target=answer, args=(link,), daemon=True).start()


class Stage:
    """What a state needs: `weirgate`, and `redis`, `nats` or the service if the gateway has one."""

    def __init__(self, state, stack):
        self.redis = self.nats = self.tls_port = None
        flags, env = list(state.flags), dict(deployed_environment())
        folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="weirgate-stage-")))
        if state.tls:
            authority = Authority(folder)
            self.authority, self.context, self.tls_port = authority, authority.context(), free_port()
            certificate, key = authority.sign("local", "IP:127.0.0.1", "DNS:localhost")
            flags += ["--tls-port", str(self.tls_port), "--tls-cert", str(certificate), "--tls-key", str(key)]
        if state.gateway == "events":
            ours, theirs = multiprocessing.Pipe()
            service = multiprocessing.Process(target=serve_badly, args=(theirs, state.answer_bytes), daemon=True)
            service.start()
            stack.callback(service.kill)
            url = f"http://127.0.0.1:{ours.recv()}"
            env |= {"MEASUREMENT_URL": url, "LOBBY_URL": url, "HTTP_TIMEOUT_SECONDS": "60"}
        elif state.gateway == "channels" and state.on_nats:
            self.nats = NatsServer()
            stack.callback(self.nats.discard)
            flags += ["--bus", self.nats.url]
        elif state.gateway in ("channels", "trades"):
            self.redis = RedisServer("--client-output-buffer-limit", "pubsub 0 0 0")
            stack.callback(self.redis.discard)
        if state.gateway == "channels":
            roles = folder / "roles.json"
            roles.write_text('{"user": ["%s"]}' % (">" if state.on_nats else "*"))
            flags += ["--acl", str(roles)]
        state.prepare(self)
        self.weirgate = Weirgate(state.gateway, *flags, redis=self.redis, env={**env, **state.env})
        self.port = self.weirgate.port
        stack.callback(self.weirgate.discard)
        self.weirgate.wait_for("/health" if state.gateway == "events" else "/ready")

    def plain(self, n, port=None, receive_bytes=None):
        """A connection from one of the addresses that has sent nothing."""
        link = small_socket(receive_bytes) if receive_bytes else socket.socket()
        link.settimeout(20)
        link.bind((f"127.1.0.{1 + n % ADDRESSES}", 0))
        link.connect(("127.0.0.1", port or self.port))
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return link

    def opened(self, n, path, extra=(), receive_bytes=None):
        """A WebSocket behind its 101 and what follows at once."""
        link = self.plain(n, receive_bytes=receive_bytes)
        link.sendall(upgrade_request(self.port, path, extra))
        assert read_head(link).startswith(b"HTTP/1.1 101")
        return link

    def opened_tls(self, n, path):
        """The same over TLS: a client whose bytes the state moves."""
        client = MemoryClient.on(self.plain(n, self.tls_port), self.context).greet()
        client.write(upgrade_request(self.tls_port, path))
        assert client.read_until(b"\r\n\r\n").startswith(b"HTTP/1.1 101")
        return client

    def kept(self, n, receive_bytes=None):
        """A connection of plain HTTP behind a request that was answered."""
        link = self.plain(n, receive_bytes=receive_bytes)
        link.sendall(b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n")
        head = read_head(link)
        assert head.startswith(b"HTTP/1.1 404"), head
        return link

    def publish(self, channel, bodies):
        """Publishes on Redis, many in one go."""
        with self.redis.client(60) as client:
            for at in range(0, len(bodies), 500):
                pipe = client.pipeline(transaction=False)
                for body in bodies[at:at + 500]:
                    pipe.publish(channel, body)
                pipe.execute()


def read_head(link):
    """An HTTP head and what came with it."""
    head = b""
    while b"\r\n\r\n" not in head:
        data = link.recv(65_536)
        assert data, f"ended behind {head[:200]!r}"
        head += data
    return head


def push_all(links, data, seconds=20):
    """Sends the same bytes, or those of `data(n)`, on all links as far as the kernel takes them."""
    left = {}
    for n, link in enumerate(links):
        link.setblocking(False)
        left[n] = memoryview(data(n) if callable(data) else data)
    end, still = time.monotonic() + seconds, 0
    while left and still < 10 and time.monotonic() < end:
        moved = 0
        for n, rest in list(left.items()):
            try:
                sent = links[n].send(rest)
            except BlockingIOError:
                continue
            except OSError:
                sent = len(rest)
            moved += sent
            if sent == len(rest):
                del left[n]
            else:
                left[n] = rest[sent:]
        still = 0 if moved else still + 1
        if not moved:
            time.sleep(0.1)
