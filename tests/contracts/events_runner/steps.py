"""The steps of a case, in their order: what clients and callers do, and what they and the services must receive."""
import asyncio
import base64
import gzip
import json
import struct
import time
import zlib

from events_runner.http import http_request
from events_runner.matching import check_body, check_headers, diff, loads, short
from events_runner.websocket import Fail, Ws

WAIT = 4.0
# The first of these keys that a step has is its kind; the others are its options.
KINDS = ("repeat", "connect", "send", "expect", "expect_silence", "expect_close", "ping", "close", "pause", "wait_ms", "upstream_got",
         "upstream_silent", "http", "http_wait")


def text_of(step):
    """The text that a step sends."""
    if "text" in step:
        return step["text"]
    if "text_gen" in step:
        g = step["text_gen"]
        return g.get("prefix", "") + g.get("unit", "") * g.get("times", 0) + g.get("suffix", "")
    return json.dumps(step["json"], separators=(",", ":"), ensure_ascii=False)


class Run:
    """One case against the program at host and port: its clients, and its requests in the background."""

    def __init__(self, host, port, fakes, ctx, loose):
        self.host, self.port, self.fakes, self.ctx, self.loose = host, port, fakes, ctx, loose
        self.ws, self.bg = {}, {}

    async def step(self, st):
        """None when the step passed, else why not."""
        for kind in KINDS:
            if kind in st:
                return await getattr(self, "step_" + kind)(st)
        return "unknown step"

    def is_loose(self, st):
        return bool(st.get("loose", self.loose))

    async def step_repeat(self, st):
        for n in range(st["repeat"]):
            for s2 in st["steps"]:
                d = await self.step(s2)
                if d:
                    return f"round {n}: {short(s2, 200)}: {d}"
        return None

    async def step_connect(self, st):
        w = Ws(st["connect"])
        status, rh = await asyncio.wait_for(w.open(self.host, self.port, st.get("path", "/ws") + st.get("query", ""), st.get("headers")), 5)
        want = st.get("status", 101)
        if status == 101:
            self.ws[st["connect"]] = w
        if status not in (want if isinstance(want, list) else [want]):
            return f"handshake: want {want}, got {status}"
        return check_headers(st.get("response_headers"), rh)

    async def step_send(self, st):
        w = self.ws[st["send"]]
        if w.closed:
            return f"connection already closed {w.closed}"
        if "binary_b64" in st:
            w.frame(2, base64.b64decode(st["binary_b64"]))
        elif "frames" in st:
            for f in st["frames"]:
                w.frame(f["op"], f.get("text", "").encode(), f.get("fin", True))
        else:
            w.frame(1, text_of(st).encode("utf-8", "surrogatepass"))
        await w.w.drain()
        return None

    async def step_expect(self, st):
        w = self.ws[st["expect"]]
        try:
            m = await asyncio.wait_for(w.q.get(), st.get("within_ms", WAIT * 1000) / 1000)
        except asyncio.TimeoutError:
            return "nothing received"
        if m is None:
            w.q.put_nowait(None)
            return f"connection closed {w.closed}"
        if m[0] != 1:
            return f"not a text frame: opcode {m[0]} {short(m[1])}"
        if "exact_text" in st:
            return diff(st["exact_text"], m[1].decode(), False)
        try:
            got = loads(m[1])
        except ValueError as e:
            return f"frame is not JSON ({e}): {short(m[1].decode('utf-8', 'replace'))}"
        return diff(st["json"], got, self.is_loose(st))

    async def step_expect_silence(self, st):
        w = self.ws[st["expect_silence"]]
        await asyncio.sleep(st.get("ms", 150) / 1000)
        if not w.q.empty():
            m = w.q.get_nowait()
            return f"should be silent; got {short(m[1].decode('utf-8', 'replace')) if m else 'close ' + str(w.closed)}"
        return None

    async def step_expect_close(self, st):
        w = self.ws[st["expect_close"]]
        try:
            await asyncio.wait_for(w.close_evt.wait(), st.get("within_ms", WAIT * 1000) / 1000)
        except asyncio.TimeoutError:
            return "still open"
        m = w.q.get_nowait() if not w.q.empty() else None
        if m is not None:
            return f"unread message before close: {short(m[1].decode('utf-8', 'replace'))}"
        want = st.get("code", "$any")
        if want != "$any" and w.closed[0] not in (want if isinstance(want, list) else [want]):
            return f"close code: want {want}, got {w.closed}"
        return None

    async def step_ping(self, st):
        w = self.ws[st["ping"]]
        w.frame(9, st.get("text", "").encode())
        await w.w.drain()
        try:
            p = await asyncio.wait_for(w.pongs.get(), WAIT)
        except asyncio.TimeoutError:
            return "no pong"
        return None if p == st.get("text", "").encode() else f"pong payload {p!r}"

    async def step_close(self, st):
        w = self.ws[st["close"]]
        if st.get("abort"):
            w.w.transport.abort()
        else:
            w.frame(8, struct.pack("!H", st.get("code", 1000)))
            await w.w.drain()
            try:
                await asyncio.wait_for(w.close_evt.wait(), WAIT)
            except asyncio.TimeoutError:
                return "server did not finish the close handshake"
        return None

    async def step_pause(self, st):
        self.ws[st["pause"]].w.transport.pause_reading()
        return None

    async def step_wait_ms(self, st):
        await asyncio.sleep(st["wait_ms"] / 1000)
        return None

    async def step_upstream_silent(self, st):
        await asyncio.sleep(st.get("ms", 150) / 1000)
        f = self.fakes[st["upstream_silent"]]
        left = [r for r in f.got if not r["used"]]
        if left:
            return f"unexpected request {left[0]['method']} {left[0]['path']} {short(left[0]['body'].decode('utf-8', 'replace'))}"
        return None

    async def step_http(self, st):
        co = http_request(self.host, self.port, st["http"], self.ctx)
        if "background" in st:
            self.bg[st["background"]] = asyncio.ensure_future(co)
            await asyncio.sleep(0.03)
            return None
        return await self.http_check(asyncio.ensure_future(co), st)

    async def step_http_wait(self, st):
        return await self.http_check(self.bg[st["http_wait"]], st)

    async def http_check(self, fut, st):
        """None when the answer that `fut` waits for is the wanted one."""
        try:
            status, rh, body = await asyncio.wait_for(fut, st.get("within_ms", 8000) / 1000)
        except asyncio.TimeoutError:
            return "no HTTP answer"
        except (asyncio.IncompleteReadError, ConnectionError) as e:
            return f"HTTP answer broken off: {e!r}"
        want = st.get("status", 200)
        if status not in (want if isinstance(want, list) else [want]):
            return f"status: want {want}, got {status} {short(body.decode('utf-8', 'replace'))}"
        if st.get("decode"):
            h = dict(rh)
            try:
                if h.get("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                elif h.get("content-encoding") == "deflate":
                    body = zlib.decompress(body)
            except Exception as e:
                return f"content-encoding {h.get('content-encoding')} but the body does not decode: {e}"
        return check_headers(st.get("headers"), rh) or check_body(st, body, self.ctx, self.is_loose(st))

    async def step_upstream_got(self, st):
        f = self.fakes[st["upstream_got"]]
        end = time.monotonic() + st.get("within_ms", WAIT * 1000) / 1000
        last = "no request arrived"
        while True:
            left = [r for r in f.got if not r["used"]]
            for i, r in enumerate(left):
                if st.get("next") and i:
                    break
                d = None
                for k in ("method", "path", "query"):
                    if k in st and not d:
                        d = diff(st[k], r[k], False, k)
                d = d or check_headers(st.get("headers"), r["headers"]) or check_body(st, r["body"], self.ctx, self.is_loose(st))
                if not d:
                    r["used"] = True
                    return None
                if i == 0:
                    last = f"{r['method']} {r['path']}?{r['query']}: {d}"
            if time.monotonic() > end:
                return last
            f.event.clear()
            try:
                await asyncio.wait_for(f.event.wait(), 0.1)
            except asyncio.TimeoutError:
                pass

    async def run(self, steps):
        """None when all steps passed, else the step that failed and why."""
        for i, st in enumerate(steps):
            try:
                d = await asyncio.wait_for(self.step(st), 100)
            except Fail as e:
                d = str(e)
            except Exception as e:
                d = f"{type(e).__name__}: {e}"
            if d:
                return f"step {i} {short({k: v for k, v in st.items() if k not in ('about',)}, 240)}: {d}"
        return None

    async def end(self):
        """Ends what the case left, so that none of it reaches the next one."""
        for t in self.bg.values():
            t.cancel()
        await asyncio.gather(*[w.shut() for w in self.ws.values()], return_exceptions=True)
        for _ in range(200):
            if not any(f.inflight for f in self.fakes.values()):
                break
            await asyncio.sleep(0.02)
        for w in self.ws.values():
            if hasattr(w, "task"):
                w.task.cancel()
