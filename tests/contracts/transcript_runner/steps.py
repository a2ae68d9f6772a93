"""The steps of a case, in their order: what clients do, what they must receive, and what befalls the program and Redis."""
import asyncio
import base64
import fnmatch
import http.client
import json
import os
import re
import signal
import socket
import time
import zlib

from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from transcript_runner.clients import Client, RawClient, StatusError
from transcript_runner.matching import Fail, match, parse_json, short

DEF_TIMEOUT = 3000
# The first of these keys that a step has is its kind; the others are its options.
KINDS = ("connect", "send", "frames", "publish", "publish_many", "expect", "expect_set", "expect_many", "expect_until", "expect_silence",
         "expect_close", "ping", "expect_ping", "close", "drop", "pause", "resume", "http", "redis", "signal", "expect_exit",
         "expect_refused", "expect_alive", "wait_ms")


def payload(st):
    """The bytes or the text that a step sends."""
    if "json" in st:
        return json.dumps(st["json"], ensure_ascii=False, separators=(",", ":"))
    if "text" in st:
        return st["text"]
    if "repeat" in st:
        r = st["repeat"]
        s = r.get("prefix", "") + r["unit"] * r["times"] + r.get("suffix", "")
        return s.encode() if st.get("as") == "binary" else s
    for k in ("binary_b64", "b64"):
        if k in st:
            return base64.b64decode(st[k])
    return ""


