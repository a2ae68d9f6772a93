"""Prints the price of each message that the Python client of a version gets, one a line, and ends after COUNT.

    PYTHONPATH=the version's clients/python/src python neighbour.py trades|channels|events PORT COUNT
"""
import asyncio
import sys

import weirgate


async def main(gateway, port, count):
    url = f"ws://127.0.0.1:{port}"
    if gateway == "trades":
        client = weirgate.Trades(f"{url}/")
        client.subscribe("A")
    elif gateway == "channels":
        client = weirgate.Channels(f"{url}/ws")
        client.subscribe("market:tick:A")
    else:
        client = weirgate.Devices(f"{url}/ws", device_id="a")
    left = count
    async with client:
        async for message in client:
            data = {"trades": lambda: message, "channels": lambda: message["data"], "events": lambda: message.data}[gateway]()
            print(data["price"], flush=True)
            left -= 1
            if left == 0:
                return


asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
