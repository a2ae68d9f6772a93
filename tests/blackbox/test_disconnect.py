"""An operator cuts clients off: `POST /operator/disconnect`, `weirgate disconnect`, `--revoked-file`."""
import asyncio
import functools
import json
import pathlib
import random
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request

import pytest
import tokens
import websockets
from processes import free_port, weirgate_binary
from waiting import patient, until

SECRET = "thirty-two bytes of a test secret"
CUT = (1008, "revoked")
DAY_S = 24 * 60 * 60


jwt = functools.partial(tokens.jwt, SECRET)
user_token = functools.partial(tokens.user_token, SECRET)


class Gateway:
    def __init__(self, start_weirgate, kind, *flags, **env):
        self.admin = free_port()
        env = {"REQUIRE_AUTH": "true", "JWT_SECRET": SECRET, "REDIS_URL": "redis://127.0.0.1:1", **env}
        self.weirgate = start_weirgate(kind, "--admin-addr", f"127.0.0.1:{self.admin}", *flags, env=env).wait_for("/health")
        self.path = "/ws" if kind == "channels" else "/"

    def post(self, body, path="/operator/disconnect", **headers):
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.admin}{path}", data=body, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())

    def get(self, path):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin}{path}", timeout=10) as answer:
            return answer.read().decode()

    def state(self):
        return json.loads(self.get("/operator/state"))

    def count(self, name):
        lines = [line for line in self.get("/metrics").splitlines() if line.startswith(name)]
        return float(lines[0].split()[-1]) if lines else 0

    def connect(self, token, more="", **kwargs):
        token = f"?token={token}" if token else "?"
        return websockets.connect(f"ws://127.0.0.1:{self.weirgate.port}{self.path}{token}{more}", **kwargs)

    async def refused(self, token, **kwargs):
        """Whether a connection with this token is closed as one that was cut off."""
        async with self.connect(token, **kwargs) as client:
            try:
                return json.loads(await asyncio.wait_for(client.recv(), 60))["type"] not in ("connected", "success")
            except websockets.ConnectionClosed:
                assert (client.close_code, client.close_reason) == CUT
                return True


async def gone(client, seconds=1):
    with pytest.raises(websockets.ConnectionClosed):
        while True:
            await asyncio.wait_for(client.recv(), patient(seconds))
    return client.close_code, client.close_reason


@pytest.fixture
def gateway(start_weirgate):
    return lambda kind="channels", *flags, **env: Gateway(start_weirgate, kind, *flags, **env)


