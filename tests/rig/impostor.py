"""A foreign server, with a good certificate for another name."""
import socket
import ssl
import threading


class Impostor:
    """Greets each connection, shows the certificate, and keeps all data from clients inside TLS."""

    def __init__(self, certificate, greeting=b""):
        self.greeting = greeting
        # Data from clients inside TLS, and the number of aborted handshakes.
        self.told, self.refused = [], 0
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(*certificate)
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=50)
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client):
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

    def discard(self):
        self._listener.close()
