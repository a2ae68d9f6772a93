#!/usr/bin/env python3
"""Keys and secrets rotate under clients in both languages, beside a stranger with odd key ids: nobody is closed for good.

    rotation.py [--seconds 600] [--clients 100] [--every 40]

Three gateways of channels: one reads its keys from a URL, one from a file, and one has a secret, with which it is started anew.
Tokens live for half a minute, and the newest key signs from the moment that it is published. Exit status 1 if a client was
closed for good, or is not open in the end.
"""
import argparse
import asyncio
import base64
import collections
import contextlib
import json
import pathlib
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests" / "rig"), str(ROOT / "clients" / "python" / "src")]

import websockets
import weirgate as clients_of_weirgate
from identity_provider import KeySetServer, SigningKey
from processes import RedisServer, StartError, Weirgate, node_binary
from tokens import jwt

KINDS = ["url", "file", "secret"]
TOKEN_S = 30
# So many keys are published: of those that a valid token may have, and one more.
PUBLISHED = 3
# The next fetch of keys may be a minute away, and the growing waits of a client half a minute.
SETTLES_S = 150


class Keys:
    """The keys and secrets in force, and tokens of the newest."""

    def __init__(self, folder):
        self.folder, self.file, self.number = folder, folder / "keys.json", 0
        self.kept = {"url": [], "file": []}
        self.server = KeySetServer()
        self.secret, self.before, self.signs = secrets.token_hex(32), secrets.token_hex(32), None
        self.signs = self.secret
        self.rotate()

    def rotate(self):
        """The next keys, published and signing at once; numbered, so that a stranger may guess what comes."""
        self.number += 1
        for kind, kept in self.kept.items():
            kept[:] = [*kept, SigningKey(self.folder, f"{kind}-{self.number}")][-PUBLISHED:]
        self.server.keys[:] = self.kept["url"]
        self.file.with_suffix(".next").write_text(json.dumps({"keys": [key.jwk for key in self.kept["file"]]}))
        self.file.with_suffix(".next").rename(self.file)

    def token(self, kind):
        """A new token of the newest key."""
        claims = {"role": "user", "sub": "ann", "jti": secrets.token_hex(8), "exp": int(time.time()) + TOKEN_S}
        if kind != "secret":
            return self.kept[kind][-1].token(**claims)
        return jwt(self.signs, **claims)


def token_server(keys):
    """The URL of a server that gives a token of each kind to everybody."""
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            KeySetServer.send(self, 200, keys.token(self.path.strip("/")).encode())

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_address[1]}"


class Gateways:
    """A gateway of each kind; the one with a secret starts anew on its port."""

    def __init__(self, folder, keys, redis):
        (folder / "roles.json").write_text('{"user": ["*"]}')
        self.keys, self.redis, self.running = keys, redis, {}
        self.flags = ["--acl", str(folder / "roles.json"), "--drain-ms", "500"]
        self.start("url", JWT_JWKS_URL=keys.server.url)
        self.start("file", JWT_JWKS_FILE=str(keys.file))
        self.start("secret", JWT_SECRET=keys.secret)

    def start(self, kind, **env):
        if kind in self.running:
            env["REDIS_WS_GATEWAY_PORT"] = str(self.running[kind].listens_at)
        gateway = Weirgate("channels", *self.flags, redis=self.redis, env={"REQUIRE_AUTH": "true", **env})
        gateway.http_url = f"http://127.0.0.1:{gateway.listens_at}"
        self.running[kind] = gateway.wait_ready()

    def url(self, kind):
        return f"ws://127.0.0.1:{self.running[kind].listens_at}/ws"

    def new_secret(self):
        """As docs/reference/tokens.md says: the gateway knows both before the new one signs."""
        self.running["secret"].send(signal.SIGTERM)
        self.running["secret"].wait(20)
        self.keys.before, self.keys.secret = self.keys.secret, secrets.token_hex(32)
        self.start("secret", JWT_SECRET=self.keys.secret, JWT_SECRET_BEFORE=self.keys.before)
        self.keys.signs = self.keys.secret

    def discard(self):
        for gateway in self.running.values():
            gateway.discard()


