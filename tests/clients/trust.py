"""What the clients trust over TLS: an authority of the run, named in the ways of all their libraries."""
import pathlib
import subprocess

from processes import free_port
from tls import Authority

PASSWORD = "changeit"


class Trust:
    """A certificate of an authority in the folder. `env` has clients trust the authority, and no other."""

    def __init__(self, folder):
        self.authority = Authority(pathlib.Path(folder))
        self.certificate, self.key = self.authority.sign("local", "IP:127.0.0.1", "DNS:localhost")
        ca, store = str(self.authority.ca), self.authority.folder / "ca.p12"
        # A client in Java fails without it, and says so.
        subprocess.run(["keytool", "-importcert", "-noprompt", "-alias", "ca", "-file", ca, "-keystore", store, "-storetype", "PKCS12",
                        "-storepass", PASSWORD], capture_output=True, check=False)
        names = ("SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS", "DENO_CERT", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "WEBSOCKET_CLIENT_CA_BUNDLE",
                 "MOJO_CA_FILE")
        java = f"-Djavax.net.ssl.trustStore={store} -Djavax.net.ssl.trustStorePassword={PASSWORD}"
        self.env = {**dict.fromkeys(names, ca), "JAVA_TOOL_OPTIONS": java}

    def flags(self):
        """The flags of a gateway, and its port for TLS."""
        port = free_port()
        return ["--tls-port", str(port), "--tls-cert", str(self.certificate), "--tls-key", str(self.key)], port
