"""wsproto on a socket, with its extension permessage-deflate."""
import socket
import urllib.parse

from line import PROTOCOLS, URL, obey, show
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, CloseConnection, Ping, Request, TextMessage
from wsproto.extensions import PerMessageDeflate

at = urllib.parse.urlsplit(URL)
link = socket.create_connection((at.hostname, at.port))
protocol = WSConnection(ConnectionType.CLIENT)


def send(event):
    link.sendall(protocol.send(event))


send(Request(host=at.netloc, target=URL.partition(at.netloc)[2], subprotocols=PROTOCOLS, extensions=[PerMessageDeflate()]))
texts, code = [], None
while code is None:
    data = link.recv(1 << 16)
    protocol.receive_data(data or None)
    for event in protocol.events():
        match event:
            case AcceptConnection():
                show("open", event.subprotocol)
                obey(lambda text: send(TextMessage(text)), lambda code: send(CloseConnection(code)))
            case TextMessage():
                texts.append(event.data)
                if event.message_finished:
                    show("text", "".join(texts))
                    texts = []
            case Ping():
                send(event.response())
            case CloseConnection():
                code = event.code
                if protocol.state.name == "REMOTE_CLOSING":
                    send(event.response())
show("closed", code)
