"""Each user's own names, with real tokens, and a new token on a living connection."""
import asyncio
import json
import re
import subprocess
import time
import urllib.parse
import urllib.request

import websockets
from processes import ROOT, free_port, weirgate_binary
from tokens import fresh_token
from waiting import until

SECRET = "thirty-two bytes of a test secret"
TABLE = {"user": ["news", "orders.{sub}.>", "desks.{claim:desk}"], "desk": ["news", "desks.*"]}


class Client:
    """A client of the gateway with a token."""

    def __init__(self, ws):
        self.ws = ws

    async def answer(self, **request):
        """The answer to a request; messages of the bus before it are left out."""
        await self.ws.send(json.dumps(request))
        while True:
            message = json.loads(await asyncio.wait_for(self.ws.recv(), 20))
            if message["type"] != "data":
                return message

    async def subscribe(self, *names):
        return (await self.answer(action="subscribe", channels=names))["channels"]


async def connect(gateway, token):
    ws = await websockets.connect(f"ws://127.0.0.1:{gateway.port}/ws?token={token}")
    client = Client(ws)
    welcome = json.loads(await asyncio.wait_for(ws.recv(), 20))
    assert welcome["type"] == "connected", welcome
    return client


def start(start_weirgate, nats, tmp_path, *flags):
    table = tmp_path / "roles.json"
    table.write_text(json.dumps(TABLE))
    gateway = start_weirgate("channels", "--bus", nats.url, "--acl", str(table), *flags,
                             env={"REQUIRE_AUTH": "true", "JWT_SECRET": SECRET})
    gateway.logs("weirgate is listening")
    gateway.logs("subscribed on NATS")
    return gateway


async def test_each_user_gets_the_own_messages_and_is_named_on_the_pages(start_weirgate, nats, tmp_path):
    admin = free_port()
    gateway = start(start_weirgate, nats, tmp_path, "--admin-addr", f"127.0.0.1:{admin}")
    ann, bob = [await connect(gateway, fresh_token(SECRET, sub=user)) for user in ("ann", "bob")]
    guest = await connect(gateway, fresh_token(SECRET, sub="guest", channels=["orders.ann.7"]))
    asked = ["news", "orders.ann.>", "orders.ann.7", "orders.bob.>", "orders.>", ">", "desks.fx"]
    assert await ann.subscribe(*asked) == ["news", "orders.ann.>", "orders.ann.7"]
    assert await bob.subscribe(*asked) == ["news", "orders.bob.>"]
    assert await guest.subscribe(*asked) == ["news", "orders.ann.7"]

    mail = await connect(gateway, fresh_token(SECRET, sub="ann.smith@example.com"))
    assert await mail.subscribe("news", "orders.ann.>", "orders.ann.smith@example.com.>", "orders.ann%2Esmith@example%2Ecom.>") == [
        "news", "orders.ann%2Esmith@example%2Ecom.>"]
    long = await connect(gateway, fresh_token(SECRET, sub="y" * 129))
    answer = await long.answer(action="subscribe", channels=["news", "orders.bob.>"])
    assert (answer["channels"], answer["errors"]) == (
        ["news"], ["Access denied to channel: orders.bob.> ({sub}: the claim is longer than 128 bytes)"])
    refused = await websockets.connect(f"ws://127.0.0.1:{gateway.port}/ws?token={fresh_token(SECRET, channels=['a..b'])}")
    await refused.wait_closed()
    assert refused.close_code == 1008
    gateway.logs('refusal="names"')
    for one in (mail, long):
        await one.ws.close()
    for one in (ann, bob, guest):
        await one.ws.close()
    gateway.logs('user="ann"')

    def page(path):
        with urllib.request.urlopen(f"http://127.0.0.1:{admin}{path}", timeout=5) as answer:
            return answer.read().decode()

    def ends():
        return sorted((end["user"] or "", end["reason"], end["refusal"]) for end in json.loads(page("/operator/state"))["ends"])
    closed = [(user, "peer_closed", None) for user in ("ann", "ann.smith@example.com", "bob", "guest", "y" * 129)]
    await until(lambda: ends() == [("", "policy", "names"), *sorted(closed)], 20, "the users and the refusal on the operator's page")
    assert 'weirgate_auth_refusals_total{reason="names"} 1' in page("/metrics")


async def test_a_connection_outlives_its_tokens_and_loses_what_the_new_one_does_not_grant(start_weirgate, nats, tmp_path):
    gateway = start(start_weirgate, nats, tmp_path)
    client = await connect(gateway, fresh_token(SECRET, 6, sub="ann"))
    assert await client.subscribe("news", "orders.ann.>") == ["news", "orders.ann.>"]
    begin = time.monotonic()
    while time.monotonic() - begin < 10:
        answer = await client.answer(action="authenticate", token=fresh_token(SECRET, 6, sub="ann"), requestId=1)
        assert (answer["type"], answer["role"], answer["revoked"]) == ("authenticated", "user", []), answer
        await asyncio.sleep(1.2)
    answer = await client.answer(action="authenticate", token=fresh_token(SECRET, role="desk", sub="ann"))
    assert (answer["role"], answer["revoked"]) == ("desk", ["orders.ann.>"])
    assert await client.subscribe("orders.ann.7", "desks.fx") == ["desks.fx"]
    await asyncio.sleep(1.2)
    answer = await client.answer(action="authenticate", token="wrong")
    assert answer["error"] == "Authentication failed"
    answer = await client.answer(action="authenticate", token="wrong")
    assert answer["error"] in ("Authentication failed", "Too many new tokens")
    await until(lambda: 'weirgate_token_renewals_total{outcome="accepted"}' in gateway.get("/metrics")[2], 20, "the count")
    await client.ws.close()


def test_publishers_and_clients_make_the_name_of_a_user_as_the_gateway_does(tmp_path):
    """The expressions of the protocol's page, in Python and in Node, against `weirgate token inspect`."""
    page = (ROOT / "docs" / "reference" / "protocol-channels.md").read_text()
    javascript, python = (re.search(rf"^  ```{language}\n  (?:const )?part = (.*?);?\n  ```$", page, re.M | re.S)[1] for language in ("js", "python"))
    users = ["ann.smith@example.com", "Ann Smith", "a*b>c", "100%", "a%2Eb", "o'neil!~()", "auth0|5f7", "k=v", "jörg", "漢字", "a:b/c", "_-"]
    script = f"for (const user of {json.dumps(users)}) console.log({javascript})"
    in_node = subprocess.run(["node", "-e", script], capture_output=True, text=True, check=True).stdout.splitlines()
    in_python = [eval(python, {"urllib": urllib, "user": user}) for user in users]
    assert in_node == in_python
    table = tmp_path / "roles.json"
    table.write_text(json.dumps({"user": ["orders.{sub}.>"]}))
    for user, part in zip(users, in_python):
        token = fresh_token(SECRET, sub=user)
        shown = subprocess.run([weirgate_binary(), "token", "inspect", token, "--gateway", "channels", "--bus", "nats", "--acl", str(table)],
                               env={"JWT_SECRET": SECRET}, capture_output=True, text=True)
        assert f"names:    orders.{part}.>\n" in shown.stdout, (shown.stdout, shown.stderr)
