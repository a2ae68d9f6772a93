"""`weirgate events` with tokens for devices: the handshake, event streams, the proxy, cuts, and new keys."""
import asyncio
import contextlib
import functools
import json
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request

import pytest
import tokens
import websockets
from processes import free_port, weirgate_binary
from prometheus import Metrics
from services import device, push
from waiting import until

SECRET = "thirty-two bytes of a test secret"
PUSH_TOKEN = "a-token-of-the-tests"
jwt = functools.partial(tokens.jwt, SECRET)
user_token = functools.partial(tokens.user_token, SECRET)


def http(weirgate, path, token=None, method="GET", **headers):
    """(status, headers, body) of a request to the proxy."""
    headers |= {"Authorization": f"Bearer {token}"} if token else {}
    request = urllib.request.Request(f"{weirgate.http_url}{path}", headers=headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, answer.headers, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read().decode()


class Upstream:
    """A service behind the proxy that answers each request with the token that came with it, a slow one after `release`."""

    def __init__(self):
        self.listener, self.release = socket.create_server(("127.0.0.1", 0)), threading.Event()
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self.heads = []
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            connection, _ = self.listener.accept()
            threading.Thread(target=self.serve, args=[connection], daemon=True).start()

    def serve(self, connection):
        with connection, contextlib.suppress(OSError):
            head = b""
            while b"\r\n\r\n" not in head:
                head += connection.recv(4096) or b"\r\n\r\n"
            self.heads.append(head.decode())
            if b"/slow" in head:
                self.release.wait(60)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")


@pytest.fixture
def upstream():
    one = Upstream()
    yield one
    one.release.set()
    one.listener.close()


@pytest.fixture
def gateway(start_weirgate, service, upstream):
    def start(*flags, **env):
        lobby = service(lambda asked: asked["client"]["device_id"])
        admin = free_port()
        env = {"JWT_SECRET": SECRET, "REQUIRE_AUTH": "true", "LOBBY_URL": lobby.url, "MEASUREMENT_URL": upstream.url, "SIMULATION_URL": upstream.url,
               "INTERNAL_AUTH_TOKEN": PUSH_TOKEN, **env}
        weirgate = start_weirgate("events", "--event-stream", "--admin-addr", f"127.0.0.1:{admin}", *flags, env=env).wait_for("/health")
        weirgate.admin = admin
        return weirgate
    return start


def admin(weirgate, path, body=None):
    request = urllib.request.Request(f"http://127.0.0.1:{weirgate.admin}{path}", data=body and json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=20) as answer:
        return answer.read().decode()


async def who(client):
    await client.send(json.dumps({"event": "lobby.who", "request_id": "1", "data": {}}))
    return json.loads(await asyncio.wait_for(client.recv(), 20))["data"]


def with_token(weirgate, token, **kwargs):
    return websockets.connect(f"ws://127.0.0.1:{weirgate.port}/ws", additional_headers={"Authorization": f"Bearer {token}"}, **kwargs)


async def closed(connecting):
    async with connecting as client:
        with pytest.raises(websockets.ConnectionClosed):
            await asyncio.wait_for(client.recv(), 20)
        return client.close_code, client.close_reason


async def test_the_user_of_a_token_is_the_device_at_each_door(gateway, upstream):
    weirgate = gateway()
    async with with_token(weirgate, user_token("ann")) as client, device(weirgate, f"ann&token={user_token('ann')}") as other, \
            websockets.connect(f"ws://127.0.0.1:{weirgate.port}/ws", subprotocols=["bearer", user_token("ann")]) as page:
        assert [await who(client), await who(other), await who(page)] == ["ann"] * 3
        assert page.subprotocol == "bearer"
        assert (await asyncio.to_thread(push, weirgate, "x", {}, "ann", port=weirgate.admin))[1] == {"sent": 3}
    failed = (1008, "Authentication failed")
    assert await closed(device(weirgate, "ann")) == failed
    assert await closed(device(weirgate, f"bob&token={user_token('ann')}")) == failed
    assert await closed(with_token(weirgate, tokens.user_token("another secret of thirty-two bytes", "ann"))) == failed
    stream = await asyncio.to_thread(lambda: subprocess.run(
        ["curl", "-sN", "--max-time", "3", "-H", "Accept: text/event-stream", f"{weirgate.http_url}/ws?device_id=ann"], capture_output=True, text=True).stdout)
    assert "1008" in stream and "Authentication failed" in stream, stream
    lines = [line for line in weirgate.lines_with("connection ended") if 'refusal="device"' in line]
    assert len(lines) == 1 and 'user="ann"' in lines[0], "whose token it was"
    numbers = Metrics(admin(weirgate, "/metrics"))
    refused = {have["reason"]: value for name, have, value in numbers.samples if name == "weirgate_auth_refusals_total" and value}
    assert refused == {"missing": 2, "device": 1, "signature": 1}


async def test_the_proxy_asks_for_the_same_token(gateway, upstream):
    weirgate = gateway()
    for path in ["/v1/jobs/1", "/v1/measurement/x", "/v1/simulation/x"]:
        status, headers, body = await asyncio.to_thread(http, weirgate, path)
        assert (status, headers["WWW-Authenticate"], body) == (401, "Bearer", '{"detail":"Authentication failed"}')
        assert (await asyncio.to_thread(http, weirgate, path, user_token("ann")))[0] == 200
        assert (await asyncio.to_thread(http, weirgate, f"{path}?token={user_token('ann')}"))[0] == 200
    assert (await asyncio.to_thread(http, weirgate, "/v1/jobs/1", jwt(sub="ann", exp=1)))[0] == 401
    soon = jwt(sub="ann", nbf=int(time.time()) + 60)
    status, headers, body = await asyncio.to_thread(http, weirgate, "/v1/jobs/1", soon)
    assert (status, body) == (503, '{"detail":"Token is not valid yet"}') and 50 <= int(headers["Retry-After"]) <= 60
    assert len(upstream.heads) == 6, "no other has reached a service"
    # A browser asks first, without a token; and pages about the process are no service's.
    preflight = {"Origin": "https://a.example", "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    assert (await asyncio.to_thread(functools.partial(http, weirgate, "/v1/jobs/1", method="OPTIONS", **preflight)))[0] == 204
    assert weirgate.get("/healthz")[0] == 200
    numbers = Metrics(admin(weirgate, "/metrics"))
    assert numbers.sum("weirgate_proxy_requests_total", outcome="bad_token") == 5


async def test_the_service_gets_no_token_that_was_not_judged(gateway, upstream):
    weirgate = gateway()
    mine, other = user_token("ann"), tokens.user_token("another secret of thirty-two bytes", "admin")

    def ask(path, *lines):
        with socket.create_connection(("127.0.0.1", weirgate.port), 20) as link:
            link.sendall("\r\n".join([f"GET {path} HTTP/1.1", "Host: a", "Connection: close", *lines, "", ""]).encode())
            return int(link.makefile("rb").readline().split()[1])
    bearer = "Authorization: Bearer "
    for path, *lines in [("/v1/jobs/1?token=" + mine, bearer + other), ("/v1/jobs/1", bearer + mine, bearer + other), (f"/v1/jobs/1?token={other}&token={mine}",),
                         ("/v1/jobs/1", "Authorization: Basic eDp5", bearer + mine)]:
        assert await asyncio.to_thread(ask, path, *lines) == 401, (path, lines)
    assert upstream.heads == []
    assert await asyncio.to_thread(ask, "/v1/jobs/1?token=" + mine, bearer + mine) == 200, "one token twice"
    assert 'weirgate_auth_refusals_total{reason="two_tokens"} 4' in admin(weirgate, "/metrics")


async def test_a_cut_reaches_a_device_at_every_door(gateway, upstream):
    """Connected, in the middle of a request, and when it comes back."""
    weirgate = gateway()
    ann, bob = user_token("ann", jti="7"), user_token("bob", jti="8")
    slow = asyncio.create_task(asyncio.to_thread(lambda: subprocess.run(
        ["curl", "-s", "--max-time", "30", "-H", f"Authorization: Bearer {ann}", f"{weirgate.http_url}/v1/jobs/slow"], capture_output=True).returncode))
    await until(lambda: any("/slow" in head for head in upstream.heads), 20, "a request in progress")
    async with with_token(weirgate, ann) as client, with_token(weirgate, bob) as other:
        assert await who(client) == "ann" and await who(other) == "bob"
        assert json.loads(await asyncio.to_thread(admin, weirgate, "/operator/disconnect", {"user": "ann"}))["disconnected"] == 1
        with pytest.raises(websockets.ConnectionClosed):
            await asyncio.wait_for(client.recv(), 20)
        assert (client.close_code, client.close_reason) == (1008, "revoked")
        assert await slow != 0, "the request ends without an answer"
        assert await who(other) == "bob"
        assert await closed(with_token(weirgate, ann)) == (1008, "revoked")
        status, _, body = await asyncio.to_thread(http, weirgate, "/v1/jobs/1", ann)
        assert (status, body) == (403, '{"detail":"revoked"}')
        assert (await asyncio.to_thread(http, weirgate, "/v1/jobs/1", bob))[0] == 200
        await asyncio.to_thread(admin, weirgate, "/operator/disconnect", {"jti": "8"})
        with pytest.raises(websockets.ConnectionClosed):
            await asyncio.wait_for(other.recv(), 20)
        assert (await asyncio.to_thread(http, weirgate, "/v1/jobs/1", bob))[0] == 403
        assert await closed(with_token(weirgate, bob)) == (1008, "revoked")
        assert (await asyncio.to_thread(http, weirgate, "/v1/jobs/1", user_token("bob", jti="9")))[0] == 200


async def test_devices_with_and_without_tokens_are_there_at_once(gateway):
    weirgate = gateway(REQUIRE_AUTH="")
    assert weirgate.lines_with("a device without a good token still names itself")
    async with with_token(weirgate, user_token("ann")) as ann, device(weirgate, "bob") as bob, device(weirgate, f"cid&token={jwt(sub='cid', exp=1)}") as cid:
        assert [await who(client) for client in (ann, bob, cid)] == ["ann", "bob", "cid"]
        users = {row["user"] for row in json.loads(admin(weirgate, "/operator/clients?address=127.0.0.1"))["clients"]}
        assert len(users) == 3 and "ann" in users and all(user == "ann" or user.startswith("sha256:") for user in users), users
    assert (await asyncio.to_thread(http, weirgate, "/v1/jobs/1"))[0] == 200


async def test_a_connection_ends_with_its_token_and_new_secrets_count_at_once(gateway, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text(SECRET)
    weirgate = gateway(JWT_SECRET="", JWT_SECRET_FILE=str(secret))
    token = user_token("ann", lives_s=8)
    async with with_token(weirgate, token) as client, with_token(weirgate, user_token("bob")) as other:
        assert await who(client) == "ann"
        with pytest.raises(websockets.ConnectionClosed):
            await asyncio.wait_for(client.recv(), 30)
        assert (client.close_code, client.close_reason) == (1008, "Authentication failed")
        next_secret = "another secret of thirty-two bytes"
        secret.write_text(next_secret)
        new = tokens.user_token(next_secret, "cid")
        await until(lambda: http(weirgate, "/v1/jobs/1", new)[0] == 200, 20, "the new secret")
        async with with_token(weirgate, new) as late:
            assert await who(late) == "cid"
        assert await closed(with_token(weirgate, user_token("bob"))) == (1008, "Authentication failed")
        assert await who(other) == "bob", "an open connection ends with its own token"


def test_inspect_judges_as_the_gateway_does():
    def inspect(token):
        ran = subprocess.run([weirgate_binary(), "token", "inspect", "--gateway", "events", token], env={"JWT_SECRET": SECRET}, text=True, capture_output=True)
        return ran.returncode, ran.stdout + ran.stderr
    status, text = inspect(user_token("ann"))
    assert status == 0 and "ann" in text and "gateway:  events" in text, text
    status, text = inspect(jwt(role="user"))
    assert status == 1 and "[device]" in text, text


def test_a_check_fails_if_nobody_could_come():
    ran = subprocess.run([weirgate_binary(), "events", "--check"], env={"REQUIRE_AUTH": "true"}, text=True, capture_output=True)
    assert ran.returncode == 2 and "nobody can connect" in ran.stdout + ran.stderr
