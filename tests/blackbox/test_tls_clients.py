"""Programs of other authors read a feed over TLS and check the certificate: curl, OpenSSL, Node, Chromium.

`OVER_TLS=1 make clients` has the libraries of seven languages and Firefox; tests/clients/test_gnutls.py has GnuTLS."""
import asyncio
import base64
import contextlib
import hashlib
import json
import os
import re
import subprocess

import pytest
import raw_feeds
from browser import Chromium, open_page
from processes import ROOT, node_binary, system_binary

PATH = "/ws/stream"


@pytest.fixture
def feed(start_tls):
    """The port of a feed over TLS."""
    return start_tls("demo").wait_ready().tls_port


def test_curl(feed, authority):
    headers = [part for line in raw_feeds.head(feed, PATH)[1:] for part in ("-H", line)]
    command = [system_binary("curl", "curl"), "-sSiN", "--http1.1", "--cacert", authority.ca, *headers, f"https://127.0.0.1:{feed}{PATH}"]
    assert len(raw_feeds.read(command)) == raw_feeds.COUNT


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_openssl(feed, authority, version):
    command = [system_binary("openssl", "openssl"), "s_client", "-connect", f"127.0.0.1:{feed}", "-quiet", version, "-CAfile", authority.ca,
               "-verify_return_error", "-verify_ip", "127.0.0.1"]
    assert len(raw_feeds.read(command, raw_feeds.head(feed, PATH))) == raw_feeds.COUNT


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
@pytest.mark.parametrize("name", [["-noservername"], ["-servername", "localhost"], ["-servername", "other.test"], ["-servername", "a.wild.test"],
                                  ["-servername", "127.0.0.1"]],
                         ids=lambda name: name[-1])
def test_of_two_certificates_the_client_gets_the_one_that_it_can_check(start_tls, authority, version, name):
    names = ["IP:127.0.0.1", "DNS:localhost", "DNS:*.wild.test"]
    pairs = [authority.sign("of-ec", *names), authority.sign("of-rsa", *names, key="rsa:2048")]
    weirgate = start_tls("demo", certificate=[",".join(str(pair[at]) for pair in pairs) for at in (0, 1)]).wait_ready()

    def subject(signatures):
        command = ["openssl", "s_client", "-connect", f"127.0.0.1:{weirgate.tls_port}", version, *name, "-sigalgs", signatures, "-CAfile", authority.ca]
        done = subprocess.run(command, input="", capture_output=True, text=True, timeout=20)
        assert "Verify return code: 0" in done.stdout or done.returncode, done.stdout
        return re.findall(r"^subject=CN = (\S+)$", done.stdout, re.M)
    rsa = "rsa_pss_rsae_sha256:RSA+SHA256"
    assert subject(rsa) == ["of-rsa"]
    assert subject("ecdsa_secp256r1_sha256") == ["of-ec"]
    assert subject(f"{rsa}:ecdsa_secp256r1_sha256") == ["of-ec"], "the first in the setting"
    assert "RSA key" not in weirgate.log()


def test_node(feed, authority):
    command = [node_binary(), ROOT / "tests/node/collect.mjs", f"wss://127.0.0.1:{feed}{PATH}", "5", "deflate"]
    done = subprocess.run(command, env={**os.environ, "NODE_EXTRA_CA_CERTS": str(authority.ca)}, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert all(json.loads(json.loads(line)) for line in done.stdout.splitlines()[1:6])
    unknown = subprocess.run(command, env={**os.environ, "NODE_EXTRA_CA_CERTS": ""}, capture_output=True, text=True, timeout=60)
    assert unknown.returncode == 1 and "certificate" in unknown.stderr, unknown


def trusting(certificate):
    """Chromium that takes the key of this certificate, and no other unknown one."""
    openssl = lambda command, given: subprocess.run(["openssl", *command.split()], input=given, capture_output=True, check=True).stdout
    key = openssl("pkey -pubin -outform der", openssl("x509 -noout -pubkey", certificate.read_bytes()))
    pin = base64.b64encode(hashlib.sha256(key).digest()).decode()

    class Trusting(Chromium):
        @staticmethod
        def arguments(folder, hosts):
            return [*Chromium.arguments(folder, hosts), f"--ignore-certificate-errors-spki-list={pin}"]
    return Trusting


@pytest.mark.chromium
async def test_chromium(feed, authority, local_certificate):
    # In its own page, which is of the same origin.
    async with open_page(f"https://127.0.0.1:{feed}/", trusting(local_certificate[0])) as page:
        got = await asyncio.wait_for(page.js(f"""new Promise((done) => {{
            const got = [], socket = new WebSocket("wss://127.0.0.1:{feed}{PATH}");
            socket.onmessage = ({{ data }}) => got.push(data) === {raw_feeds.COUNT} && done(got);
            socket.onerror = () => done([]);
        }})"""), 60)
        assert page.key_exchanges == {"X25519MLKEM768"}, "what Chromium prefers"
    assert len(got) == raw_feeds.COUNT and all(json.loads(text) for text in got)
    with contextlib.suppress(AssertionError):
        async with open_page(f"https://127.0.0.1:{feed}/"):
            raise RuntimeError("Chromium took a certificate of an unknown authority")
