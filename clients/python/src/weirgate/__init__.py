"""Clients for weirgate: a WebSocket with reconnects, detection of old data, and renewed subscriptions.

    import asyncio, weirgate

    async def main():
        async with weirgate.Levels("ws://localhost:8000/ws/stream") as levels:
            async for state in levels:
                print(state.get("levels", {}).get("es"))

    asyncio.run(main())

`weirgate.sync` has the same clients for programs without asyncio.
"""
from .aio import Channels, Devices, Levels, Subscription, Trades, connect
from .connection import Connection
from .core import Close, Gap, RequestError, Status
from .options import Brings, Candle, ChannelMessage, LastEnd, RetainedEnd, Trade
from .sessions import Push
from .status import FeedStatus
from .watching import Latency, latency_of, status_of

__version__ = "0.1.0"
__all__ = [
    "Brings", "Candle", "ChannelMessage", "Channels", "Close", "Connection", "Devices", "FeedStatus", "Gap", "LastEnd", "Latency",
    "Levels", "Push", "RequestError", "RetainedEnd", "Status", "Subscription", "Trade", "Trades", "connect", "latency_of", "status_of",
]
