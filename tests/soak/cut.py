#!/usr/bin/env python3
"""One of 100 users is cut off among 10,000 clients that come and go, resume and renew: gone, back nowhere, nobody else touched.

    cut.py [--clients 10000] [--users 100] [--seconds 20]

The clients of a user share a name, and each asks on every new connection for what it missed. After `--seconds` of calm the operator cuts one
user off; the clients of this user try again and again for as long, until their tokens end, and then come with a new one. Exit status 1 if one of
them was connected later than a second after the call, or came back before the end of its token; if another client was cut, refused or missed a message;
or if the cut user does not come back with a new token. The p99 of the others before and after the call is a figure, not a verdict.
"""
import argparse
import asyncio
import dataclasses
import json
import pathlib
import random
import re
import sys
import tempfile
import time
import urllib.request

sys.path[:0] = [str(pathlib.Path(__file__).resolve().parents[1] / "rig")]

from clients import CLOSE, TEXT, Client, client_frame
from processes import RedisServer, StartError, Weirgate, free_port
from tokens import user_token
from waiting import until

SECRET = "thirty-two bytes of a test secret"
CUT = "u7"
STAY_S, PATIENCE_S, MESSAGES_PER_S = 20.0, 20, 50
DATA = re.compile(rb'"type":"data".*"data":\[(\d+),(\d+)\].*"pos":"([^"]+)"')
TYPE = re.compile(rb'"type":"(\w+)"')


@dataclasses.dataclass
class Seen:
    """What the clients saw. Moments are of the monotonic clock."""
    visits: int = 0
    renewed: int = 0
    # (user, moment of the beginning, moment of the end) of each open connection that the gateway ended.
    ended: list = dataclasses.field(default_factory=list)
    # (user, moment) of each connection that was let in.
    let_in: list = dataclasses.field(default_factory=list)
    refusals: int = 0
    faults: list = dataclasses.field(default_factory=list)
    # Nanoseconds on the way, of the clients of other users.
    delays_ns: list = dataclasses.field(default_factory=list)


class Visitor(Client):
    """A client of channels: the newest position and number, and what came in between."""

    def __init__(self, port, path, crowd, user, before):
        super().__init__(port, path=path)
        self.crowd, self.user, self.kinds = crowd, user, set()
        self.number, self.position = before

    def take(self, opcode, payload):
        super().take(opcode, payload)
        if opcode != TEXT:
            return
        self.kinds.add((TYPE.search(payload) or [b"", b"?"])[1].decode())
        if found := DATA.search(payload):
            number = int(found[1])
            if self.number is not None and number != self.number + 1:
                self.crowd.seen.faults.append(f"missed: {self.user} has {number} after {self.number}")
            self.number, self.position = number, found[3].decode()
            if self.user != CUT:
                self.crowd.seen.delays_ns.append(time.time_ns() - int(found[2]))
        elif b'"recovered"' in payload and b"false" in payload:
            self.crowd.seen.faults.append(f"missed: {self.user} was told {payload[:200]!r}")


class Crowd:
    """Clients that connect, subscribe with their position, renew their token, leave and come back."""

    def __init__(self, port, users, cut_lives_s):
        self.port, self.seen, self.is_over, self.here, self.draw = port, Seen(), False, 0, random.Random(42)
        self.tokens = {user: user_token(SECRET, user, cut_lives_s if user == CUT else 3_600) for user in users}
        self.cut_ends = time.time() + cut_lives_s

    async def come_and_go(self, user):
        await asyncio.sleep(self.draw.uniform(0, STAY_S))
        before = (None, None)
        while not self.is_over:
            try:
                before = await asyncio.wait_for(self.visit(user, before), PATIENCE_S + 20 * STAY_S)
            except (OSError, AssertionError, TimeoutError) as error:
                self.seen.faults.append(f"refused: {user}: {error!r}")
                await asyncio.sleep(1)

    async def visit(self, user, before):
        began = time.monotonic()
        path = f"/ws?token={self.tokens[user]}"
        _, client = await asyncio.get_running_loop().create_connection(lambda: Visitor(self.port, path, self, user, before), "127.0.0.1", self.port)
        try:
            await asyncio.wait_for(client.upgraded, PATIENCE_S)
            await client.wait_for(lambda c: c.kinds or c.close_code, PATIENCE_S, "the first message")
            if "connected" not in client.kinds:
                return await self.refused(client, user, before)
            self.seen.let_in.append((user, began))
            self.here += 1
            client.say({"action": "subscribe", "channels": [f"of:{user}"], **({"since": before[1]} if before[1] else {})})
            await self.stay(client, user, began)
            self.here -= 1
            return client.number, client.position
        finally:
            self.seen.visits += 1
            client.abort()

    async def refused(self, client, user, before):
        assert client.close_code == 1008, f"no answer, close code {client.close_code}"
        self.seen.refusals += 1
        if user != CUT:
            self.seen.faults.append(f"refused: {user}: 1008")
        await asyncio.sleep(self.draw.uniform(0.2, 1))
        return before

    async def stay(self, client, user, began):
        """Renews the token in the middle, and leaves, half of the time with a close."""
        for renews in (True, False):
            try:
                await asyncio.wait_for(asyncio.shield(client.ended), self.draw.expovariate(2 / STAY_S))
            except TimeoutError:
                if renews:
                    client.say({"action": "authenticate", "token": self.tokens[user]})
                    self.seen.renewed += 1
                continue
            self.seen.ended.append((user, began, time.monotonic()))
            if user != CUT:
                self.seen.faults.append(f"cut: {user}, close code {client.close_code}")
            return
        if self.draw.random() < 0.5:
            client.transport.write(client_frame(CLOSE, (1000).to_bytes(2, "big")))
            await asyncio.wait_for(client.ended, PATIENCE_S)


