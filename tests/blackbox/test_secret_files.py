"""Secrets in files: read at the start, and again when they change; and the token of the admin address."""
import asyncio
import base64
import json
import subprocess
import urllib.error
import urllib.request

import pytest
import redis
import websockets
from processes import free_port, weirgate_binary
from tokens import fresh_token
from waiting import until

ONE, TWO = "the first secret has thirty-two bytes", "the second secret has thirty-two bytes"
NO_REDIS = {"REDIS_URL": "redis://127.0.0.1:1"}


@pytest.fixture
def put(tmp_path):
    """put(name, text) → the path of a file that is replaced in one step."""
    def replace(name, text):
        (tmp_path / "next").write_text(text + "\n")
        return str((tmp_path / "next").rename(tmp_path / name))
    return replace


def status(port, path, token=None, **headers):
    """The status of a GET, or of a POST of `{}` to a path that takes one."""
    if token:
        headers["Authorization"] = token
    data = b'{"user": "nobody"}' if path.startswith(("/operator/disconnect", "/operator/allow")) else None
    if path.startswith("/internal/"):
        data = b'{"event": "e", "data": {}, "targets": {"device_ids": ["a"]}}'
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data=data, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


async def admitted(gateway, token):
    async with websockets.connect(f"ws://127.0.0.1:{gateway.port}/ws?token={token}") as client:
        try:
            await asyncio.wait_for(client.recv(), 60)
            return True
        except websockets.ConnectionClosed:
            return False


async def test_keys_of_tokens_are_read_again_and_no_client_is_cut(start_weirgate, put):
    env = {"REQUIRE_AUTH": "true", "JWT_SECRET_FILE": put("jwt", ONE), "GATEWAY_API_KEY_FILE": put("key", "key one"), **NO_REDIS}
    gateway = start_weirgate("channels", env=env).wait_for("/health")
    old, new = [fresh_token(secret, role="admin") for secret in (ONE, TWO)]
    assert await admitted(gateway, old) and await admitted(gateway, "key%20one") and not await admitted(gateway, new)
    async with websockets.connect(f"ws://127.0.0.1:{gateway.port}/ws?token={old}") as client:
        await client.recv()
        put("jwt", TWO)
        put("key", "key two")
        await until(lambda: asyncio.run(admitted(gateway, new)), 20, "the new secret")
        assert not await admitted(gateway, old)
        await until(lambda: asyncio.run(admitted(gateway, "key%20two")), 20, "the new key")
        assert not await admitted(gateway, "key%20one")
        put("jwt", "")
        await until(lambda: "the secrets stay as they were" in gateway.log(), 20, "a line about the broken file")
        assert await admitted(gateway, new)
        await (await client.ping())
    assert "secrets have changed" in gateway.log()
    for secret in (ONE, TWO, "key one", "key two"):
        assert secret not in gateway.log()


async def test_the_token_of_services_and_of_operators_is_read_again(start_weirgate, put):
    admin = free_port()
    env = {"INTERNAL_AUTH_TOKEN_FILE": put("internal", ONE), "WEIRGATE_ADMIN_TOKEN_FILE": put("admin", ONE),
           "WEIRGATE_ADMIN_ADDR": f"127.0.0.1:{admin}"}
    start_weirgate("events", env=env).wait_for("/health")
    push = lambda token: status(admin, "/internal/broadcast", **{"X-Internal-Token": token})
    assert (push(ONE), push(TWO)) == (200, 403)
    for path in ("/", "/operator/", "/operator/main.js", "/operator/state", "/operator/disconnect", "/operator/allow"):
        assert status(admin, path) == 401, path
        assert status(admin, path, f"Bearer {TWO}") == 401, path
        assert status(admin, path, f"Bearer {ONE}") == 200, path
    # For probes and for Prometheus.
    assert [status(admin, path) for path in ("/health", "/ready", "/metrics")] == [200] * 3
    basic = "Basic " + base64.b64encode(f"ann:{TWO}".encode()).decode()
    put("internal", TWO)
    put("admin", TWO)
    await until(lambda: status(admin, "/operator/state", basic) == 200, 20, "the new token")
    assert status(admin, "/operator/state", f"Bearer {ONE}") == 401
    await until(lambda: push(TWO) == 200, 20, "the new token of services")
    assert push(ONE) == 403


