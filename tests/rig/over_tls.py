"""With OVER_TLS=1 the tests' own clients speak TLS: each gateway listens for TLS beside its plain port, and who connects to the plain port
from this process by asyncio, `socket.create_connection` or what is built on them is led to the other one.

Other programs (Node, browsers, proxies, loadtest) and sockets that a test makes by hand stay as they are.
"""
import asyncio
import os
import socket
import ssl

from processes import free_port

GATEWAYS = {"levels", "trades", "events", "channels", "demo"}
# The port for TLS, by the plain port.
ports = {}


def is_on():
    return os.environ.get("OVER_TLS") == "1"


def flags(args, certificate):
    """The flags that a gateway gets besides, and its port for TLS; none for a test with settings of TLS of its own."""
    named = [str(arg) for arg in args]
    if named[0] not in GATEWAYS or any(arg.startswith(("--tls", "--port", "--listen", "--reuse-port")) for arg in named):
        return [], None
    port = free_port()
    return ["--tls-port", str(port), "--tls-cert", str(certificate[0]), "--tls-key", str(certificate[1]),
            "--tls-handshakes-max", "2000"], port


def lead(context):
    """Leads connections of this process to the ports for TLS."""
    create_connection, loop_type = socket.create_connection, asyncio.base_events.BaseEventLoop
    loop_create_connection = loop_type.create_connection

    def connect(address, *args, **kwargs):
        host, port = address
        if port not in ports:
            return create_connection(address, *args, **kwargs)
        return context.wrap_socket(create_connection((host, ports[port]), *args, **kwargs), server_hostname="localhost")

    async def loop_connect(self, protocol_factory, host=None, port=None, **kwargs):
        if port in ports and not kwargs.get("ssl"):
            port, kwargs["ssl"], kwargs["server_hostname"] = ports[port], context, "localhost"
        return await loop_create_connection(self, protocol_factory, host, port, **kwargs)
    socket.create_connection = connect
    loop_type.create_connection = loop_connect