async def test_one_of_many_users_is_gone_within_a_second_and_back_nowhere(gateway, redis_server):
    """All come and go, resume and renew."""
    channels = gateway("channels", "--event-stream", "--history-ms", "60000", "--history-names", "a",
                       REDIS_URL=f"redis://127.0.0.1:{redis_server.port}", DEFAULT_ROLE="admin")
    users, closes, opened, ends = [f"u{n}" for n in range(30)], [], [], time.monotonic() + 8
    token = lambda user: jwt(sub=user, role="admin", iat=int(time.time()), exp=int(time.time()) + 600)
    answered_at = gone_after = None
    revoked = 'weirgate_client_closes_total{reason="revoked"}'

    async def live(user, at):
        """Comes, subscribes with the last position, renews, leaves; again."""
        rand, since = random.Random(at), None
        while time.monotonic() < ends:
            began = time.monotonic()
            try:
                async with channels.connect(token(user)) as client:
                    await asyncio.wait_for(client.recv(), 60)
                    opened.append((user, began))
                    await client.send(json.dumps({"action": "subscribe", "channels": ["a"], **({"since": since} if since else {})}))
                    until_ = time.monotonic() + rand.random() * 2
                    while time.monotonic() < until_:
                        await client.send(json.dumps({"action": "authenticate", "token": token(user)}))
                        message = {}
                        while message.get("type") != "authenticated":
                            message = json.loads(await asyncio.wait_for(client.recv(), 60))
                            since = message.get("pos", since)
                        await asyncio.sleep(1.05)
            except websockets.ConnectionClosed as closed:
                closes.append((user, closed.rcvd.code if closed.rcvd else None))
                await asyncio.sleep(0.1)

    def post():
        """By what the gateway counts: on a busy machine the clients are late to read."""
        nonlocal answered_at, gone_after
        cut_at = time.monotonic()
        answer = channels.post({"user": "u7"})
        answered_at = time.monotonic()
        while channels.count(revoked) < 1 and time.monotonic() < cut_at + patient(5):
            time.sleep(0.02)
        gone_after = time.monotonic() - cut_at
        return answer

    async def cut():
        await asyncio.sleep(2.5)
        status, answer = await asyncio.to_thread(post)
        assert status == 200 and 1 <= answer["disconnected"] <= 4, answer
        until_ = answer["refused"].pop("until")
        assert answer["refused"] == {"user": "u7"} and abs(until_ - time.time() - DAY_S) < 60, answer
    await asyncio.gather(cut(), *(live(user, n) for user in users for n in range(4)))
    assert set(closes) == {("u7", 1008)}
    assert max(began for user, began in opened if user == "u7") < answered_at, "who comes after the answer is refused"
    assert gone_after < patient(1), "gone within a second"
    assert channels.count(revoked) >= 1
    assert channels.count('weirgate_auth_refusals_total{reason="revoked"}') >= len(closes) - 8
    # Every other door.
    body = subprocess.run(["curl", "-sN", "--max-time", "3", "-H", "Accept: text/event-stream",
                           f"http://127.0.0.1:{channels.weirgate.port}/ws?token={token('u7')}"], capture_output=True, text=True).stdout
    assert "1008" in body and "revoked" in body and "connected" not in body, body
    async with channels.connect(token("u1")) as other:
        await other.recv()
        await other.send(json.dumps({"action": "authenticate", "token": token("u7")}))
        assert json.loads(await other.recv())["error"] == "revoked"
        await other.send('{"action":"ping"}')
        assert json.loads(await other.recv())["type"] == "pong"
    assert await channels.refused(jwt(sub="u7", role="user", iat=int(time.time()) - 600, exp=int(time.time()) + 600)), "an old one that nobody saw"
    assert channels.post({"user": "u7"}, path="/operator/allow") == (200, {"was_refused": True})
    assert not await channels.refused(user_token("u7"))


async def test_each_condition_chooses_its_own(gateway):
    channels = gateway(FORWARDED_ALLOW_IPS="127.0.0.1")
    at = {"additional_headers": {"X-Forwarded-For": "192.0.2.9"}}
    tokens = [user_token("ann", jti="a1"), user_token("ann", jti="a2"), user_token("bob", jti="b1")]
    ann, ann_far, bob = clients = [await channels.connect(tokens[0]), await channels.connect(tokens[1], **at), await channels.connect(tokens[2])]
    guest = await channels.connect(jwt(sub="gus", role="admin"))
    for client in [*clients, guest]:
        assert json.loads(await client.recv())["type"] == "connected"
    assert channels.post({"user": "ann", "jti": "b1"})[1] == {"disconnected": 0, "refused": {"user": "ann", "jti": "b1",
                                                              "until": channels.state()["revoked_newest"][0]["until"]}}
    assert channels.post({"role": "admin"})[1] == {"disconnected": 1, "refused": None}
    assert await gone(guest) == CUT
    assert not await channels.refused(jwt(sub="gus", role="admin")), "comes back under a new table"
    assert channels.post({"user": "ann", "address": "192.0.2.9"})[1]["disconnected"] == 1
    assert await gone(ann_far) == CUT
    assert await channels.refused(tokens[1], **at) and not await channels.refused(tokens[1])
    assert channels.post({"jti": "a1"})[1]["disconnected"] == 1
    assert await gone(ann) == CUT
    assert await channels.refused(tokens[0]) and not await channels.refused(user_token("ann", jti="a3"))
    # A connection, as the page shows it: its token is refused, and nothing else.
    await bob.send('{"action":"ping"}')

    async def session():
        while True:
            survey = channels.state()["survey"] or {"busiest": []}
            found = [client["session"] for client in survey["busiest"] if client["user"] == "bob"]
            if found:
                return found[0]
            await bob.send('{"action":"ping"}')
            await asyncio.sleep(0.3)
    answer = channels.post({"session": await asyncio.wait_for(session(), 60)})[1]
    assert answer["disconnected"] == 1 and list(answer["refused"]) == ["token", "until"], answer
    assert await gone(bob) == CUT
    assert await channels.refused(tokens[2]) and not await channels.refused(user_token("bob", jti="b2"))
    state = channels.state()
    assert state["revoked"] == 4 and state["revoked_newest"][0] == answer["refused"]
    shown = subprocess.run([weirgate_binary(), "top", "--once", f"127.0.0.1:{channels.admin}"], capture_output=True, text=True).stdout
    assert "Cut off  revoked 4" in shown and "a1" in shown.split("CUT OFF")[1], shown
    assert channels.post({"token": answer["refused"]["token"]}, path="/operator/allow")[1] == {"was_refused": True}
    assert not await channels.refused(tokens[2])


