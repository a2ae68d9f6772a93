"""Certificates made by a test with openssl, and servers with these certificates."""
import subprocess

import pytest
from processes import RedisServer, free_port


RSA = "rsa:2048"
# Made in a hundredth of the time.
ELLIPTIC = "ec -pkeyopt ec_paramgen_curve:P-256"


class Certificates:
    """An authority in `ca`, and the signed certificates: `server` for 127.0.0.1, `elsewhere` for localhost, and `client`; each
    (certificate, key). `key` is the kind of the keys, but for that of `elsewhere`."""

    def __init__(self, folder, name="ca", key=ELLIPTIC):
        self.folder, self.ca = folder, folder / "ca.pem"
        self._openssl(f"req -x509 -newkey {key} -nodes -days 2 -subj /CN={name} -keyout ca.key -out ca.pem")
        self.server = self._sign("srv", "IP:127.0.0.1", key)
        self.elsewhere = self._sign("elsewhere", "DNS:localhost", ELLIPTIC)
        self.client = self._sign("cl", "email:gw@example.test", key)

    def _openssl(self, command):
        subprocess.run(["openssl", *command.split()], cwd=self.folder, check=True, capture_output=True)

    def _sign(self, name, alternative, key):
        (self.folder / "names").write_text(f"subjectAltName={alternative}\n")
        self._openssl(f"req -newkey {key} -nodes -subj /CN={name} -keyout {name}.key -out {name}.csr")
        self._openssl(f"x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile names -out {name}.pem")
        return self.folder / f"{name}.pem", self.folder / f"{name}.key"

    def nats_config(self, verify=False):
        """The lines of a nats-server with TLS; `verify`: the server requires a certificate of clients."""
        certificate, key = self.server
        more = f', ca_file: "{self.ca}", verify: true' if verify else ""
        return f'tls {{ cert_file: "{certificate}", key_file: "{key}" {more} }}'

    def redis_config(self, port):
        """The lines of a redis-server or a sentinel with a certificate at a port."""
        certificate, key = self.server
        return [f"tls-port {port}", f"tls-cert-file {certificate}", f"tls-key-file {key}", f"tls-ca-cert-file {self.ca}",
                "tls-auth-clients no"]


class TlsRedis(RedisServer):
    """A redis-server with a certificate at `tls_port`; the port without TLS is for the test."""

    def __init__(self, certificates, *args):
        self.tls_port = free_port()
        tls = (word for line in certificates.redis_config(self.tls_port) for word in f"--{line}".split(" "))
        super().__init__(*tls, *args)


@pytest.fixture(scope="session")
def certificates(tmp_path_factory):
    """Certificates of an authority of the tests."""
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="session")
def other_certificates(tmp_path_factory):
    """Certificates of another authority of the tests."""
    return Certificates(tmp_path_factory.mktemp("other-certificates"), "another", RSA)
