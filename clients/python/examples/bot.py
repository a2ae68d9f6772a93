"""A bot on `weirgate channels`: prints the messages of the named channels, and reports missing messages.

    pip install ./clients/python   (in a checkout)
    TOKEN=… python bot.py ws://localhost:8889/ws 'market:tick:*'
"""
import asyncio
import os
import sys

import weirgate


async def main(url="ws://localhost:8889/ws", *channels):
    async def fetch_token(refused):
        # A real bot fetches a new token here, and never uses a cached token if `refused` is true.
        return os.environ.get("TOKEN")

    feed = weirgate.Channels(
        url, token=fetch_token,
        on_status=lambda status: print("connection:", status, file=sys.stderr),
        on_gap=lambda gap: print("missing:", gap.first, "to", gap.last, file=sys.stderr),
        on_error=lambda error: print("refused:", error, file=sys.stderr))
    async with feed:
        wanted = await feed.subscribe(channels or ["market:tick:*"])
        print("subscribed:", wanted.granted, file=sys.stderr)
        async for message in wanted:
            print(message["channel"], message["data"])


try:
    asyncio.run(main(*sys.argv[1:]))
except KeyboardInterrupt:
    pass
except weirgate.RequestError as error:
    sys.exit(f"{error.code}: {error}")
