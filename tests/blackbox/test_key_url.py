"""Keys at a URL: fetched, rotated under clients, kept while the identity provider is away; tokens as identity providers write
them."""
import asyncio
import json
import os
import pathlib
import re
import shlex
import signal
import subprocess
import threading
import time

import pytest
import websockets
from identity_provider import KeySetServer, SigningKey
from processes import weirgate_binary
from tokens import fresh_token
from waiting import until

ROOT = pathlib.Path(__file__).parents[2]
GUIDE = ROOT / "docs/guides/identity-providers.md"
# No Redis runs there: clients may connect all the same.
NO_REDIS = {"REDIS_URL": "redis://127.0.0.1:1"}


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keys")
    return [SigningKey(folder, kid) for kid in ("first", "second")]


@pytest.fixture
def key_set(keys, certificates):
    """A server with the first key, over HTTPS."""
    server = KeySetServer(keys[0], certificate=certificates.server)
    yield server
    server.stop()


@pytest.fixture
def start_gateway(start_weirgate, certificates):
    """start_gateway(key_set, *flags, **env) → a channels gateway that asks for tokens and answers."""
    def start(key_set, *flags, **env):
        settings = {"REQUIRE_AUTH": "true", "JWT_JWKS_URL": key_set.url, "JWT_JWKS_CA_FILE": str(certificates.ca)}
        return start_weirgate("channels", *flags, env={**settings, **NO_REDIS, **env}).wait_for("/health")
    return start


async def connect(gateway, token):
    """(client, role) of an admitted client; (code, reason) of a refused one."""
    client = await websockets.connect(f"ws://127.0.0.1:{gateway.port}/ws", subprotocols=["bearer", token])
    try:
        return client, json.loads(await asyncio.wait_for(client.recv(), 60))["role"]
    except websockets.ConnectionClosed:
        return client.close_code, client.close_reason


async def admitted(gateway, token, seconds=20):
    """The role of a client that tries again as the clients do: at 1013 only."""
    end = time.monotonic() + seconds
    while True:
        client, role = await connect(gateway, token)
        if not isinstance(client, int):
            await client.close()
            return role
        assert client == 1013 and time.monotonic() < end, (client, role)
        await asyncio.sleep(0.1)


def metric(gateway, line):
    found = re.search(f"^{re.escape(line)} ([0-9.]+)$", gateway.get("/metrics")[2], re.M)
    return found and float(found[1])


def fetches(gateway, *outcomes):
    return sum(metric(gateway, f'weirgate_key_fetches_total{{outcome="{outcome}"}}') for outcome in outcomes)


async def first_keys(gateway, key_set):
    """Waits for the first keys. Returns the number of requests for them: a fetch that takes too long is made again. A token that
    comes before is a reason for another fetch."""
    await until(lambda: fetches(gateway, "changed") == 1, 20, "the first fetch")
    return len(key_set.requests)


class Minute:
    """The time since an event that keeps the gateway from a fetch for a minute: on a slow machine it may be over."""

    def __init__(self, key_set):
        self.key_set, self.begin = key_set, time.monotonic()

    def has(self, requests):
        """Whether there are so many requests, if the minute has not passed."""
        asked = len(self.key_set.requests)
        return asked == requests or time.monotonic() - self.begin > 60


@pytest.mark.parametrize("kid", ["k", None])
async def test_a_key_that_changes_without_a_new_id_is_fetched(start_gateway, key_set, tmp_path, kid):
    """A provider whose keys have no id, or whose new key has the id of the old one. A forged token does not keep the others out."""
    folders = [tmp_path / name for name in ("old", "new", "forger")]
    for folder in folders:
        folder.mkdir()
    old, new, forger = keys = [SigningKey(folder, "k") for folder in folders]
    for key in keys if kid is None else []:
        del key.jwk["kid"]
    token = lambda key, sub: key.token({"kid": kid}, role="user", sub=sub)
    key_set.keys = [old]
    gateway = start_gateway(key_set)
    asked = await first_keys(gateway, key_set)
    assert await admitted(gateway, token(old, "ann")) == "user"
    # Whoever forges causes a fetch at most once a minute, and is refused for good after it.
    forged = token(forger, "eve")
    minute = Minute(key_set)
    assert (await connect(gateway, forged))[0] == 1013
    await until(lambda: len(key_set.requests) == asked + 1 and fetches(gateway, "unchanged") == 1, 10, "a fetch")
    assert await connect(gateway, forged) == (1008, "Authentication failed")
    key_set.keys = [new]
    good = token(new, "bob")
    code, reason = await connect(gateway, good)
    assert code == 1013 and re.fullmatch("Keys of tokens are due retry_after_ms=[0-9]+", reason), (code, reason)
    assert await connect(gateway, forged) == (1008, "Authentication failed")
    assert minute.has(asked + 1), "not within the minute"
    gateway.send(signal.SIGHUP)
    assert await admitted(gateway, good) == "user"
    assert await connect(gateway, forged) == (1008, "Authentication failed")


