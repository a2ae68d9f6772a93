"""curl_cffi."""
import asyncio

from curl_cffi import AsyncSession, CurlWsFlag, WebSocketClosed
from line import URL, obey_async, show


async def main():
    async with AsyncSession() as session:
        link = await session.ws_connect(URL)
        show("open")
        await obey_async(link.send_str, link.close)
        try:
            while (message := await link.recv()) and not message[1] & CurlWsFlag.CLOSE:
                show("text", message[0].decode())
        except WebSocketClosed:
            pass
        show("closed", link.close_code)

asyncio.run(main())