class Run:
    """One case: its clients, and the values that its matchers have bound."""

    def __init__(self, case, srv, rds, ws):
        self.case, self.srv, self.rds, self.ws = case, srv, rds, ws
        self.clients = {}
        self.ctx = {"binds": {}, "seqs": {}, "loose": case.get("loose", False)}

    def names(self, pat):
        if "*" in pat:
            return [n for n in self.clients if fnmatch.fnmatchcase(n, pat)]
        return [pat]

    def base(self):
        return self.ws or f"ws://127.0.0.1:{self.srv.port}"

    async def get(self, n, timeout):
        """The next message of a client, or its end."""
        c = self.clients[n]
        try:
            return await asyncio.wait_for(c.q.get(), timeout / 1000)
        except asyncio.TimeoutError:
            raise Fail(f"{n}: nothing came within {timeout} ms")

    def fits(self, n, m, msg, st, i=None):
        """None when a message fits a matcher, else why not; it binds nothing then."""
        kind, data = msg
        if kind == "closed":
            return f"{n}: connection closed ({data})"
        if kind != "text":
            return f"{n}: a {kind} message came: {short(repr(data))}"
        try:
            v = parse_json(data)
        except ValueError as e:
            return f"{n}: not JSON ({e}): {short(data)}"
        ctx = self.ctx
        ctx.update(who=n, i=i, new_seq=None, loose=st.get("loose", self.case.get("loose", False)))
        saved = dict(ctx["binds"])
        err = match(m, v, ctx)
        if err:
            ctx["binds"].clear()
            ctx["binds"].update(saved)
            return f"{n}: {err}\n        got  {short(data, 600)}"
        if ctx["new_seq"] is not None:
            ctx["seqs"][n] = ctx["new_seq"]
        return None

    def timeout_ms(self, st):
        return st.get("timeout_ms", self.case.get("timeout_ms", DEF_TIMEOUT))

    async def step(self, st):
        for kind in KINDS:
            if kind in st:
                return await getattr(self, "step_" + kind)(st)
        raise Fail(f"unknown step {st}")

    async def step_connect(self, st):
        url = self.base() + st.get("path", self.case.get("path", "/")) + st.get("query", "")
        names = [st["connect"]] if "count" not in st else [f"{st['connect']}{i}" for i in range(st["count"])]
        for n in names:
            c = RawClient() if st.get("raw") or "extensions" in st else Client()
            want = st.get("expect_status")
            try:
                await c.open(url, st)
            except (InvalidStatus, StatusError) as e:
                got = e.response.status_code if isinstance(e, InvalidStatus) else e.status
                ok = want if isinstance(want, list) else [want]
                if want is None or (got not in ok and "$any" not in ok):
                    raise Fail(f"{n}: handshake answered {got}" + (f", want {want}" if want else ""))
                continue
            except (OSError, InvalidHandshake, asyncio.IncompleteReadError, EOFError, asyncio.TimeoutError) as e:
                if want == "$any" or (isinstance(want, list) and "$any" in want):
                    continue
                raise Fail(f"{n}: no handshake: {e!r}")
            self.clients[n] = c
            if want is not None and want != "$any":
                raise Fail(f"{n}: handshake was accepted, want status {want}")
            for k, m in (st.get("expect_headers") or {}).items():
                v = c.headers.get(k.lower())
                if m == "$absent":
                    if v is not None:
                        raise Fail(f"{n}: header {k}: want absent, got {v}")
                    continue
                e = match(m, v, {**self.ctx, "who": n}, k)
                if e:
                    raise Fail(f"{n}: header {e}")

    async def step_send(self, st):
        for n in self.names(st["send"]):
            for _ in range(st.get("times", 1)):
                try:
                    if st.get("no_drain"):      # raw only: do not wait for the peer to read
                        await self.clients[n].send(payload(st), False)
                    else:
                        await self.clients[n].send(payload(st))
                except (ConnectionClosed, ConnectionError):
                    if not st.get("may_fail"):
                        raise Fail(f"{n}: closed when sending")

    async def step_frames(self, st):
        c = self.clients[st["frames"]]
        for f in st["list"]:
            d = payload(f)
            d = d.encode() if isinstance(d, str) else d
            if f.get("deflate"):
                z = zlib.compressobj(9, zlib.DEFLATED, -15)
                d = (z.compress(d) + z.flush(zlib.Z_SYNC_FLUSH))[:-4]
            c.frame(f.get("op", 1), d, f.get("fin", True), f.get("rsv", 4 if f.get("deflate") else 0), f.get("mask", True))
        try:
            await c.w.drain()
        except ConnectionError:
            pass

    async def step_publish(self, st):
        await asyncio.sleep(0.02)
        for _ in range(st.get("times", 1)):
            self.rds.cli.publish(st["publish"], payload(st))

    async def step_publish_many(self, st):
        await asyncio.sleep(0.02)
        p = self.rds.cli.pipeline(transaction=False)
        text = payload(st)
        batch, loop = (10 if len(text) > 4096 else 100), asyncio.get_running_loop()
        for i in range(st["count"]):
            p.publish(st["publish_many"], text.replace("$i", str(i)))
            if i % batch == batch - 1:
                await loop.run_in_executor(None, p.execute)
                if batch == 10:
                    await asyncio.sleep(0.005)
        await loop.run_in_executor(None, p.execute)

    async def step_expect(self, st):
        for n in self.names(st["expect"]):
            msg = await self.get(n, self.timeout_ms(st))
            e = self.fits(n, st["json"], msg, st)
            if e:
                raise Fail(e)

    async def step_expect_set(self, st):
        for n in self.names(st["expect_set"]):
            left = list(st["json"])
            while left:
                try:
                    msg = await self.get(n, self.timeout_ms(st))
                except Fail as e:
                    raise Fail(f"{e}; still wanted: {short(left)}")
                errs = []
                for m in left:
                    e = self.fits(n, m, msg, st)
                    if not e:
                        left.remove(m)
                        break
                    errs.append(e)
                else:
                    raise Fail(f"{n}: fits none of the {len(left)} still wanted: {errs[0]}")

    async def step_expect_many(self, st):
        for n in self.names(st["expect_many"]):
            for i in range(st["count"]):
                msg = await self.get(n, self.timeout_ms(st))
                e = self.fits(n, st["json"], msg, st, i)
                if e:
                    raise Fail(f"message {i}: {e}")

    async def step_expect_until(self, st):
        for n in self.names(st["expect_until"]):
            end = time.time() + self.timeout_ms(st) / 1000
            while True:
                msg = await self.get(n, max(1, (end - time.time()) * 1000))
                e = self.fits(n, st["json"], msg, st)
                if not e:
                    break
                if msg[0] == "closed":
                    raise Fail(e)

    async def step_expect_silence(self, st):
        await asyncio.sleep(st.get("ms", 200) / 1000)
        for n in self.names(st["expect_silence"]):
            if not self.clients[n].q.empty():
                raise Fail(f"{n}: want silence, got {short(repr(self.clients[n].q.get_nowait()))}")

    async def step_expect_close(self, st):
        for n in self.names(st["expect_close"]):
            c = self.clients[n]
            try:
                await asyncio.wait_for(c.closed.wait(), self.timeout_ms(st) / 1000)
            except asyncio.TimeoutError:
                unread = "" if c.q.empty() else f"; unread: {short(repr(c.q.get_nowait()))}"
                raise Fail(f"{n}: not closed within {self.timeout_ms(st)} ms{unread}")
            first = c.q.get_nowait()
            if first[0] != "closed" and not st.get("skip"):
                raise Fail(f"{n}: want close, but first came {short(repr(first))}")
            code, reason = st.get("code", "$any"), st.get("reason", "$any")
            if code != "$any" and c.code not in (code if isinstance(code, list) else [code]):
                raise Fail(f"{n}: close code: want {code}, got {c.code} {c.reason!r}")
            if reason != "$any" and c.reason != reason:
                raise Fail(f"{n}: close reason: want {reason!r}, got {c.reason!r}")

    async def step_ping(self, st):
        for n in self.names(st["ping"]):
            try:
                await self.clients[n].ping(payload(st).encode(), self.timeout_ms(st) / 1000)
            except asyncio.TimeoutError:
                raise Fail(f"{n}: no pong frame within {self.timeout_ms(st)} ms")
            except ConnectionClosed as e:
                raise Fail(f"{n}: closed when pinged: {e}")

    async def step_expect_ping(self, st):
        try:
            await asyncio.wait_for(self.clients[st["expect_ping"]].pings.get(), self.timeout_ms(st) / 1000)
        except asyncio.TimeoutError:
            raise Fail(f"no ping frame within {self.timeout_ms(st)} ms")

    async def step_close(self, st):
        for n in self.names(st["close"]):
            c = self.clients.pop(n)
            try:
                await c.close(st.get("code", 1000), st.get("reason", ""))
            except asyncio.TimeoutError:
                raise Fail(f"{n}: no close answer within 5 s")
            if "expect_code" in st and c.code != st["expect_code"]:
                raise Fail(f"{n}: close echoed {c.code}, want {st['expect_code']}")

    async def step_drop(self, st):
        for n in self.names(st["drop"]):
            self.clients.pop(n).drop()
        await asyncio.sleep(0.05)

    async def step_pause(self, st):
        self.clients[st["pause"]].w.transport.pause_reading()

    async def step_resume(self, st):
        self.clients[st["resume"]].w.transport.resume_reading()

    async def step_http(self, st):
        end = time.time() + st.get("retry_ms", 0) / 1000
        while True:
            try:
                await self.http(st)
                break
            except Fail:
                if time.time() >= end:
                    raise
                await asyncio.sleep(0.1)

    async def step_redis(self, st):
        k = st["redis"]
        if k == "stop":
            self.rds.stop()
        elif k == "start":
            await asyncio.get_running_loop().run_in_executor(None, self.rds.start)
        else:
            for t in ("pubsub", "normal"):
                self.rds.cli.execute_command("CLIENT", "KILL", "TYPE", t, "SKIPME", "yes")

    async def step_signal(self, st):
        os.kill(self.srv.proc.pid, getattr(signal, "SIG" + st["signal"]))

    async def step_expect_exit(self, st):
        end = time.time() + st.get("within_ms", 6000) / 1000
        while self.srv.proc.poll() is None and time.time() < end:
            await asyncio.sleep(0.02)
        rc = self.srv.proc.poll()
        if rc is None:
            raise Fail(f"the program still runs after {st.get('within_ms', 6000)} ms")
        if st["expect_exit"] != "$any" and rc != st["expect_exit"]:
            raise Fail(f"exit status {rc}, want {st['expect_exit']}")

    async def step_expect_refused(self, st):
        try:
            socket.create_connection(("127.0.0.1", self.srv.port), 1).close()
        except OSError:
            return
        raise Fail("a new TCP connection was accepted")

    async def step_expect_alive(self, st):
        await asyncio.sleep(0.1)
        if self.srv and self.srv.proc is not None and self.srv.proc.poll() is not None:
            raise Fail(f"the program ended with status {self.srv.proc.returncode}")

    async def step_wait_ms(self, st):
        await asyncio.sleep(st["wait_ms"] / 1000)

    async def http(self, st):
        """A request, and what its answer must be."""
        host, port = re.match(r"ws://([^:/]+):(\d+)", self.base()).groups()
        method, target = st["http"].split(" ", 1)

        def go():
            c = http.client.HTTPConnection(host, int(port), timeout=5)
            try:
                c.request(method, target, body=st.get("body"), headers=st.get("headers") or {})
                r = c.getresponse()
                return r.status, {k.lower(): v for k, v in r.getheaders()}, r.read()
            finally:
                c.close()
        try:
            status, heads, body = await asyncio.get_running_loop().run_in_executor(None, go)
        except (OSError, http.client.HTTPException) as e:
            if st.get("status") == "$any":
                return
            raise Fail(f"{st['http']}: {e!r}")
        if "status" in st and st["status"] != "$any" and status not in (st["status"] if isinstance(st["status"], list) else [st["status"]]):
            raise Fail(f"{st['http']}: status {status}, want {st['status']}; body {short(body.decode('utf8', 'replace'))}")
        if "json" in st:
            e = self.fits("http", st["json"], ("text", body.decode("utf8", "replace")), st)
            if e:
                raise Fail(f"{st['http']}: {e}")
        if "text" in st and body.decode("utf8", "replace") != st["text"]:
            raise Fail(f"{st['http']}: body {short(body.decode('utf8', 'replace'))}, want {short(st['text'])}")
        for k, m in (st.get("resp_headers") or {}).items():
            v = heads.get(k.lower())
            if m == "$absent" and v is None:
                continue
            e = match(m, v, {**self.ctx, "who": "http"}, k)
            if e:
                raise Fail(f"{st['http']}: header {e}")

    async def run(self):
        """None when the case passed, else the step that failed and why."""
        try:
            for i, st in enumerate(self.case["steps"]):
                try:
                    await self.step(st)
                except Fail as e:
                    return f"step {i + 1} {short(st, 260)}\n        {e}"
                except Exception as e:
                    return f"step {i + 1} {short(st, 260)}\n        {type(e).__name__}: {e}"
            if not self.case.get("leftovers"):
                for n, c in self.clients.items():
                    if not c.q.empty():
                        m = c.q.get_nowait()
                        if m[0] != "closed":
                            return f"at the end {n} had an unexpected message: {short(repr(m))}"
            return None
        finally:
            await asyncio.gather(*(c.end() for c in self.clients.values()), return_exceptions=True)
