"""An identity provider: keys, tokens signed with RS256 by openssl, and a server with the key set."""
import base64
import json
import ssl
import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def base64_url(data):
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


class SigningKey:
    """An RSA key with a key id."""

    def __init__(self, folder, kid):
        self.kid, self.file = kid, folder / f"{kid}.pem"
        self._openssl("genrsa", "-out", str(self.file), "2048")
        modulus = self._openssl("rsa", "-in", str(self.file), "-noout", "-modulus").decode().strip().split("=")[1]
        self.jwk = {"kty": "RSA", "use": "sig", "kid": kid, "n": base64_url(bytes.fromhex(modulus)), "e": "AQAB"}

    @staticmethod
    def _openssl(*command, data=b""):
        return subprocess.run(["openssl", *command], input=data, check=True, capture_output=True).stdout

    def token(self, head={"typ": "JWT"}, **claims):
        """A token with these claims for an hour, and with `head` in its header, without what is `None` there."""
        head = {"alg": "RS256", "kid": self.kid, **head}
        head = {name: value for name, value in head.items() if value is not None}
        body = {"iat": int(time.time()), "exp": int(time.time()) + 3600, **claims}
        text = ".".join(base64_url(json.dumps(part).encode()) for part in (head, body))
        return f"{text}.{base64_url(self._openssl('dgst', '-sha256', '-sign', str(self.file), data=text.encode()))}"


class KeySetServer:
    """A server with a key set at `url`. `answer` is called with the handler for each request; `None` sends the keys."""

    def __init__(self, *keys, certificate=None):
        self.keys, self.answer, self.requests = list(keys), None, []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                outer.requests.append(self.path)
                (outer.answer or KeySetServer.send_keys)(self)

            def log_message(self, *_):
                pass

            served = outer

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*certificate)
            # The handshake belongs to the thread of the request: a client that breaks off must not stop the others.
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True, do_handshake_on_connect=False)
        scheme = "https" if certificate else "http"
        self.url = f"{scheme}://127.0.0.1:{self.server.server_address[1]}/keys"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def send_keys(self):
        KeySetServer.send(self, 200, json.dumps({"keys": [key.jwk for key in self.served.keys]}).encode())

    def send(self, status, body, **headers):
        """Sends a response; `self` is the handler."""
        self.send_response(status)
        for name, value in {"content-length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        try:
            self.wfile.write(body)
        except OSError:
            pass

    def stop(self):
        self.server.shutdown()
        self.server.server_close()
