"""A foreign server, with a good certificate for another name."""
import ssl

from accepting import Accepting


class Impostor(Accepting):
    """Greets each connection, shows the certificate, and keeps all data from clients inside TLS."""

    def __init__(self, certificate, greeting=b""):
        self.greeting = greeting
        # Data from clients inside TLS, and the number of aborted handshakes.
        self.told, self.refused = [], 0
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(*certificate)
        super().__init__()

    def serve(self, client):
        client.settimeout(5)
        try:
            client.sendall(self.greeting)
            with self._context.wrap_socket(client, server_side=True) as inside:
                if said := inside.recv(65_536):
                    self.told.append(said)
        except ssl.SSLError:
            self.refused += 1
        except OSError:
            pass

    def log_tail(self):
        return f"--- the impostor: refused {self.refused} times, told {self.told}"
