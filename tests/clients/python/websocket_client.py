"""The library websocket-client."""
import websocket
from line import PROTOCOLS, URL, obey, show


def opened(app):
    show("open", app.sock.subprotocol)
    obey(app.send, lambda code: app.close(status=code))


websocket.WebSocketApp(
    URL, subprotocols=PROTOCOLS or None, on_open=opened,
    on_message=lambda app, text: show("text", text),
    on_close=lambda app, code, reason: show("closed", code)).run_forever()
