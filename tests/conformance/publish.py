#!/usr/bin/env python3
"""Makes a levels feed flow: publish.py NATS_URL [MESSAGES_PER_S [BYTES]], until it is ended.

Needs pip install nats-py.
"""
import asyncio
import json
import sys
import time

import nats


async def main(url, rate_hz=200.0, size_bytes=2048):
    connection = await nats.connect(url)
    due, n = time.monotonic(), 0
    while True:
        await connection.publish("market.flow", json.dumps({"n": n, "pad": "x" * size_bytes}).encode())
        n, due = n + 1, due + 1 / rate_hz
        await asyncio.sleep(max(0.0, due - time.monotonic()))


asyncio.run(main(sys.argv[1], *[float(a) for a in sys.argv[2:3]], *[int(a) for a in sys.argv[3:4]]))
