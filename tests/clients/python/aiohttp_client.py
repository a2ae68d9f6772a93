"""aiohttp."""
import asyncio

import aiohttp
from line import PROTOCOLS, URL, obey_async, show


async def main():
    async with aiohttp.ClientSession() as session, \
            session.ws_connect(URL, protocols=PROTOCOLS, compress=15, max_msg_size=0) as link:
        show("open", link.protocol)

        async def close(code):
            await link.close(code=code)
            show("closed", link.close_code)
        await obey_async(link.send_str, close)
        async for message in link:
            show("text", message.data) if message.type == aiohttp.WSMsgType.TEXT else show("failed", message)
        # An own close ends the loop before it is sent.
        if link.close_code is None:
            await asyncio.sleep(60)
        show("closed", link.close_code)

asyncio.run(main())
