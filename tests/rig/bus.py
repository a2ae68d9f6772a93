"""Publishing to the streams that a levels gateway reads."""
import contextlib
import json

import nats
from nats.js.api import StorageType, StreamConfig

FLOW, LEVELS = "market.flow", "levels.signals"


@contextlib.asynccontextmanager
async def publisher(server):
    """A NATS connection with both streams, without reconnects."""
    connection = await nats.connect(server.url, allow_reconnect=False, connect_timeout=5)
    try:
        streams = connection.jetstream(timeout=10)
        for name, subjects in (("LEVEL_SIGNALS", ["levels.*"]), ("MARKET_DATA", ["market.*", "market.*.*"])):
            try:
                await streams.stream_info(name)
            except nats.js.errors.NotFoundError:
                await streams.add_stream(StreamConfig(name=name, subjects=subjects, max_age=86_400, storage=StorageType.FILE))
        yield Publisher(connection, streams)
    finally:
        if not connection.is_closed:
            await connection.close()


class Publisher:
    """Sends messages to both streams; `flow` sends a value, which clients get under that key."""

    def __init__(self, connection, streams):
        self.connection, self.streams = connection, streams

    async def flow(self, value, flush=True):
        """Sends a message to the stream without waiting for the acknowledgement."""
        await self.connection.publish(FLOW, json.dumps(value).encode())
        if flush:
            await self.connection.flush()

    async def levels(self, value):
        """One levels.signals message, acknowledged by the stream."""
        await self.streams.publish(LEVELS, json.dumps(value).encode())
