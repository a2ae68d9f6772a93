"""`weirgate channels --bus nats://…`: every way to log in at a real server, and what a wrong login is told."""
import ssl

import pytest
from nats_keys import Nkey, Operator, creds, login
from test_channels_nats import EVERYTHING, bus, connect, say
from waiting import until

HINT = "check user, password, token and credentials"


class Way:
    """One way to log in: lines of the server, flags and env that are let in, those that are not, and a publisher's."""

    def __init__(self, config, good, bad, publisher, said="Authorization Violation", scheme="nats", shown=(), hint=HINT):
        self.config, self.good, self.bad, self.publisher = config, good, bad, publisher
        self.said, self.scheme, self.shown, self.hint = said, scheme, shown, hint


def password(**_):
    config = 'authorization { user: gw, password: "s3cr/et@" }'
    env = {"NATS_USER": "gw", "NATS_PASSWORD": "s3cr/et@"}
    return Way(config, ([], env), ([], {**env, "NATS_PASSWORD": "s3cret-wrong"}), {"user": "gw", "password": "s3cr/et@"})


def password_in_the_url(**_):
    config = 'authorization { user: gw, password: "s3cr/et@" }'
    return Way(config, (["gw:s3cr%2Fet%40@"], {}), (["gw:s3cret-wrong@"], {}), {"user": "gw", "password": "s3cr/et@"})


def token(**_):
    config = 'authorization { token: "s3cr?et" }'
    return Way(config, ([], {"NATS_TOKEN": "s3cr?et"}), ([], {"NATS_TOKEN": "s3cret-wrong"}), {"token": "s3cr?et"})


def nkey(folder, **_):
    keys = {name: Nkey("user") for name in ("known", "other")}
    for name, key in keys.items():
        (folder / name).write_text(key.seed)
    config = f'authorization {{ users: [{{ nkey: {keys["known"].public} }}, {{ user: feed, password: f }}] }}'
    good, bad = [([], {"NATS_NKEY": str(folder / name)}) for name in keys]
    return Way(config, good, bad, {"user": "feed", "password": "f"})


def credentials(folder, **_):
    operator = Operator()
    known, stranger = operator.user(), operator.user(account=Nkey("account"))
    for name, user in (("known", known), ("stranger", stranger)):
        (folder / name).write_text(creds(*user))
    good, bad = [([], {"NATS_CREDS": str(folder / name)}) for name in ("known", "stranger")]
    return Way(operator.server_config, good, bad, login(*operator.user()))


def certificate(certificates, other_certificates, **_):
    config = certificates.nats_config(verify=True)
    ca = {"NATS_CA": str(certificates.ca)}

    def client(of):
        names = ("NATS_CERT", "NATS_KEY")
        return [], {**ca, **dict(zip(names, map(str, of.client), strict=True))}
    context = ssl.create_default_context(cafile=certificates.ca)
    context.load_cert_chain(*certificates.client)
    return Way(config, client(certificates), client(other_certificates), {"tls": context}, said="ertificate", scheme="tls", hint="check that TLS is on there, the CA and the certificates")


def start(start_weirgate, server, scheme, way):
    """A gateway that logs in this way."""
    (url_part, env) = way
    url = f"{scheme}://{''.join(url_part)}127.0.0.1:{server.port}"
    return start_weirgate("channels", "--bus", url, env={**EVERYTHING, **env})


@pytest.mark.parametrize("make", [password, password_in_the_url, token, nkey, credentials, certificate], ids=lambda make: make.__name__)
async def test_a_login_is_let_in_and_a_wrong_one_is_told(make, start_nats, start_weirgate, tmp_path, certificates, other_certificates):
    way = make(folder=tmp_path, certificates=certificates, other_certificates=other_certificates)
    server = start_nats(config=way.config)
    wrong = start(start_weirgate, server, way.scheme, way.bad)
    await until(lambda: "NATS is away" in wrong.log(), 20, f"the reason\n{wrong.log_tail()}")
    line = next(line for line in wrong.log().splitlines() if "NATS is away" in line)
    assert way.said in line and way.hint in line and f"127.0.0.1:{server.port}" in line, line
    assert wrong.health()["nats_connected"] is False and wrong.alive()

    weirgate = start(start_weirgate, server, way.scheme, way.good).wait_ready()
    client = await connect(weirgate, "a.b")
    publisher = await bus(server, url=f"{way.scheme}://127.0.0.1:{server.port}", **way.publisher)
    await say(publisher, "a.b", 1)
    await client.wait_for(lambda c: c.data, 10, "the message")
    assert client.short() == [("a.b", None, 1)]
    shown = [text for one in (wrong, weirgate) for text in (one.log(), *(one.get(path)[2] for path in ("/health", "/stats")))]
    assert not any("s3cr" in text or "BEGIN" in text for text in shown), shown
    await publisher.close()


async def test_a_file_of_credentials_that_is_replaced_counts_at_the_next_attempt(start_nats, start_weirgate, tmp_path):
    operator = Operator()
    file = tmp_path / "gateway.creds"
    server = start_nats(config=operator.server_config)
    weirgate = start_weirgate("channels", "--bus", server.url, "--nats-creds", file, env=EVERYTHING)
    # A file that is not there is a wrong setting, at the start alone.
    assert weirgate.wait(20) == 2 and "gateway.creds" in weirgate.log()
    file.write_text(creds(*operator.user(account=Nkey("account"))))
    weirgate = start_weirgate("channels", "--bus", server.url, "--nats-creds", file, env=EVERYTHING)
    await until(lambda: "Authorization Violation" in weirgate.log(), 20, f"the reason\n{weirgate.log_tail()}")
    file.write_text(creds(*operator.user()))
    await until(lambda: weirgate.health()["nats_connected"], 20, "the login with the new file")


async def test_a_refused_subject_of_a_token_concerns_only_its_holders(start_nats, start_weirgate, tmp_path):
    """The permissions are in the user's JWT; others get all that is theirs, and see no gap."""
    operator = Operator()
    file = tmp_path / "gateway.creds"
    file.write_text(creds(*operator.user(sub={"deny": ["secret.>"]})))
    server = start_nats(config=operator.server_config)
    weirgate = start_weirgate("channels", "--bus", server.url, "--nats-creds", file, env=EVERYTHING).wait_ready()
    bystander = await connect(weirgate, "open.a", "open.>")
    asking = await connect(weirgate, "secret.a", "open.b")
    publisher = await bus(server, **login(*operator.user()))
    for n in range(3):
        for subject in ("secret.a", "open.a", "open.b"):
            await say(publisher, subject, n)
    await bystander.wait_for(lambda c: len(c.data) == 9, 10, "its messages")
    await asking.wait_for(lambda c: len(c.data) == 3, 10, "what is open")
    assert asking.short() == [("open.b", None, n) for n in range(3)]
    # Neither a gap nor another response, and the connection to NATS is still the first.
    assert (bystander.missing, asking.missing, len(bystander.answers)) == (0, 0, 2)
    weirgate.logs("NATS refused a subscription", "secret.a")
    assert weirgate.log().count("NATS refused a subscription") == 1
    assert weirgate.ready_status() == 200 and "NATS is away" not in weirgate.log()
    await publisher.close()
