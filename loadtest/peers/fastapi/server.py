"""FastAPI on uvicorn as the replaced levels gateway uses them: `await send_text` for each client in turn.

The argument is uvicorn's WebSocket implementation. `websockets` was uvicorn's own choice when the gateway was written;
`websockets-sansio` is the choice of uvicorn 0.54 and costs a fifth less.
"""
import contextlib
import os
import sys

import nats
import uvicorn
from fastapi import FastAPI, WebSocket, WebSocketDisconnect

clients = set()


async def broadcast(message):
    text = '{"flow":' + message.data.decode() + "}"
    for client in list(clients):
        try:
            await client.send_text(text)
        except Exception:
            clients.discard(client)


@contextlib.asynccontextmanager
async def lifespan(_):
    connection = await nats.connect(os.environ.get("NATS_URL", "nats://127.0.0.1:4222"))
    await connection.subscribe("market.flow", cb=broadcast)
    yield
    await connection.close()


app = FastAPI(lifespan=lifespan)


@app.websocket("/ws/stream")
async def stream(client: WebSocket):
    await client.accept()
    clients.add(client)
    try:
        while True:
            await client.receive_text()
    except WebSocketDisconnect:
        clients.discard(client)


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(os.environ.get("GATEWAY_PORT", "8000")), log_level="warning",
                ws=sys.argv[1] if len(sys.argv) > 1 else "websockets")
