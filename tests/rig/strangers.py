"""Strangers at a gateway, who put secrets and hostile texts wherever they may write: clients, services, programs on the bus."""
import asyncio
import contextlib
import json
import socket
import struct
import urllib.parse

from clients import TEXT, client_frame
from marks import BYTES, STEERING, device_id, hostile, hostile_bytes, secret
from scan_settings import token

PATIENCE_S = 5
# Messages of a publisher in one go.
AT_ONCE = 10
BINARY, CLOSE, PING = 2, 8, 9
# What a line of a head may have beside letters; the rest ends the request.
TAME = [text for text in STEERING if all(" " <= c <= "~" or c == "\t" for c in text)]


def steady(rng, rate=0.7):
    """A hostile text for a head, mostly one that does not end the request."""
    return hostile(rng, TAME) if rng.random() < rate else hostile(rng)


def query(rng, world):
    """Parameters of a client, each of them a secret, or what a log shows a hash of."""
    values = {"token": secret(rng), "userId": secret(rng) + hostile(rng), "device_id": device_id(rng),
              "max_hz": hostile(rng), "send": json.dumps({"action": "subscribe", "channels": [hostile(rng)[:100]], "symbols": [hostile(rng)[:10]]}), "since": hostile(rng)}
    if world.jwt_secret:
        values["token"] = token(rng, rng.choice([world.jwt_secret] * 3 + [secret(rng)]), sub=hostile(rng), role=rng.choice(["user", "user", hostile(rng)]), **rng.choice([{}, {"aud": hostile(rng)}]))
    kept = rng.sample(sorted(values), rng.randint(1, len(values)))
    if world.jwt_secret and rng.random() < 0.7 and "token" not in kept:
        kept.append("token")
    return urllib.parse.urlencode({name: values[name] for name in kept})


def headers(rng, world):
    """Lines of a head that a stranger may write."""
    lines = {
        "Authorization": rng.choice([f"Bearer {secret(rng, odd=False)}", f"Basic {secret(rng, odd=False)}"]),
        "Cookie": f"session={secret(rng)}", "X-Api-Key": secret(rng), "X-Internal-Token": secret(rng, odd=False),
        "X-Forwarded-For": ", ".join([steady(rng), rng.choice(["203.0.113.7", '"[2001:db8::1]:80"', "[fe80::1%" + steady(rng) + "]"]), rng.choice(["", steady(rng)])]),
        "Forwarded": f'for="{steady(rng)}";by={steady(rng)}', "User-Agent": steady(rng), "Origin": f"https://{steady(rng)}", "Referer": f"https://h/?{secret(rng, odd=False)}",
        "traceparent": f"00-{'1' * 32}-{'2' * 16}-01", "tracestate": steady(rng), "X-Request-Id": steady(rng), "Accept": steady(rng), "Via": steady(rng),
        "Last-Event-ID": steady(rng), "Sec-WebSocket-Extensions": steady(rng),
    }
    kept = rng.sample(sorted(lines), rng.randint(0, 6))
    return "".join(f"{name}: {lines[name]}\r\n" for name in kept)


def head(rng, world, method, path, more=""):
    """A request's head as bytes, perhaps with bytes that are no UTF-8."""
    text = f"{method} {path} HTTP/1.1\r\nHost: {rng.choice(['h', steady(rng, 0.98)])}\r\n{more}{headers(rng, world)}\r\n".encode()
    if rng.random() < 0.05:
        text = text.replace(b"HTTP/1.1", rng.choice(BYTES), 1)
    return text


def messages(rng, world):
    """What a client says: requests with hostile names, other JSON, no JSON, frames against the rules."""
    said = hostile(rng)
    requests = {
        "channels": {"action": rng.choice(["subscribe", "unsubscribe", said]), "channels": [f"scan:{said}"[:400], rng.choice(["scan:*", "scan.>", "scan:one"])], "requestId": said},
        "trades": {"action": rng.choice(["subscribe", "subscribe_candles", said]), "symbols": ["ABC", said[:10]], "interval": rng.choice(["1m", said])},
        "events": {"event": rng.choice(["lobby.a", "measurement.create_job", "simulation.run", "identify", said]), "request_id": said, "data": {"device_id": device_id(rng), "text": secret(rng)}},
        "levels": {"action": said},
    }
    text = json.dumps(requests[world.gateway], ensure_ascii=rng.random() < 0.5).encode()
    return rng.choice([
        client_frame(TEXT, text), client_frame(TEXT, text), client_frame(TEXT, text), client_frame(TEXT, hostile(rng).encode()), client_frame(TEXT, hostile_bytes(rng)),
        client_frame(BINARY, hostile_bytes(rng)), client_frame(PING, hostile_bytes(rng)[:125]), client_frame(11, b"x"), hostile_bytes(rng),
    ])


async def exchange(world, data, rng, then=()):
    """Sends bytes on a connection of its own, some more after each answer, and ends the connection in one way or another."""
    source = f"127.0.0.{rng.randint(1, 250)}"
    with contextlib.suppress(OSError, asyncio.TimeoutError, asyncio.IncompleteReadError):
        reader, writer = await asyncio.open_connection("127.0.0.1", world.port, local_addr=(source, 0))
        try:
            writer.write(data)
            for more in then:
                await asyncio.wait_for(reader.read(65_536), PATIENCE_S)
                writer.write(more)
            if rng.random() < 0.8:
                await asyncio.wait_for(reader.read(65_536), 0.5)
        finally:
            if rng.random() < 0.2:
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.close()


