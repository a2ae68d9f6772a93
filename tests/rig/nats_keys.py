"""Keys of NATS (nkeys), and the JWTs of an operator, an account and a user, as `nsc` makes them. Signed by openssl."""
import base64
import binascii
import json
import pathlib
import subprocess
import tempfile

# https://docs.nats.io/reference/reference-protocols/nats-server-client#nkeys: the kind is in the first letter.
SEED, KINDS = 18 << 3, {"operator": 14 << 3, "account": 0, "user": 20 << 3}


def _openssl(*command, data=b""):
    return subprocess.run(["openssl", *command], input=data, check=True, capture_output=True).stdout


def _encoded(data):
    return base64.b32encode(data + binascii.crc_hqx(data, 0).to_bytes(2, "little")).decode().rstrip("=")


def _base64_url(data):
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


class Nkey:
    """A key pair of an operator, an account or a user."""

    def __init__(self, kind):
        prefix = KINDS[kind]
        self._der = _openssl("genpkey", "-algorithm", "ed25519", "-outform", "DER")
        public = _openssl("pkey", "-inform", "DER", "-pubout", "-outform", "DER", data=self._der)
        self.public = _encoded(bytes([prefix]) + public[-32:])
        self.seed = _encoded(bytes([SEED | prefix >> 5, (prefix & 31) << 3]) + self._der[-32:])

    def sign(self, data):
        with tempfile.TemporaryDirectory() as folder:
            key, text = pathlib.Path(folder, "key"), pathlib.Path(folder, "text")
            key.write_bytes(self._der)
            text.write_bytes(data)
            return _openssl("pkeyutl", "-sign", "-inkey", str(key), "-keyform", "DER", "-rawin", "-in", str(text))

    def jwt(self, subject, claims):
        """A token about the key `subject`, signed by this key."""
        head = {"typ": "JWT", "alg": "ed25519-nkey"}
        body = {"jti": subject.public, "iat": 1_700_000_000, "iss": self.public, "sub": subject.public, "name": "test",
                "nats": {"version": 2, **claims}}
        text = ".".join(_base64_url(json.dumps(part).encode()) for part in (head, body))
        return f"{text}.{_base64_url(self.sign(text.encode()))}"


class Operator:
    """An operator with an account; `server_config` is for a server with trust in the operator."""

    def __init__(self):
        self.key, self.account = Nkey("operator"), Nkey("account")
        system = Nkey("account")
        token = self.key.jwt(self.key, {"type": "operator"})
        self.server_config = (f"operator: {token}\nsystem_account: {system.public}\nresolver: MEMORY\nresolver_preload: {{ "
                              f"{system.public}: {self._account(system, 0)}, {self.account.public}: {self._account(self.account, -1)} }}")

    def _account(self, key, storage):
        names = ("subs", "data", "payload", "imports", "exports", "conn", "leaf", "streams", "consumer")
        limits = {**dict.fromkeys(names, -1), "wildcards": True, "mem_storage": storage, "disk_storage": storage}
        return self.key.jwt(key, {"type": "account", "limits": limits})

    def user(self, account=None, **permissions):
        """(key, token) of a user of the account, or of another account."""
        key = Nkey("user")
        claims = {"type": "user", "subs": -1, "data": -1, "payload": -1, **permissions}
        return key, (account or self.account).jwt(key, claims)


def creds(key, token):
    """The text of a credentials file."""
    return (f"-----BEGIN NATS USER JWT-----\n{token}\n------END NATS USER JWT------\n\n"
            f"-----BEGIN USER NKEY SEED-----\n{key.seed}\n------END USER NKEY SEED------\n")


def login(key, token):
    """Options for a client of nats-py to log in as this user."""
    return {"user_jwt_cb": lambda: token.encode(), "signature_cb": lambda nonce: base64.b64encode(key.sign(nonce.encode()))}
