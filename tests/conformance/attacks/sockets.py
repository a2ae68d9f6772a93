"""How the suite makes each of its sockets. abuse_over_tls.py puts others here."""
import socket

new = socket.socket
connected = socket.create_connection
