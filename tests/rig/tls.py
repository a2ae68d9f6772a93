"""TLS towards clients: certificates with elliptic curves, a gateway with a TLS port, and a raw TLS client."""
import http.client
import socket
import ssl
import subprocess

import pytest
from processes import free_port


class Authority:
    """An authority in `ca`, which signs certificates with P-256 keys."""

    def __init__(self, folder, name="weirgate tests"):
        self.folder, self.ca = folder, folder / "ca.pem"
        self._openssl(f"req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -keyout ca.key -out ca.pem",
                      "-subj", f"/CN={name}")

    def _openssl(self, command, *more):
        subprocess.run(["openssl", *command.split(), *more], cwd=self.folder, check=True, capture_output=True)

    def sign(self, name, *names, days=30, key="ec -pkeyopt ec_paramgen_curve:P-256"):
        """(certificate, key): files of a certificate for these names, each as openssl writes it (DNS:…, IP:…)."""
        (self.folder / f"{name}.names").write_text(f"subjectAltName={','.join(names)}\n")
        self._openssl(f"req -newkey {key} -nodes -subj /CN={name} -keyout {name}.key -out {name}.csr")
        self._openssl(f"x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days {days} -extfile {name}.names "
                      f"-out {name}.pem")
        return self.folder / f"{name}.pem", self.folder / f"{name}.key"

    def sign_until(self, end, name, *names):
        """As `sign`, but the certificate ends at this second, a datetime in UTC."""
        certificate, key = self.sign(name, *names)
        (self.folder / "index").write_text("")
        (self.folder / "ca.cnf").write_text("[ca]\ndefault_ca = a\n[a]\nnew_certs_dir = .\ndatabase = index\nserial = serial\ndefault_md = sha256\npolicy = p\n"
                                            "[p]\ncommonName = supplied\n")
        self._openssl(f"ca -batch -config ca.cnf -create_serial -cert ca.pem -keyfile ca.key -in {name}.csr -out {name}.pem -notext "
                      f"-extfile {name}.names -days 1 -enddate {end:%Y%m%d%H%M%SZ}")
        return certificate, key

    def context(self, certificate=None, version=None):
        """What a client trusts and shows; `version`: the only one that it speaks."""
        context = ssl.create_default_context(cafile=str(self.ca))
        if certificate:
            context.load_cert_chain(*certificate)
        if version:
            context.minimum_version = context.maximum_version = version
        return context


@pytest.fixture(scope="session")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="session")
def local_certificate(authority):
    """(certificate, key) for 127.0.0.1 and localhost."""
    return authority.sign("local", "IP:127.0.0.1", "DNS:localhost")


@pytest.fixture
def start_tls(start_weirgate, local_certificate):
    """start_tls(gateway, *flags, certificate=(file, key), **kwargs) → a gateway with `tls_port`."""
    def start(gateway, *flags, certificate=local_certificate, **kwargs):
        port = free_port()
        flags = ("--tls-port", str(port), "--tls-cert", str(certificate[0]), "--tls-key", str(certificate[1]), *flags)
        weirgate = start_weirgate(gateway, *flags, **kwargs)
        weirgate.tls_port = port
        return weirgate
    return start


def get(port, path, context, name="127.0.0.1"):
    """(status, body) of a page over TLS."""
    connection = http.client.HTTPSConnection(name, port, context=context, timeout=20)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def is_there(port, context):
    """Whether /health answers over TLS."""
    try:
        return get(port, "/health", context)[0] == 200
    except OSError:
        return False


class MemoryClient:
    """A TLS client whose bytes the test moves: `cut` bytes at a time go to the server."""

    def __init__(self, port, context, cut=None, name="localhost"):
        self._begin(socket.create_connection(("127.0.0.1", port), timeout=20), context, cut, name)

    @classmethod
    def on(cls, connected, context):
        """The same on a socket that is connected."""
        client = cls.__new__(cls)
        client._begin(connected, context)
        return client

    def _begin(self, connected, context, cut=None, name="localhost"):
        self.socket = connected
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.cut, self.incoming, self.outgoing = cut, ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_hostname=name)

    def _move(self, operation, *args):
        while True:
            try:
                result = operation(*args)
            except ssl.SSLWantReadError:
                result = None
            self.flush()
            if result is not None:
                return result
            data = self.socket.recv(65536)
            self.incoming.write(data) if data else self.incoming.write_eof()

    def flush(self):
        data = self.outgoing.read()
        step = self.cut or len(data) or 1
        for at in range(0, len(data), step):
            self.socket.sendall(data[at:at + step])

    def greet(self):
        self._move(lambda: self.tls.do_handshake() or True)
        return self

    def write(self, data):
        self.tls.write(data)
        self.flush()

    def read(self, count=65536):
        return self._move(self.tls.read, count)

    def read_until(self, end):
        data = b""
        while end not in data:
            part = self.read()
            assert part, f"the end of the connection behind {data[-200:]!r}"
            data += part
        return data

    def close(self):
        self.socket.close()
