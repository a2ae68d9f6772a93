"""Tokens from outside: keys that change on disk, connections that end with their token, and nothing of a token anywhere."""
import asyncio
import json
import pathlib
import time

import pytest
import websockets
from tokens import fresh_token, jwt
from waiting import until

TOKENS = pathlib.Path(__file__).parent.parent / "vectors" / "tokens"
SECRET = "thirty-two bytes of a test secret"
# No Redis runs there: clients may connect all the same.
NO_REDIS = {"REDIS_URL": "redis://127.0.0.1:1"}


@pytest.fixture
def start_gateway(start_weirgate):
    """start_gateway(**env) → a channels gateway that asks for tokens and answers."""
    def start(**env):
        return start_weirgate("channels", env={"REQUIRE_AUTH": "true", **NO_REDIS, **env}).wait_for("/health")
    return start


async def role(gateway, token):
    """The role that a token is admitted with; None when it is refused as the contract says."""
    async with websockets.connect(f"ws://127.0.0.1:{gateway.port}/ws?token={token}") as client:
        try:
            return json.loads(await asyncio.wait_for(client.recv(), 60))["role"]
        except websockets.ConnectionClosed:
            assert (client.close_code, client.close_reason) == (1008, "Authentication failed")
            return None


async def test_keys_are_read_again_when_their_file_changes(start_gateway, tmp_path):
    keys, signed = json.loads((TOKENS / "jwks.json").read_text()), json.loads((TOKENS / "signed.json").read_text())
    file = tmp_path / "jwks.json"

    def put(text):
        # As a mounted secret is replaced.
        (tmp_path / "next").write_text(text)
        (tmp_path / "next").rename(file)

    put(json.dumps({"keys": keys["keys"][:1]}))
    gateway = start_gateway(JWT_JWKS_FILE=str(file))
    assert await role(gateway, signed["RS256"]) == "admin"
    assert await role(gateway, signed["ES256"]) is None
    put(json.dumps(keys))
    await until(lambda: asyncio.run(role(gateway, signed["ES256"])) == "admin", 20, "the new key in force")
    assert await role(gateway, signed["EdDSA"]) == "admin"
    put("{")
    await until(lambda: "the keys stay as they were" in gateway.log(), 20, "a line about the broken file")
    assert await role(gateway, signed["RS256"]) == "admin"


async def test_a_connection_ends_with_its_token_and_others_stay(start_gateway):
    gateway = start_gateway(JWT_SECRET=SECRET)
    url = f"ws://127.0.0.1:{gateway.port}/ws"
    long, begin = jwt(SECRET, role="admin"), time.time()
    short = fresh_token(SECRET, 4, role="user")
    async with websockets.connect(url, additional_headers={"Authorization": f"Bearer {short}"}) as ends, \
            websockets.connect(url, subprotocols=["bearer", long]) as stays:
        assert stays.subprotocol == "bearer"
        assert json.loads(await ends.recv())["role"] == "user"
        with pytest.raises(websockets.ConnectionClosed):
            await asyncio.wait_for(ends.recv(), 10)
        assert (ends.close_code, ends.close_reason) == (1008, "Authentication failed")
        await until(lambda: 'reason="policy" refusal="expired" code=1008' in gateway.log(), 10, "the line says why")
        # Tokens count in whole seconds.
        assert time.time() - begin > 2.9
        assert json.loads(await stays.recv())["role"] == "admin"
        await stays.send('{"action":"ping"}')
        assert json.loads(await asyncio.wait_for(stays.recv(), 60))["type"] == "pong"
    assert await role(gateway, short) is None


async def test_nothing_of_a_token_shows(start_gateway):
    key = "an-api-key-that-nobody-may-see"
    gateway = start_gateway(JWT_SECRET=SECRET, GATEWAY_API_KEY=key)
    good, forged = fresh_token(SECRET, role="user"), fresh_token(SECRET, role="admin")[:-6] + "AAAAAA"
    assert await role(gateway, key) == "admin"
    assert await role(gateway, good) == "user"
    for wrong in (forged, "wrong-" + key, "x" * 9_000):
        assert await role(gateway, wrong) is None
    # Requests that are refused as a whole are not shown either.
    gateway.get(f"/nowhere?token={good}")
    stats, metrics = gateway.get("/stats")[2], gateway.get("/metrics")[2]
    for reason, count in (("signature", 1), ("not_a_token", 1), ("too_long", 1), ("expired", 0)):
        assert f'weirgate_auth_refusals_total{{reason="{reason}"}} {count}' in metrics
    # The operator sees why, the client does not.
    for reason in ("signature", "not_a_token", "too_long"):
        await until(lambda: f'reason="policy" refusal="{reason}" code=1008' in gateway.log(), 10, f"a line with {reason}")
    shown = "\n".join([gateway.log(), stats, metrics])
    for secret in (key, SECRET, good[-20:], good[:40], forged[40:80]):
        assert secret not in shown
    assert json.loads(stats)["clients_connected"] == 0


def test_what_lets_nobody_in_is_said_at_the_start(start_gateway):
    gateway = start_gateway()
    gateway.logs("REQUIRE_AUTH is on and there is no key: nobody can connect")
    gateway = start_gateway(GATEWAY_API_KEY="k", DEFAULT_ROLE="guest", JWT_SECRET="short")
    assert "nobody can connect" not in gateway.log()
    gateway.logs("DEFAULT_ROLE is not in the table", "JWT_SECRET has less than 32 bytes")
