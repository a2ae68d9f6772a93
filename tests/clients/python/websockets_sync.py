"""The library websockets, its client with threads."""
from line import PROTOCOLS, URL, obey, show, show_message
from websockets import ConnectionClosed
from websockets.sync.client import connect

with connect(URL, subprotocols=PROTOCOLS or None, max_size=None) as link:
    show("open", link.subprotocol)
    obey(link.send, link.close)
    try:
        while True:
            show_message(link.recv())
    except ConnectionClosed:
        show("closed", link.protocol.close_code)