async def test_bad_requests_change_nothing(gateway):
    channels = gateway()
    token = user_token("ann")
    client = await channels.connect(token)
    await client.recv()
    for body in [b"", b"{}", b"[]", b'{"until":5}', b'{"usr":"ann"}', b'{"user":""}', b'{"address":"nowhere"}', b'{"user":7}', b"{" * 20_000]:
        status, answer = channels.post(body)
        assert status == 400 and answer["detail"], (body[:30], status, answer)
    for body in [b"", b"{}", b'{"role":"guest"}', b'{"session":"1-1"}', b'{"user":"ann","until":1999999999}', b'{"usr":"ann"}']:
        status, answer = channels.post(body, path="/operator/allow")
        assert status == 400 and answer["detail"], (body, status, answer)
    for headers in [{"Origin": "https://elsewhere.example"}, {"Sec-Fetch-Site": "cross-site"}, {"Host": "elsewhere.example"}]:
        for path in ["/operator/disconnect", "/operator/allow"]:
            assert channels.post({"user": "ann"}, path, **headers)[0] == 403, headers
    await client.send('{"action":"ping"}')
    assert json.loads(await client.recv())["type"] == "pong"


async def test_a_full_list_closes_and_says_that_they_may_come_back(gateway, tmp_path):
    (tmp_path / "revoked").write_text("".join(f'{{"user":"u{n}"}}\n' for n in range(10_000)))
    channels = gateway("channels", "--revoked-file", str(tmp_path / "revoked"))
    token = user_token("ann")
    client = await channels.connect(token)
    await client.recv()
    status, answer = channels.post({"user": "ann"})
    assert status == 507 and answer["disconnected"] == 1 and answer["refused"] is None, answer
    assert "10000 entries" in answer["detail"] and "may come back" in answer["detail"], answer
    assert await gone(client) == CUT
    assert not await channels.refused(token)


async def test_a_file_is_read_at_the_start_and_again_and_calls_survive_it(gateway, tmp_path):
    file = tmp_path / "revoked"
    file.write_text('# Cut off.\n\n{"user":"ann"}\n')
    channels = gateway("channels", "--revoked-file", str(file))
    assert await channels.refused(user_token("ann"))
    bob, cid = await channels.connect(user_token("bob")), await channels.connect(user_token("cid"))
    assert json.loads(await bob.recv())["type"] == json.loads(await cid.recv())["type"] == "connected"
    command = subprocess.run([weirgate_binary(), "disconnect", "--user", "dan", "--until", str(int(time.time()) + 60), f"127.0.0.1:{channels.admin}"],
                             capture_output=True, text=True)
    assert command.returncode == 0 and '"disconnected":0' in command.stdout and '"user":"dan"' in command.stdout, command
    file.write_text('{"user":"bob"}\n')
    channels.weirgate.child.send_signal(signal.SIGHUP)
    assert await gone(bob, 5) == CUT
    assert not await channels.refused(user_token("ann"))
    assert await channels.refused(user_token("bob")) and await channels.refused(user_token("dan"))
    file.write_text('{"user":"cid"}\n{"role":"guest"}\n')
    channels.weirgate.child.send_signal(signal.SIGHUP)
    await until(lambda: "line 2: a role or a session alone cannot be refused" in channels.weirgate.log(), 10, "the reason")
    await cid.send('{"action":"ping"}')
    assert json.loads(await cid.recv())["type"] == "pong"
    assert channels.post({"user": "bob"}, path="/operator/allow")[0] == 409, "the file would bring it back"
    assert channels.post({"user": "dan"}, path="/operator/allow") == (200, {"was_refused": True})
    assert channels.post({"user": "dan"}, path="/operator/allow") == (200, {"was_refused": False})
    assert not await channels.refused(user_token("dan"))
    wrong = subprocess.run([weirgate_binary(), "disconnect", f"127.0.0.1:{channels.admin}"], capture_output=True, text=True)
    assert wrong.returncode != 0 and "--user" in wrong.stderr
    twice = subprocess.run([weirgate_binary(), "disconnect", "--user", "eve", "--user", "fay", f"127.0.0.1:{channels.admin}"], capture_output=True, text=True)
    assert twice.returncode == 2 and "--user" in twice.stderr, twice


