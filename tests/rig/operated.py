"""A gateway of channels as an operator has it: with roles, tokens of users, and an admin address."""
import asyncio
import json
import time

import tokens
import websockets
from processes import free_port

SECRET = "thirty-two bytes of a test secret"
TABLE = {"user": ["news", "quiet", "busy", "desk.>"], "trader": ["news"]}


class Operated:
    def __init__(self, start_weirgate, tmp_path, url, *flags, roles=TABLE):
        self.admin = free_port()
        table = tmp_path / "roles.json"
        table.write_text(json.dumps(roles))
        self.weirgate = start_weirgate("channels", "--bus", url, "--acl", str(table), "--admin-addr", f"127.0.0.1:{self.admin}", *flags,
                                       env={"REQUIRE_AUTH": "true", "JWT_SECRET": SECRET})
        self.port = self.weirgate.port
        self.weirgate.logs("weirgate is listening")
        self.weirgate.logs("subscribed on NATS" if url.startswith("nats") else "subscribed on Redis")

    @staticmethod
    def token(user, **claims):
        now = int(time.time())
        return tokens.jwt(SECRET, **{"sub": user, "role": "user", "iat": now, "exp": now + 600, **claims})

    async def connect(self, user, *names, more="", **claims):
        ws = await websockets.connect(f"ws://127.0.0.1:{self.port}/ws?token={self.token(user, **claims)}{more}")
        await ws.recv()
        answer = None
        if names:
            await ws.send(json.dumps({"action": "subscribe", "channels": names}))
            answer = json.loads(await asyncio.wait_for(ws.recv(), 20))
        return ws, answer
