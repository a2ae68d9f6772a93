"""abuse.py against a server that speaks TLS at the port of --ws: abuse_over_tls.py CERTIFICATE OPTION…; the options are those of abuse.py.

Every socket that the suite makes is one of TLS, whose handshake comes before the first byte. A cut stays a cut of TCP.
"""
import contextlib
import socket
import ssl
import sys
import threading

import abuse
from attacks import sockets

CHUNK = 65_536


class TlsSocket:
    """A socket as the suite uses it. One thread may read while another one writes."""
    context = None

    def __init__(self, connected=None):
        self.plain = connected or socket.socket()
        self.incoming, self.outgoing, self.unsent = ssl.MemoryBIO(), ssl.MemoryBIO(), b""
        self.tls = self.context.wrap_bio(self.incoming, self.outgoing, server_hostname="localhost")
        self.lock, self.has_greeted = threading.Lock(), False

    def __getattr__(self, name):
        return getattr(self.plain, name)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.plain.close()

    def _step(self, operation, *args):
        """The result of an operation of the library; None if it waits for bytes of the server. What it wrote is in `unsent`."""
        with self.lock:
            try:
                return operation(*args)
            except ssl.SSLWantReadError:
                return None
            except ssl.SSLError as error:
                raise ConnectionResetError(str(error)) from error
            finally:
                self.unsent += self.outgoing.read()

    def _read_more(self):
        """Bytes of the server for the library; False at the end."""
        data = self.plain.recv(4 * CHUNK)
        with self.lock:
            self.incoming.write(data)
        return bool(data)

    def _greet(self):
        while not self.has_greeted:
            self.has_greeted = self._step(lambda: self.tls.do_handshake() or True)
            self._flush()
            if not self.has_greeted and not self._read_more():
                raise ConnectionResetError("the end within the handshake")

    def _flush(self):
        """Sends what the library wrote; a socket that does not block may keep a part."""
        while self.unsent:
            sent = self.plain.send(self.unsent)
            with self.lock:
                self.unsent = self.unsent[sent:]

    def send(self, data):
        self._greet()
        self._flush()
        data = bytes(data[:CHUNK])
        self._step(self.tls.write, data)
        with contextlib.suppress(BlockingIOError):
            self._flush()
        return len(data)

    def sendall(self, data):
        for at in range(0, len(data), CHUNK):
            self.send(data[at:at + CHUNK])

    def recv(self, size):
        self._greet()
        while True:
            try:
                data = self._step(self._open, size)
            except EOFError:
                return b""
            if data:
                return data
            if not self._read_more():
                return b""

    def _open(self, size):
        try:
            return self.tls.read(size) or self._end()
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            return self._end()

    @staticmethod
    def _end():
        raise EOFError

    def shutdown(self, how):
        """The goodbye of TLS goes first."""
        self._greet()
        self._step(self.tls.unwrap)
        self._flush()
        self.plain.shutdown(how)


def create_connection(*args, **kwargs):
    return TlsSocket(socket.create_connection(*args, **kwargs))


if __name__ == "__main__":
    TlsSocket.context = ssl.create_default_context(cafile=sys.argv.pop(1))
    sockets.new, sockets.connected = TlsSocket, create_connection
    sys.exit(abuse.main())