def websocket(rng, world):
    """A handshake with secrets in it, and messages behind it."""
    path = rng.choice([world.path] * 5 + [f"/{urllib.parse.quote(hostile(rng))[:200]}", f"/{steady(rng, 0)}"])
    more = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    if rng.random() < 0.1:
        more = more.replace("Upgrade: websocket\r\n", "")
    if rng.random() < 0.3:
        more += f"Sec-WebSocket-Protocol: bearer, {secret(rng, odd=False)}\r\n"
    begin = head(rng, world, "GET", f"{path}?{query(rng, world)}", more)
    then = [messages(rng, world) for _ in range(rng.randint(0, 4))]
    reason = hostile(rng).encode()[:120]
    then.append(client_frame(CLOSE, struct.pack(">H", rng.choice([1000, 1001, 4001, 999, 5000])) + reason))
    return begin, then


def plain(rng, world):
    """A request of HTTP: pages, the proxy, pushes, none at all."""
    path = rng.choice(["/metrics", "/v1/jobs/a", "/v1/simulation/b", "/v1/measurement/c", f"/v1/jobs/{urllib.parse.quote(hostile(rng))}", "/internal/broadcast",
                       f"/{urllib.parse.quote(hostile(rng))[:300]}", f"/{steady(rng, 0)}", "/ws/stream", "/ws", "//x", "*"])
    method = rng.choice(["GET", "GET", "POST", "DELETE", hostile(rng, TAME)[:20]])
    body = json.dumps({"event": hostile(rng), "data": {"a": secret(rng)}, "targets": {"device_ids": [device_id(rng)]}}).encode()
    more = ""
    if "broadcast" in path and world.service_token and rng.random() < 0.5:
        more = f"X-Internal-Token: {world.service_token}\r\n"
    if rng.random() < 0.3:
        more += f"Accept: text/event-stream\r\nContent-Type: {steady(rng)}\r\n"
    if method != "GET":
        more += rng.choice([f"Content-Length: {len(body)}\r\n", f"Content-Length: {steady(rng)}\r\n", "Transfer-Encoding: chunked\r\n"])
    begin = head(rng, world, method, f"{path}?{query(rng, world)}", more)
    return begin + (body if method != "GET" else b""), []


async def visit(rng, world):
    """A stranger, in one way or another."""
    begin, then = rng.choice([websocket, websocket, plain])(rng, world)
    if rng.random() < 0.05:
        begin = hostile_bytes(rng) + b"\r\n\r\n"
    await exchange(world, begin, rng, then)


def payload(rng):
    """What a publisher sends: seldom good."""
    text = hostile(rng)
    return rng.choice([hostile_bytes(rng), hostile_bytes(rng), json.dumps({"a": text}).encode(), json.dumps({"a": text}, ensure_ascii=False).encode()[:-1],
                       json.dumps([text]).encode(), b"[" * 600 + text.encode(), b'{"price":1,"volume":1,"timestamp":"' + text.encode() + b'"}', b""])


async def publish(rng, world, redis, nats):
    """Messages on the bus, with hostile names where the bus allows them."""
    if world.bus == "redis":
        pipeline = redis.pipeline(transaction=False)
        for _ in range(AT_ONCE):
            pipeline.publish(redis_name(rng), payload(rng))
        await pipeline.execute()
        return
    for _ in range(AT_ONCE):
        word = "".join(c for c in hostile(rng) if c > " " and c not in "*>.\x7f")[:200]
        name = rng.choice(["market.flow", "levels.signals", "scan.one", f"scan.{word}"])
        await nats.publish(name, payload(rng), headers=rng.choice([None, {"X-Scan": hostile(rng, ["x", "\u202e", "🙂"])}]))
    await nats.flush()


def redis_name(rng):
    """A channel of what the gateways read, and of the marks and pushes between instances."""
    return rng.choice([b"channel:trade:ABC", b"scan:one", b"channel:trade:" + hostile_bytes(rng)[:300], b"scan:" + hostile_bytes(rng)[:300],
                       b"weirgate.events", b"weirgate:history"])


class Service:
    """An HTTP service that answers with hostile texts, broken heads, and secrets in what nobody may log."""

    def __init__(self, rng):
        self.rng, self.server = rng, None

    async def start(self):
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        return f"http://127.0.0.1:{self.server.sockets[0].getsockname()[1]}"

    async def serve(self, reader, writer):
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, asyncio.TimeoutError):
            while await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE_S):
                writer.write(self.answer())
                await writer.drain()
                if self.rng.random() < 0.5:
                    break
        writer.close()

    def answer(self):
        rng = self.rng
        body = rng.choice([json.dumps({"detail": secret(rng) + hostile(rng)}), json.dumps({"a": secret(rng)}), secret(rng) + hostile(rng), ""]).encode() + rng.choice([b"", BYTES[0]])
        lines = {"Content-Type": rng.choice(["application/json", "text/html", steady(rng)]), "Location": f"{rng.choice(['', 'http://ann:' + secret(rng, odd=False) + '@h', '//h'])}/{steady(rng, 0.9)}?{secret(rng)}",
                 "Content-Encoding": rng.choice(["gzip", steady(rng)]), "Set-Cookie": secret(rng), "X-Any": steady(rng, 0.9), "Server": steady(rng)}
        kept = rng.sample(sorted(lines), rng.randint(0, 3))
        status = rng.choice(["200 OK", "200 OK", "302 Found", "307 x", "404 " + steady(rng), "500 x", "204 x", steady(rng), "599 " + hostile(rng)])
        text = f"HTTP/1.1 {status}\r\n" + "".join(f"{name}: {lines[name]}\r\n" for name in kept)
        length = rng.choice([f"Content-Length: {len(body)}\r\n"] * 3 + ["Transfer-Encoding: chunked\r\n", f"Content-Length: {steady(rng)}\r\n", ""])
        return rng.choice([text.encode() + length.encode() + b"\r\n" + body] * 9 + [hostile_bytes(rng)])