def test_commands_read_the_token_of_the_gateway(start_weirgate, put):
    admin = free_port()
    file = {"WEIRGATE_ADMIN_TOKEN_FILE": put("admin", ONE)}
    start_weirgate("demo", "--admin-addr", f"127.0.0.1:{admin}", env=file).wait_for("/health")
    for command in (["top", "--once", "--json"], ["disconnect", "--user", "ann"]):
        run = lambda env: subprocess.run([weirgate_binary(), *command, f"127.0.0.1:{admin}"], env=env, capture_output=True, text=True, timeout=20)
        assert run(file).returncode == 0, run(file).stderr
        assert run({"WEIRGATE_ADMIN_TOKEN": ONE}).returncode == 0
        refused = run({"WEIRGATE_ADMIN_TOKEN": TWO})
        assert refused.returncode == 1 and "WEIRGATE_ADMIN_TOKEN" in refused.stdout + refused.stderr


def test_requests_without_the_token_are_logged_and_bounded(start_weirgate):
    admin = free_port()
    gateway = start_weirgate("demo", "--admin-addr", f"127.0.0.1:{admin}", env={"WEIRGATE_ADMIN_TOKEN": ONE}).wait_for("/health")
    for _ in range(30):
        assert status(admin, "/operator/state", "Bearer wrong") == 401
    lines = [line for line in gateway.log().splitlines() if "without WEIRGATE_ADMIN_TOKEN" in line]
    assert 1 <= len(lines) < 20 and "peer=127.0.0.1" in lines[0] and ONE not in gateway.log()


async def test_a_new_password_of_the_bus_counts_at_the_next_connection(start_weirgate, redis_server, put):
    control = redis.Redis(port=redis_server.port)
    control.acl_setuser("gate", enabled=True, passwords=["+one"], channels=["*"], commands=["+@all"], keys=["*"])
    url = lambda password: f"redis://gate:{password}@127.0.0.1:{redis_server.port}"
    gateway = start_weirgate("trades", env={"REDIS_URL_FILE": put("url", url("one"))}).wait_ready()
    put("url", url("two"))
    await until(lambda: "secrets have changed" in gateway.log(), 20, "the new file")
    control.acl_setuser("gate", enabled=True, passwords=["-one", "+two"], channels=["*"], commands=["+@all"], keys=["*"])
    control.client_kill_filter(user="gate")
    health = lambda: json.loads(urllib.request.urlopen(f"http://127.0.0.1:{gateway.port}/health", timeout=5).read())
    connections = lambda: [one for one in control.client_list() if one["user"] == "gate"]
    await until(lambda: connections(), 20, "the login with the new password")
    assert health() and "WRONGPASS" not in gateway.log()


async def test_a_new_password_of_nats_counts_at_the_next_connection(start_weirgate, start_nats, put):
    config = lambda password: f'authorization {{ user: gate, password: {password} }}'
    server = start_nats(config=config("one"))
    env = {"WEIRGATE_BUS": server.url, "NATS_USER": "gate", "NATS_PASSWORD_FILE": put("password", "one")}
    gateway = start_weirgate("channels", env=env).wait_ready()
    put("password", "two")
    await until(lambda: "secrets have changed" in gateway.log(), 20, "the new file")
    server.kill()
    server.config = config("two")
    server.start()
    await until(lambda: gateway.health()["nats_connected"], 20, "the login with the new password")


def test_a_secret_has_one_place_and_a_file_with_text(put):
    run = lambda **env: subprocess.run([weirgate_binary(), "channels", "--check"], env=env, capture_output=True, text=True, timeout=20)
    file = put("jwt", ONE)
    shown = run(JWT_SECRET_FILE=file)
    assert shown.returncode == 0 and "JWT_SECRET_FILE" in shown.stdout and ONE not in shown.stdout + shown.stderr
    both = run(JWT_SECRET_FILE=file, JWT_SECRET=TWO)
    assert both.returncode == 2 and "JWT_SECRET and JWT_SECRET_FILE are both set" in both.stderr
    for wrong in (put("empty", ""), "/nowhere/secret"):
        refused = run(JWT_SECRET_FILE=wrong)
        assert refused.returncode == 2 and f"JWT_SECRET_FILE {wrong}" in refused.stderr
    misspelt = run(WEIRGATE_ADMIN_TOKN_FILE=file)
    assert "WEIRGATE_ADMIN_TOKN_FILE is not a setting" in misspelt.stdout + misspelt.stderr