class PythonClients:
    """Clients in Python, on this event loop."""

    def __init__(self, count, keys, gateways):
        self.closed, self.messages, self.longest_ms = [], 0, 0
        self.heard = [time.monotonic()] * count
        self.clients = [self.client(n, KINDS[n % len(KINDS)], keys, gateways) for n in range(count)]

    def client(self, n, kind, keys, gateways):
        def note(status):
            if status == "closed":
                self.closed.append(f"{kind}: {client.last_close}")

        def take(*_):
            now = time.monotonic()
            self.messages, self.longest_ms = self.messages + 1, max(self.longest_ms, round(1000 * (now - self.heard[n])))
            self.heard[n] = now

        client = clients_of_weirgate.Channels(gateways.url(kind), token=lambda *_: asyncio.to_thread(keys.token, kind), on_status=note)
        client.subscribe("news", take)
        return client

    def outcome(self):
        return {"closed": list(self.closed), "last": dict(collections.Counter(client.status for client in self.clients)),
                "longest_ms": self.longest_ms, "messages": self.messages}


def odd_token(keys):
    """A token that nobody signed, with a key id that is odd, or the one that comes next."""
    kid = secrets.choice([f"url-{keys.number + 1}", f"file-{keys.number + 1}", "", secrets.token_hex(8), "x" * 2000, "\u202e\x1b[2J", 7, None, f"url-{keys.number}"])
    head = {"alg": secrets.choice(["RS256", "ES256", "EdDSA", "HS256", "none"]), "kid": kid}
    parts = [json.dumps(head).encode(), json.dumps({"exp": int(time.time()) + 60}).encode(), secrets.token_bytes(256)]
    return ".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in parts)


async def stranger(keys, gateways):
    """Two such tokens a second, at each gateway."""
    while True:
        for kind in KINDS:
            with contextlib.suppress(OSError, websockets.WebSocketException, TimeoutError):
                async with asyncio.timeout(5), websockets.connect(f"{gateways.url(kind)}?token={odd_token(keys)}") as client:
                    await client.recv()
        await asyncio.sleep(0.5)


async def publish(redis):
    """A message a second."""
    while True:
        await asyncio.to_thread(redis.publish, "news", "1")
        await asyncio.sleep(1)


async def rotate(keys, gateways, seconds, every):
    """Rotations until the time is over, the last so early that all have settled; the number of rotations."""
    end = time.monotonic() + seconds
    number = 0
    while time.monotonic() + every + SETTLES_S < end or number == 0:
        await asyncio.sleep(every)
        await asyncio.to_thread(keys.rotate)
        await asyncio.to_thread(gateways.new_secret)
        number += 1
    await asyncio.sleep(max(SETTLES_S, end - time.monotonic()))
    return number


async def run(folder, seconds, count, every):
    """(rotations, what came of the clients by language)"""
    with contextlib.ExitStack() as stack:
        keys = Keys(folder)
        stack.callback(keys.server.stop)
        redis = RedisServer()
        stack.callback(redis.discard)
        gateways = Gateways(folder, keys, redis)
        stack.callback(gateways.discard)
        urls = [f"{kind}={gateways.url(kind)}" for kind in KINDS]
        script = [node_binary(), ROOT / "tests/soak/rotation_clients.mjs", str(count // 2), token_server(keys), *urls]
        node = stack.enter_context(subprocess.Popen(script, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
        stack.callback(node.kill)
        ours = PythonClients(count - count // 2, keys, gateways)
        others = [asyncio.create_task(stranger(keys, gateways)), asyncio.create_task(publish(redis.client()))]
        rotations = await rotate(keys, gateways, seconds, every)
        said, _ = await asyncio.to_thread(node.communicate)
        outcomes = {"JavaScript": json.loads(said), "Python": ours.outcome()}
        for task in others:
            task.cancel()
        for client in ours.clients:
            await client.close()
        return rotations, outcomes


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--every", type=float, default=40, help="seconds between two rotations")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="weirgate-rotation-") as name:
        rotations, outcomes = asyncio.run(run(pathlib.Path(name), args.seconds, args.clients, args.every))
    wrong = False
    for language, outcome in outcomes.items():
        wrong |= bool(outcome["closed"]) or set(outcome["last"]) != {"open"}
        print(f"rotation: {language}: {len(outcome['closed'])} closed for good, in the end {outcome['last']}, {outcome['messages']} messages, "
              f"longest silence of a client {outcome['longest_ms'] / 1000:.0f} s")
        for text in outcome["closed"][:10]:
            print(f"rotation: CLOSED {text}")
    print(f"rotation: {rotations} rotations of keys and secrets under {args.clients} clients: {'WRONG' if wrong else 'good'}")
    return int(wrong)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except StartError as error:
        sys.exit(f"rotation: {error}")
