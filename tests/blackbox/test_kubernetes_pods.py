"""What a pod of the Helm chart runs, without a container engine: its files laid out as the kubelet does, its commands, its probes."""
import asyncio
import json
import re
import signal
import socket
import subprocess
import time
import urllib.request

import clients
import nats as nats_py
import pytest
import yaml
from kubernetes_validate import validate
from nats_keys import Operator, creds, login
from pods import GATEWAYS, Pod, container, rendered
from processes import ROOT, free_port
from redis_gateways import CHANNELS
from test_channels_nats import Reader, say
from tokens import fresh_token
from waiting import until

GUIDE = (ROOT / "docs" / "guides" / "kubernetes.md").read_text()
TOKENS = ROOT / "tests" / "vectors" / "tokens"
SECRET = "thirty-two bytes of a test secret"
PORT_SETTINGS = {"GATEWAY_PORT", "WS_PORT", "REDIS_WS_GATEWAY_PORT"}


class Release:
    """The container of a pod as a process, on ports of this machine in place of the pod's."""

    def __init__(self, documents, folder, start_weirgate, secrets=None):
        self.pod, self.container = Pod(documents, folder, secrets), container(documents)
        env = {name: value for name, value in self.pod.environment(self.container).items() if name not in PORT_SETTINGS}
        admin = free_port()
        env["WEIRGATE_ADMIN_ADDR"] = f"127.0.0.1:{admin}"
        self.weirgate = start_weirgate(*self.pod.args(self.container), env=env)
        self.ports = {"http": self.weirgate.port, "admin": admin}

    def page(self, port, path):
        """The text of a page on the port of this name; None without a status 200."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.ports[port]}{path}", timeout=3) as answer:
                return answer.read().decode() if answer.status == 200 else None
        except OSError:
            return None

    async def ready(self):
        """Waits until both probes are content."""
        for probe in ("readinessProbe", "livenessProbe"):
            get = self.container[probe]["httpGet"]
            content = lambda: self.page(get["port"], get["path"]) is not None or not self.weirgate.alive()
            await until(content, 20, probe)
            assert self.weirgate.alive(), self.weirgate.log_tail()
        return self

    async def client(self, token):
        """A client with this token, its `connected` in hand; or closed."""
        client = await clients.connect(self.weirgate.port, path=f"{CHANNELS.path}?token={token}", make=Reader)
        await client.wait_for(lambda c: c.answers or not c.open, 20, "connected")
        return client


@pytest.mark.parametrize("gateway", GATEWAYS)
async def test_the_container_starts_and_its_probes_are_content(gateway, request, start_weirgate, tmp_path):
    settings = {}
    if gateway == "levels":
        settings = {"NATS_URL": request.getfixturevalue("nats").url}
    elif gateway != "events":
        redis = request.getfixturevalue("redis_server")
        settings = {"REDIS_URL": redis.url} if gateway == "trades" else {"REDIS_HOST": "127.0.0.1", "REDIS_PORT": str(redis.port)}
    quick = "serviceMonitor.enabled=true,drainDelayMs=200,drainMs=100"
    documents = rendered(gateway, "--set", quick, values={"settings": settings})
    release = await Release(documents, tmp_path, start_weirgate).ready()
    [endpoint] = documents["ServiceMonitor"]["spec"]["endpoints"]
    assert "weirgate_clients 0" in release.page(endpoint["port"], endpoint["path"])
    release.weirgate.send(signal.SIGTERM)
    seconds = release.pod.spec["terminationGracePeriodSeconds"]
    assert await asyncio.to_thread(release.weirgate.wait, seconds) == 0


def of_guide(name):
    """A file of the guide."""
    [text] = re.findall(rf"^```yaml\n(# {re.escape(name)}\n.*?)^```", GUIDE, re.M | re.S)
    return yaml.safe_load(text)


def example():
    """The file of values of the guide, and its other flag."""
    [flag] = re.findall(r"--set-file '([^']*)'", GUIDE)
    return of_guide("desk.yaml"), flag


def keys(count):
    """A set with the first keys of the vectors: the first is for RS256, the second for ES256."""
    every = json.loads((TOKENS / "jwks.json").read_text())["keys"]
    return json.dumps({"keys": every[:count]})


def hang_up(release):
    """The command of the guide, with the process of this test in place of process 1 of a container."""
    [command] = set(re.findall(r"-- /bin/sh -c '(kill -HUP 1)'", GUIDE))
    subprocess.run(["/bin/sh", "-c", command.replace(" 1", f" {release.weirgate.pid}")], check=True)


@pytest.fixture
def desk(start_nats, start_weirgate, tmp_path):
    """The release of the guide on a NATS that asks for credentials: (release, server, operator of NATS)."""
    operator = Operator()
    server = start_nats(config=operator.server_config)
    values, flag = example()
    assert values["settings"]["WEIRGATE_BUS"] == "nats://nats:4222"
    values["settings"]["WEIRGATE_BUS"] = server.url
    (tmp_path / "jwks.json").write_text(keys(1))
    documents = rendered("channels", "--set-file", flag.replace("=", f"={tmp_path}/"), values=values)
    secrets = {"weirgate-nats": {"nats.creds": creds(*operator.user())}, "weirgate-channels": {"JWT_SECRET": SECRET}}
    return Release(documents, tmp_path, start_weirgate, secrets), server, operator


async def test_roles_of_a_mounted_table_decide_and_a_new_table_counts_after_the_signal(desk):
    release, server, operator = desk
    await release.ready()
    user, admin = [await release.client(fresh_token(SECRET, role=role)) for role in ("user", "admin")]
    answer = await user.ask("subscribe", "orders.status.*", "orders.placed")
    assert answer["channels"] == ["orders.status.*"]
    assert answer["errors"] == ["Access denied to channel: orders.placed"]
    assert (await admin.ask("subscribe", "orders.>"))["channels"] == ["orders.>"]
    publisher = await nats_py.connect(server.url, **login(*operator.user()))
    await say(publisher, "orders.placed", 1)
    await say(publisher, "orders.status.7", 2)
    await user.wait_for(lambda c: c.data, 20, "what its role permits")
    await admin.wait_for(lambda c: len(c.data) == 2, 20, "everything")
    assert user.short() == [("orders.status.7", "orders.status.*", 2)]

    release.pod.project("files", {"roles.json": '{"user": ["orders.>"], "admin": ["orders.>"]}', "jwks.json": keys(1)})
    hang_up(release)
    release.weirgate.logs("the table of roles has changed")
    # On a busy machine the loop reads a request before it takes the table.
    end = time.monotonic() + 10
    while (await user.ask("subscribe", "orders.placed"))["channels"] != ["orders.placed"]:
        assert time.monotonic() < end, "the new table does not count"
    # A broken table changes nothing.
    release.pod.project("files", {"roles.json": '{"user": "orders.>"}', "jwks.json": keys(1)})
    hang_up(release)
    release.weirgate.logs("the table stays as it was")
    assert (await user.ask("subscribe", "orders.paid"))["channels"] == ["orders.paid"]
    assert user.open and admin.open
    await publisher.close()


async def test_a_new_set_of_keys_counts_by_itself(desk):
    release, _, _ = desk
    await release.ready()
    signed = json.loads((TOKENS / "signed.json").read_text())["ES256"]
    assert not (await release.client(signed)).open
    release.pod.project("files", {"roles.json": '{"admin": ["orders.>"]}', "jwks.json": keys(4)})
    release.weirgate.logs("the keys of tokens have changed")
    client = await release.client(signed)
    assert client.answers[0]["role"] == "admin"
    # The table came with the same step, and waits for its signal.
    assert "the table of roles has changed" not in release.weirgate.log()


async def test_new_credentials_count_at_the_next_connection(desk):
    release, server, _ = desk
    await release.ready()
    client = await release.client(fresh_token(SECRET, role="user"))
    await client.ask("subscribe", "orders.status.*")
    server.kill()
    other = Operator()
    server.forget_everything()
    server.config = other.server_config
    server.start()
    release.weirgate.logs("Authorization Violation")
    release.pod.project("secret-0", {"nats.creds": creds(*other.user())})
    await until(lambda: release.weirgate.health()["nats_connected"], 20, "the login with the new file")
    # Confirmed by the server behind the subscriptions from before.
    await client.ask("subscribe", "orders.status.8")
    publisher = await nats_py.connect(server.url, **login(*other.user()))
    await say(publisher, "orders.status.7", 1)
    await client.wait_for(lambda c: c.data, 20, "what it still holds")
    assert client.open and client.short() == [("orders.status.7", "orders.status.*", 1)]
    await publisher.close()


@pytest.mark.plain("has a port for TLS of its own")
async def test_clients_of_a_balancer_come_over_tls_with_the_secret_of_the_guide(start_weirgate, redis_server, authority, local_certificate, tmp_path):
    values, service = of_guide("feed.yaml"), of_guide("feed-service.yaml")
    validate(service, "1.30", strict=True)
    [port] = service["spec"]["ports"]
    assert str(port["targetPort"]) == values["settings"]["WEIRGATE_TLS_PORT"]
    values["settings"] |= {"REDIS_HOST": "127.0.0.1", "REDIS_PORT": str(redis_server.port), "WEIRGATE_TLS_PORT": str(free_port())}
    # The probes come from this machine too, without a header.
    assert values["trustedProxies"] == "10.0.0.0/8"
    values["trustedProxies"] = "127.0.0.7"
    documents = rendered("channels", values=values)
    assert service["spec"]["selector"].items() <= documents["Deployment"]["spec"]["template"]["metadata"]["labels"].items()
    secret = dict(zip(("tls.crt", "tls.key"), (file.read_text() for file in local_certificate)))
    secrets = {"weirgate-channels": {"JWT_SECRET": SECRET}, "feed-tls": secret}
    release = await Release(documents, tmp_path, start_weirgate, secrets).ready()
    tls_port = int(values["settings"]["WEIRGATE_TLS_PORT"])

    def names_of(source, header):
        with socket.create_connection(("127.0.0.1", tls_port), 20, (source, 0)) as plain:
            plain.sendall(header)
            with authority.context().wrap_socket(plain, server_hostname="localhost") as tls:
                tls.sendall(b"GET")
                return [name for _, name in tls.getpeercert()["subjectAltName"]]
    assert names_of("127.0.0.7", b"PROXY TCP4 198.51.100.7 10.0.0.1 4711 443\r\n") == ["127.0.0.1", "localhost"]
    release.weirgate.logs('"client":"198.51.100.7"')
    # Renewed by cert-manager.
    renewed = authority.sign("renewed", "DNS:localhost", "DNS:renewed.example.test")
    release.pod.project("secret-0", dict(zip(secret, (file.read_text() for file in renewed))))
    await until(lambda: "renewed.example.test" in names_of("127.0.0.8", b""), 20, "the new certificate")
