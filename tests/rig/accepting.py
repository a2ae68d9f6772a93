"""A server of raw sockets, with a thread for each connection."""
import socket
import threading


class Accepting:
    """Listens at a free port of this machine. A subclass has `serve(connection)`, and is complete before it calls `__init__`."""

    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = self.listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def discard(self):
        self.listener.close()
