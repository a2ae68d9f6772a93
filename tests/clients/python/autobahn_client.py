"""Autobahn on asyncio, with compression."""
import asyncio
import urllib.parse

from autobahn.asyncio.websocket import WebSocketClientFactory, WebSocketClientProtocol
from autobahn.websocket.compress import (
    PerMessageDeflateOffer, PerMessageDeflateResponse, PerMessageDeflateResponseAccept)
from line import PROTOCOLS, URL, obey_async, show


class Client(WebSocketClientProtocol):
    async def onOpen(self):
        show("open", self.websocket_protocol_in_use)
        await obey_async(self.send, self.close)

    async def send(self, text):
        self.sendMessage(text.encode())

    async def close(self, code):
        self.sendClose(code)

    def onMessage(self, payload, is_binary):
        show("text", payload.decode())

    def onClose(self, clean, code, reason):
        show("closed", self.remoteCloseCode)
        loop.stop()


def accept(response):
    return PerMessageDeflateResponseAccept(response) if isinstance(response, PerMessageDeflateResponse) else None


loop = asyncio.new_event_loop()
asyncio.set_event_loop(loop)
factory = WebSocketClientFactory(URL, protocols=PROTOCOLS or None, loop=loop)
factory.protocol = Client
factory.setProtocolOptions(perMessageCompressionOffers=[PerMessageDeflateOffer()], perMessageCompressionAccept=accept)
at = urllib.parse.urlsplit(URL)
loop.run_until_complete(loop.create_connection(factory, at.hostname, at.port, ssl=at.scheme == "wss"))
loop.run_forever()