async def test_keys_come_from_https_and_rotate_under_a_hundred_clients(start_gateway, key_set, keys):
    gateway = start_gateway(key_set)
    old, new = (key.token(role="user", sub="ann") for key in keys)
    # A token that comes during the first fetch has a fetch of its own, and the next one only after a minute.
    asked = await first_keys(gateway, key_set)
    assert await admitted(gateway, old) == "user"
    stay = [client for client, _ in await asyncio.gather(*(connect(gateway, old) for _ in range(50)))]
    assert len(key_set.requests) == asked
    # The identity provider signs with the new key at once, and still has the old one.
    key_set.keys = list(reversed(keys))
    minute = Minute(key_set)
    roles = await asyncio.gather(*(admitted(gateway, token) for token in 25 * [old, new]))
    assert roles == 50 * ["user"]
    assert minute.has(asked + 1), "one fetch for all tokens with the new key"
    # The old key is gone with the next set. A forged key id causes nothing within the minute, and is refused for good only
    # after a fetch: the key may be the next one.
    key_set.keys = [keys[1]]
    forged = SigningKey(keys[0].file.parent, "forged").token(role="admin")
    for _ in range(20):
        code, reason = await connect(gateway, forged)
        wait_ms = re.fullmatch("Keys of tokens are due retry_after_ms=([0-9]+)", reason)
        passed_ms = 1_000 * (time.monotonic() - minute.begin)
        assert code == 1013 and 60_000 - passed_ms < int(wait_ms[1]) <= 60_000, (code, reason)
    assert minute.has(asked + 1)
    gateway.send(signal.SIGHUP)
    await until(lambda: len(key_set.requests) == asked + 2, 10, "SIGHUP fetches at once")
    await until(lambda: fetches(gateway, "changed") == 3, 10, "the fetch in the metrics")
    assert await connect(gateway, forged) == (1008, "Authentication failed")
    code, _ = await connect(gateway, old)
    assert code in (1008, 1013)
    assert await admitted(gateway, new) == "user"
    for client in stay:
        await client.send('{"action":"ping"}')
        assert json.loads(await asyncio.wait_for(client.recv(), 60))["type"] == "pong"
        await client.close()
    assert metric(gateway, "weirgate_key_set_age_seconds") < 60
    assert metric(gateway, 'weirgate_auth_refusals_total{reason="keys_due"}') > 0


def never(handler):
    threading.Event().wait(30)


def endless(handler):
    handler.send_response(200)
    handler.send_header("content-length", str(10 * 2**30))
    handler.end_headers()


def without_a_length(handler):
    handler.send_response(200)
    handler.end_headers()
    try:
        while True:
            handler.wfile.write(b" " * 65536)
    except OSError:
        pass


def slow(handler):
    handler.send_response(200)
    handler.send_header("content-length", "1000")
    handler.end_headers()
    try:
        for _ in range(60):
            handler.wfile.write(b" ")
            time.sleep(0.5)
    except OSError:
        pass


def sends(status, body=b"", **headers):
    return lambda handler: KeySetServer.send(handler, status, body, **headers)


FAULTS = [
    ("timeout", never, "no whole answer within 5000 ms"),
    ("timeout", slow, "no whole answer within 5000 ms"),
    ("too_large", endless, "the answer is over 1048576 bytes"),
    ("too_large", without_a_length, "the answer is over 1048576 bytes"),
    ("status", sends(503), "the server answers 503"),
    ("status", sends(302, location="http://127.0.0.1:1/"), "the server answers 302, and redirects are not followed"),
    ("no_keys", sends(200, b"<html>"), "no JSON Web Key Set"),
    ("no_keys", sends(200, b'{"keys":[]}'), "no RS256, ES256 or EdDSA key for signatures in the set"),
]


