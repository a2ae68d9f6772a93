"""Certificates of servers as people make them: their own authority (`openssl req -x509`), or of version 1. Whoever trusts exactly
this certificate can use the server; names and dates count. All places where weirgate is the client share one check; `tail` is
one of them."""
import asyncio
import ssl
import subprocess

import pytest
from identity_provider import KeySetServer, SigningKey
from processes import weirgate_binary

SAN = "subjectAltName=DNS:localhost\n"
EXTENSIONS = {
    "authority": f"{SAN}basicConstraints=critical,CA:TRUE\n",
    "leaf": f"{SAN}basicConstraints=critical,CA:FALSE\n",
    "name in CN": "basicConstraints=critical,CA:TRUE\n",
    "for clients": f"{SAN}extendedKeyUsage=clientAuth\n",
    "for any": f"{SAN}extendedKeyUsage=anyExtendedKeyUsage\n",
    "for signing certificates": f"{SAN}basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,cRLSign\n",
    "for servers": f"{SAN}basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,digitalSignature\nextendedKeyUsage=serverAuth\n",
    "version 1": None,
}


def self_made(folder, kind, days=2):
    """(certificate, key) of a kind, for localhost."""
    folder.mkdir()

    def openssl(command):
        subprocess.run(["openssl", *command.split()], cwd=folder, check=True, capture_output=True)
    openssl("req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout key -out csr -subj /CN=localhost")
    extensions = EXTENSIONS[kind]
    (folder / "extensions").write_text(extensions or "")
    openssl(f"x509 -req -days {days} -in csr -signkey key -out pem {'-extfile extensions' if extensions else ''}")
    return folder / "pem", folder / "key"


async def tail(gateway, ca, host="localhost"):
    """(status, standard error) of `weirgate tail` for one message."""
    command = [weirgate_binary(), "tail", f"wss://{host}:{gateway.tls_port}/ws/stream", "--ca-file", ca, "--count", "1"]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=30)
    return done.returncode, done.stderr


@pytest.mark.parametrize("kind", ["authority", "leaf", "name in CN", "version 1"])
async def test_a_certificate_that_is_trusted_itself_works_for_its_name(kind, start_tls, tmp_path):
    own = self_made(tmp_path / "own", kind)
    gateway = start_tls("demo", certificate=own).wait_ready()
    status, told = await tail(gateway, own[0])
    assert status == 0, told
    status, told = await tail(gateway, own[0], "127.0.0.1")
    assert status == 1 and "not valid for" in told, told
    # Of the same name and another key.
    other = self_made(tmp_path / "other", kind)
    status, told = await tail(gateway, other[0])
    help_words = {"authority": "CA:TRUE", "name in CN": "CA:TRUE", "version 1": "version 1"}.get(kind, "")
    assert status == 1 and help_words in told and "password" not in told, told


@pytest.mark.parametrize("kind", ["authority", "version 1"])
async def test_dates_count(kind, start_tls, tmp_path):
    old = self_made(tmp_path / "old", kind, days=-1)
    gateway = start_tls("demo", certificate=old).wait_ready()
    status, told = await tail(gateway, old[0])
    assert status == 1 and "expired" in told, told


@pytest.mark.parametrize(("kind", "works"), [("for clients", False), ("for any", False), ("for signing certificates", False), ("for servers", True)])
async def test_purposes_count_as_with_openssl(kind, works, start_tls, tmp_path):
    certificate, key = self_made(tmp_path / "own", kind)
    verified = subprocess.run(["openssl", "verify", "-purpose", "sslserver", "-CAfile", certificate, certificate], capture_output=True)
    assert (verified.returncode == 0) == works
    gateway = start_tls("demo", certificate=(certificate, key)).wait_ready()
    status, told = await tail(gateway, certificate)
    assert (status == 0) == works and (works or "Purpose" in told), told


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_key_set_comes_from_a_server_with_a_certificate_of_version_1(version, start_weirgate, redis_server, tmp_path):
    own = self_made(tmp_path / "own", "version 1")
    server = KeySetServer(SigningKey(tmp_path, "k"), certificate=own)
    server.server.socket.context.maximum_version = version
    url = server.url.replace("127.0.0.1", "localhost")
    start_weirgate("channels", "--jwt-jwks-url", url, "--jwt-jwks-ca-file", own[0], redis=redis_server,
                   env={"REQUIRE_AUTH": "true"}).wait_ready()
    server.server.shutdown()


async def test_a_bus_with_such_a_certificate_is_ready_and_no_fault_of_tls_names_the_password(start_weirgate, start_nats, tmp_path):
    certificate, key = self_made(tmp_path / "own", "authority")
    other, _ = self_made(tmp_path / "other", "authority")
    nats = start_nats(config=f'tls {{ cert_file: "{certificate}", key_file: "{key}" }}')
    url = f"tls://localhost:{nats.port}"
    start_weirgate("channels", "--bus", url, "--nats-ca", certificate).wait_ready()
    command = [weirgate_binary(), "channels", "--bus", url, "--nats-ca", other, "--check", "--connect", "--port", "0"]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True)
    told = done.stdout + done.stderr
    assert "no TLS with NATS" in told and "CA:TRUE" in told and "password" not in told, told
