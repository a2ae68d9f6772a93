"""Records of TLS 1.3 sealed by hand, with OpenSSL's AES-GCM: key updates, which no library sends on request."""
import ctypes
import ctypes.util
import hashlib
import hmac
import pathlib
import ssl
import struct
import tempfile

from clients import upgrade_request
from tls import MemoryClient

HANDSHAKE, DATA = 22, 23
_crypto = ctypes.CDLL(ctypes.util.find_library("crypto"))
for _name in ("EVP_CIPHER_CTX_new", "EVP_aes_128_gcm", "EVP_aes_256_gcm"):
    getattr(_crypto, _name).restype = ctypes.c_void_p
_GET_TAG = 0x10


def _gcm(key, nonce, data, head):
    """The sealed data and its tag of 16 bytes."""
    cipher = ctypes.c_void_p(_crypto.EVP_aes_128_gcm() if len(key) == 16 else _crypto.EVP_aes_256_gcm())
    work = ctypes.c_void_p(_crypto.EVP_CIPHER_CTX_new())
    out, tag, count = ctypes.create_string_buffer(len(data) + 16), ctypes.create_string_buffer(16), ctypes.c_int()
    _crypto.EVP_EncryptInit_ex(work, cipher, None, key, nonce)
    _crypto.EVP_EncryptUpdate(work, None, ctypes.byref(count), head, len(head))
    _crypto.EVP_EncryptUpdate(work, out, ctypes.byref(count), data, len(data))
    _crypto.EVP_EncryptFinal_ex(work, None, ctypes.byref(count))
    _crypto.EVP_CIPHER_CTX_ctrl(work, _GET_TAG, 16, tag)
    _crypto.EVP_CIPHER_CTX_free(work)
    return out.raw[:len(data)] + tag.raw


def _expand(hash_name, secret, label, count):
    """HKDF-Expand-Label of RFC 8446 §7.1 without a context."""
    info = struct.pack("!HB", count, 6 + len(label)) + b"tls13 " + label + b"\0"
    return hmac.new(secret, info + b"\x01", hash_name).digest()[:count]


class Sealer:
    """A client over TLS 1.3 on a connected socket, after its handshake and the upgrade at `path`."""
    _log = pathlib.Path(tempfile.mkstemp(prefix="weirgate-keys-")[1])
    _contexts = {}

    def __init__(self, connected, authority, path=None):
        context = self._contexts.get(authority.ca)
        if context is None:
            context = self._contexts[authority.ca] = authority.context(version=ssl.TLSVersion.TLSv1_3)
            context.keylog_filename = str(self._log)
        self.client = MemoryClient.on(connected, context).greet()
        self.socket = connected
        lines = self._log.read_text().splitlines()
        secret = next(line.split()[2] for line in reversed(lines) if line.startswith("CLIENT_TRAFFIC_SECRET_0"))
        self._log.write_text("")
        cipher = self.client.tls.cipher()[0]
        assert "GCM" in cipher, cipher
        self.hash_name, self.key_bytes = ("sha384", 32) if "256_GCM" in cipher else ("sha256", 16)
        self._use(bytes.fromhex(secret))
        if path:
            self.socket.sendall(self.record(upgrade_request(0, path)))
            assert self.client.read_until(b"\r\n\r\n").startswith(b"HTTP/1.1 101")

    def _use(self, secret):
        self.secret, self.number = secret, 0
        self.key = _expand(self.hash_name, secret, b"key", self.key_bytes)
        self.iv = int.from_bytes(_expand(self.hash_name, secret, b"iv", 12), "big")

    def record(self, content, kind=DATA):
        """The bytes of a record."""
        inner = content + bytes([kind])
        head = b"\x17\x03\x03" + struct.pack("!H", len(inner) + 16)
        sealed = _gcm(self.key, (self.iv ^ self.number).to_bytes(12, "big"), inner, head)
        self.number += 1
        return head + sealed

    def key_update(self, wants_one=0):
        """A record with a key update, which asks for one of the gateway's if `wants_one` is 1."""
        update = self.record(b"\x18\0\0\1" + bytes([wants_one]), HANDSHAKE)
        self._use(_expand(self.hash_name, self.secret, b"traffic upd", hashlib.new(self.hash_name).digest_size))
        return update

    def close(self):
        self.socket.close()