@pytest.mark.parametrize("outcome,answer,said", FAULTS, ids=[answer[1].__name__ + str(at) for at, answer in enumerate(FAULTS)])
async def test_the_last_good_keys_stay_whatever_the_server_sends(start_gateway, key_set, keys, outcome, answer, said):
    gateway = start_gateway(key_set)
    asked = await first_keys(gateway, key_set)
    old, new = (key.token(role="user") for key in keys)
    assert await admitted(gateway, old) == "user"
    key_set.answer = answer
    begin, minute = time.monotonic(), Minute(key_set)
    code, reason = await connect(gateway, new)
    # On a busy machine the fetch may have ended, so that the time of the next one is known.
    assert code == 1013 and reason.startswith("Keys of tokens are due"), (code, reason)
    # The loop waits for nobody.
    assert await admitted(gateway, old) == "user" and time.monotonic() - begin < 4
    await until(lambda: fetches(gateway, outcome) == 1, 20, f"a fetch that ended as {outcome}")
    gateway.logs(said, "the keys stay as they were")
    assert await admitted(gateway, old) == "user"
    # While newer keys are due, a client is asked to try again, and the server is asked once a minute.
    for _ in range(5):
        assert (await connect(gateway, new))[0] == 1013
    assert minute.has(asked + 1)
    assert gateway.log().count("the keys stay as they were") == 1
    key_set.answer, key_set.keys = None, keys
    gateway.send(signal.SIGHUP)
    assert await admitted(gateway, new) == "user"
    gateway.logs("the key set is there again")


async def test_a_gateway_starts_before_its_identity_provider_and_stops_while_that_is_silent(start_gateway, key_set, keys):
    key_set.answer = sends(503)
    gateway = start_gateway(key_set)
    token = keys[0].token(role="user")
    assert (await connect(gateway, token))[0] == 1013
    assert "nobody can connect" not in gateway.log()
    assert "keys_away" in json.loads(gateway.get("/ready")[2])["reasons"]
    key_set.answer = None
    assert await admitted(gateway, token) == "user"
    assert "keys_away" not in json.loads(gateway.get("/ready")[2])["reasons"]
    key_set.answer, asked = never, len(key_set.requests)
    gateway.send(signal.SIGHUP)
    await until(lambda: len(key_set.requests) > asked, 10, "a fetch without an answer")
    begin = time.monotonic()
    gateway.send(signal.SIGTERM)
    assert gateway.wait(10) == 0
    assert time.monotonic() - begin < 4


async def test_a_server_with_another_certificate_gives_no_keys(start_gateway, keys, other_certificates):
    server = KeySetServer(keys[0], certificate=other_certificates.server)
    gateway = start_gateway(server)
    await until(lambda: fetches(gateway, "unreachable") > 0, 20, "a fetch that failed")
    gateway.logs("invalid peer certificate")
    assert (await connect(gateway, keys[0].token(role="user")))[0] == 1013
    assert server.requests == []
    server.stop()


async def test_each_instance_fetches_for_itself_and_keys_in_files_stay_beside(start_gateway, key_set, keys, tmp_path):
    secret = "thirty-two bytes of a test secret"
    gateways = [start_gateway(key_set, JWT_SECRET=secret) for _ in range(2)]
    for gateway in gateways:
        asked = await first_keys(gateway, key_set)
    assert asked >= 2, "one asks for itself alone"
    for gateway in gateways:
        assert await admitted(gateway, keys[0].token(role="admin")) == "admin"
        assert await admitted(gateway, fresh_token(secret, role="user")) == "user"
    assert len(key_set.requests) == asked


def run(*argv, **env):
    return subprocess.run([weirgate_binary(), *argv], text=True, capture_output=True, timeout=60,
                          env={"PATH": os.environ["PATH"], **env})


def test_settings_and_check_ask_the_url(key_set, keys, certificates):
    for url in ("http://idp.example.com/keys", "idp.example.com/keys", "https://a:b@idp.example.com/keys"):
        done = run("channels", "--check", JWT_JWKS_URL=url, **NO_REDIS)
        assert done.returncode == 2, done
        assert "allowed: https://HOST:PORT/PATH, or http:// with localhost or a loopback address" in done.stderr
        assert "a:b" not in done.stderr
    env = {"JWT_JWKS_URL": key_set.url, "JWT_JWKS_CA_FILE": str(certificates.ca), "REDIS_WS_GATEWAY_PORT": "0", **NO_REDIS}
    done = run("channels", "--check", "--connect", **env)
    assert f"the key set at {key_set.url} contains 1 usable key\n" in done.stdout, done
    key_set.answer = sends(404)
    done = run("trades", "--check", "--connect", **{**env, "WS_PORT": "0"})
    assert done.returncode == 1 and f"error: the key set at {key_set.url}: the server answers 404" in done.stderr, done
    done = run("channels", "--check", **{**env, "JWT_JWKS_CA_FILE": "/none"})
    assert done.returncode == 2 and "--jwt-jwks-ca-file: no certificates to trust in /none" in done.stderr, done
    done = run("token", "inspect", keys[0].token(), **env)
    assert done.returncode != 0 and "the server answers 404" in done.stderr, done