async def publish(redis, users):
    """A message to each user in turn, with its number and the time, for ever."""
    number = 0
    while True:
        for user in users:
            await asyncio.to_thread(redis.publish, f"of:{user}", f"[{number},{time.time_ns()}]")
            await asyncio.sleep(1 / MESSAGES_PER_S)
        number += 1


def cut_off(admin):
    body = json.dumps({"user": CUT}).encode()
    with urllib.request.urlopen(urllib.request.Request(f"http://127.0.0.1:{admin}/operator/disconnect", data=body), timeout=10) as answer:
        return json.loads(answer.read())


def p99_ms(delays_ns):
    return sorted(delays_ns)[len(delays_ns) * 99 // 100] / 1e6 if delays_ns else 0.0


async def measure(port, admin, redis, args):
    users = [f"u{n}" for n in range(args.users)]
    ramp_s = STAY_S + 2 * args.seconds
    crowd = Crowd(port, users, int(ramp_s + 2 * args.seconds + 20))
    feed = asyncio.create_task(publish(redis, users))
    visitors = [asyncio.create_task(crowd.come_and_go(users[n % args.users])) for n in range(args.clients)]
    try:
        await until(lambda: crowd.here >= args.clients * 0.9, ramp_s, "most clients are there")
        crowd.seen.delays_ns.clear()
        await asyncio.sleep(args.seconds)
        calm, crowd.seen.delays_ns = crowd.seen.delays_ns, []
        cut_at = time.monotonic()
        told = await asyncio.to_thread(cut_off, admin)
        await asyncio.sleep(args.seconds)
        after, crowd.seen.delays_ns = crowd.seen.delays_ns, []
        let_in, ended = list(crowd.seen.let_in), list(crowd.seen.ended)
        print(f"cut: {told['disconnected']} connections of {CUT} among {crowd.here + told['disconnected']} clients; "
              f"{crowd.seen.visits} visits, {crowd.seen.renewed} tokens renewed")
        await asyncio.sleep(max(0, crowd.cut_ends + 0.5 - time.time()))
        assert not [1 for user, began in crowd.seen.let_in if user == CUT and began > cut_at], "back before the end of the token"
        crowd.tokens[CUT] = user_token(SECRET, CUT)
        back_at = time.monotonic()
        await until(lambda: any(user == CUT and began > back_at for user, began in crowd.seen.let_in), 10, "a new token is let in")
        return crowd.seen, cut_at, let_in, ended, calm, after
    finally:
        crowd.is_over = True
        for task in [feed, *visitors]:
            task.cancel()


def report(seen, cut_at, let_in, ended, calm, after):
    faults = list(seen.faults)
    gone = [at - cut_at for user, _, at in ended if user == CUT and at >= cut_at]
    # A connection on its way at the call is let in before or refused after it; nothing is open a second later.
    faults += [f"late: a connection of {CUT} ended {s:.2f} s after the call" for s in gone if s > 1]
    faults += [f"back: let in {began - cut_at:.2f} s after the call" for user, began in let_in if user == CUT and began > cut_at + 0.05]
    if not gone:
        faults.append("nobody was cut off")
    print(f"cut: gone within {max(gone, default=0):.2f} s ({len(gone)} connections), refused {seen.refusals} times; "
          f"p99 of the others {p99_ms(calm):.1f} ms before ({len(calm)} messages), {p99_ms(after):.1f} ms after ({len(after)})")
    for fault in faults[:20]:
        print(f"cut: WRONG {fault}")
    print(f"cut: {len(faults)} faults")
    return 1 if faults else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=10_000)
    parser.add_argument("--users", type=int, default=100)
    parser.add_argument("--seconds", type=int, default=20)
    args = parser.parse_args()
    redis, admin = RedisServer(), free_port()
    with tempfile.TemporaryDirectory(prefix="weirgate-cut-") as folder:
        roles = pathlib.Path(folder) / "roles.json"
        roles.write_text('{"user": ["of:{sub}"]}')
        weirgate = Weirgate("channels", "--admin-addr", f"127.0.0.1:{admin}", "--history-ms", "300000", "--history-names", "of:*", "--acl", str(roles), redis=redis,
                            env={"REQUIRE_AUTH": "true", "JWT_SECRET": SECRET})
        try:
            weirgate.wait_for("/health")
            return report(*asyncio.run(measure(weirgate.port, admin, redis.client(), args)))
        finally:
            weirgate.discard()
            redis.discard()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except StartError as error:
        sys.exit(f"cut: {error}")
