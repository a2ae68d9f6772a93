"""The library websockets, its client for asyncio."""
import asyncio

import websockets
from line import PROTOCOLS, URL, obey_async, show, show_message


async def main():
    async with websockets.connect(URL, subprotocols=PROTOCOLS or None, max_size=None) as link:
        show("open", link.subprotocol)
        await obey_async(link.send, link.close)
        try:
            while True:
                show_message(await link.recv())
        except websockets.ConnectionClosed:
            show("closed", link.close_code)

asyncio.run(main())