async def test_gateways_without_tokens_refuse_addresses_and_devices(gateway):
    trades = gateway("trades", REQUIRE_AUTH="false")
    token = user_token("ann")
    client = await trades.connect(token)
    await client.recv()
    assert trades.post({"user": "ann"})[1]["disconnected"] == 1
    assert await gone(client) == CUT
    assert await trades.refused(token), "though no token is asked for"
    assert not await trades.refused(None)
    assert trades.post({"address": "127.0.0.1"})[1]["disconnected"] == 0
    assert await trades.refused(None)


def test_the_header_of_a_proxy_leaves_the_list_of_processes():
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        proxy.settimeout(10)
        address = f"127.0.0.1:{proxy.getsockname()[1]}"
        command = [weirgate_binary(), "disconnect", "--user", "ann", "--authorization", f"Bearer {SECRET}", address]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        connection, _ = proxy.accept()
        with connection:
            assert f"Authorization: Bearer {SECRET}\r\n".encode() in connection.recv(4096)
            line = pathlib.Path(f"/proc/{process.pid}/cmdline").read_bytes()
            assert b"ann" in line and SECRET.encode() not in line
        assert process.wait(10) == 1


def disconnect(*args):
    """`weirgate disconnect`: (status, the answers of all requests, a line each)."""
    command = subprocess.run([weirgate_binary(), "disconnect", *map(str, args)], capture_output=True, text=True)
    lines = [line.split(": ", 1)[1] for line in command.stdout.splitlines() if ": {" in line]
    return command.returncode, [json.loads(line) for line in lines]


@pytest.mark.parametrize("lives_s", [300, 48 * 3600])
async def test_a_cut_ends_at_the_same_time_on_every_instance(gateway, lives_s):
    """The user is connected to one of two, with a short or a long token."""
    one, other = gateways = gateway(), gateway()
    at = [f"127.0.0.1:{each.admin}" for each in gateways]
    token = jwt(sub="eve", role="user", iat=int(time.time()), exp=int(time.time()) + lives_s)
    async with one.connect(token) as client:
        await client.recv()
        status, answers = disconnect("--user", "eve", *at)
        assert status == 0 and answers[0]["disconnected"] == 1, answers
        assert await gone(client) == CUT
    ends = [each.state()["revoked_newest"][0]["until"] for each in gateways]
    assert ends[0] == ends[1] and abs(ends[0] - time.time() - max(DAY_S, lives_s)) < 60, (answers, ends)
    # A cut that ends earlier takes nothing from it, and one that ends later counts on both.
    assert disconnect("--user", "eve", "--until", int(time.time()) + 60, *at)[0] == 0
    assert [each.state()["revoked_newest"][0]["until"] for each in gateways] == ends
    later = int(time.time()) + 90 * 3600
    assert one.post({"user": "eve", "until": later})[0] == 200
    assert disconnect("--user", "eve", *at)[0] == 0
    assert [each.state()["revoked_newest"][0]["until"] for each in gateways] == [later, later]
    for each in gateways:
        assert await each.refused(token)
    assert disconnect("--allow", "--user", "eve", *at) == (0, [{"was_refused": True}] * 2)
    for each in gateways:
        assert not await each.refused(token)
    assert disconnect("--allow", "--until", later, "--user", "eve", *at)[0] == 2
    assert disconnect("--allow", "--role", "guest", *at)[0] == 1
