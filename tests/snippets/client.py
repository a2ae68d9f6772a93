# levels-interfaces.md, "Python (Test Client)".
import asyncio
import websockets
import json

async def test_client():
    async with websockets.connect('ws://localhost:8000/ws/stream') as ws:
        while True:
            msg = await ws.recv()
            data = json.loads(msg)
            if 'levels' in data:
                es = data['levels'].get('es', {})
                levels = data['levels'].get('levels', [])
                print(f"ES: {es.get('spot')}, Levels: {len(levels)}")

asyncio.run(test_client())
