# levels-gateway.md, "Testing": with Python.
cd backend
uv run python -c "
import asyncio, websockets, json
async def test():
    async with websockets.connect('ws://localhost:8000/ws/stream') as ws:
        msg = await ws.recv()
        data = json.loads(msg)
        print(f'SPY: {data[\"levels\"][\"spy\"][\"spot\"]}')
asyncio.run(test())
"