async def test_a_token_without_the_named_claim_is_told(start_gateway, key_set, keys, certificates):
    gateway = start_gateway(key_set, "--jwt-role-claim", "realm_access.roles")
    without, good = keys[0].token(sub="ann"), keys[0].token(realm_access={"roles": ["admin", "offline_access"]})
    for _ in range(3):
        assert await admitted(gateway, without) == "user"
    assert await admitted(gateway, good) == "admin"
    assert await connect(gateway, keys[0].token(realm_access={"roles": ["offline_access"]})) == (1008, "Authentication failed")
    assert gateway.log().count("a token has no claim named by --jwt-role-claim") == 1
    assert metric(gateway, "weirgate_tokens_without_role_total") == 3
    env = {"JWT_JWKS_URL": key_set.url, "JWT_JWKS_CA_FILE": str(certificates.ca), "WEIRGATE_JWT_ROLE_CLAIM": "realm_access.roles"}
    done = run("token", "inspect", without, **env)
    assert "role:     user (the default role; the token has no claim realm_access.roles)" in done.stdout, done
    done = run("token", "inspect", good, **env)
    assert "role:     admin (of admin, offline_access: the first in the table counts)" in done.stdout, done


# Tokens as the documents of each show them; the keys of the tokens are the test's.
SHAPES = {
    "Auth0": dict(iss="https://TENANT.eu.auth0.com/", aud=["https://ws.example.com", "https://TENANT.eu.auth0.com/userinfo"],
                  sub="auth0|5f7c8ec7c33c6c004bbafe82", azp="my_client_id", scope="openid profile", permissions=[],
                  **{"https://ws.example.com/roles": ["desk"]}),
    "Keycloak": dict(iss="https://keycloak.example.com/realms/REALM", aud=["weirgate", "account"], typ="Bearer", azp="dashboard",
                     sub="f6a3b0c5-7c1e-4f0e-9d57-2a3b0c5f6a3b", acr="1", scope="openid email profile", preferred_username="ann",
                     realm_access={"roles": ["offline_access", "uma_authorization", "desk", "default-roles-realm"]},
                     resource_access={"account": {"roles": ["manage-account", "view-profile"]}}),
    "Cognito": dict(iss="https://cognito-idp.REGION.amazonaws.com/POOL", aud="APP_CLIENT_ID", sub="aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee",
                    token_use="id", auth_time=1_700_000_000, event_id="e", email_verified=True,
                    **{"cognito:groups": ["eu-west-1_POOL_Google", "desk"], "cognito:username": "ann"}),
    "Entra": dict(iss="https://login.microsoftonline.com/TENANT_ID/v2.0", aud="APP_ID", sub="AAAAAAAAAAAAAAAAAAAAAIkzqFVrSaSaFHy782bbtaQ",
                  oid="00000000-0000-0000-66f3-3332eca7ea81", tid="TENANT_ID", ver="2.0", name="Ann", roles=["desk"], nbf=1_700_000_000),
}


def recipe(provider):
    """(flags, env) of the five lines for an identity provider in the guide."""
    section = GUIDE.read_text().split(f"\n## {provider}")[1].split("\n## ")[0]
    lines = re.search(r"```sh\n(.*?)```", section, re.S)[1].splitlines()
    assert len(lines) == 5, lines
    env = dict(line.removeprefix("export ").split("=", 1) for line in lines[:-1])
    program, gateway, *flags = shlex.split(lines[-1])
    assert (program, gateway) == ("weirgate", "channels") and env["JWT_JWKS_URL"].startswith("https://")
    return flags, env


@pytest.mark.parametrize("provider", SHAPES)
async def test_the_recipe_of_each_identity_provider(start_gateway, key_set, keys, provider, tmp_path):
    flags, env = recipe(provider)
    table = tmp_path / "roles.json"
    table.write_text(json.dumps({"desk": ["quotes:*"], "user": []}))
    flags[flags.index("--acl") + 1] = str(table)
    env = {**env, "JWT_JWKS_URL": key_set.url}
    gateway = start_gateway(key_set, *flags, **env)
    # Cognito's tokens have no type in the header.
    head = {} if provider == "Cognito" else {"typ": "JWT"}
    claims = SHAPES[provider]
    assert await admitted(gateway, keys[0].token(head, **claims)) == "desk"
    for other in ({"iss": "https://elsewhere.example.com"}, {"aud": "another"}):
        assert await connect(gateway, keys[0].token(head, **{**claims, **other})) == (1008, "Authentication failed")

