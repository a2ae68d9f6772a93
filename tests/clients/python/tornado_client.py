"""Tornado, with compression."""
import asyncio

from line import PROTOCOLS, URL, obey_async, show, show_message
from tornado.websocket import websocket_connect


async def main():
    link = await websocket_connect(URL, subprotocols=PROTOCOLS or None, compression_options={}, max_message_size=1 << 30)
    show("open", link.selected_subprotocol)

    async def send(text):
        await link.write_message(text)

    async def close(code):
        link.close(code)
    await obey_async(send, close)
    while (message := await link.read_message()) is not None:
        show_message(message)
    show("closed", link.close_code)

asyncio.run(main())
