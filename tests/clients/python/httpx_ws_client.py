"""httpx-ws."""
import asyncio

import httpx_ws
from line import PROTOCOLS, URL, obey_async, show


async def main():
    async with httpx_ws.aconnect_ws(URL, subprotocols=PROTOCOLS or None, max_message_size_bytes=1 << 30) as link:
        show("open", link.subprotocol)
        await obey_async(link.send_text, link.close)
        try:
            while True:
                show("text", await link.receive_text())
        except httpx_ws.WebSocketDisconnect as end:
            show("closed", end.code)
        except httpx_ws.WebSocketNetworkError:
            show("closed", 1006)

asyncio.run(main())
