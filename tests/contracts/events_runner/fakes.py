"""The three HTTP services behind the gateway, as fakes."""
import asyncio
import base64
import json

from events_runner.http import gen_bytes, hdr_pairs, head, read_chunked, read_head, write_chunked
from events_runner.matching import diff, loads

SERVICES = ("lobby", "measurement", "simulation")
REASONS = {200: "OK", 201: "Created", 202: "Accepted", 204: "No Content", 206: "Partial Content", 301: "Moved Permanently",
           302: "Found", 304: "Not Modified", 307: "Temporary Redirect", 400: "Bad Request", 404: "Not Found",
           500: "Internal Server Error", 503: "Service Unavailable"}


def rule_body(rule, hs):
    """The body of an answer; adds its Content-Type to the headers."""
    low = {k.lower() for k, _ in hs}
    if "json" in rule:
        if "content-type" not in low:
            hs.append(("content-type", "application/json"))
        return json.dumps(rule["json"], separators=(",", ":"), ensure_ascii=False).encode()
    if "text" in rule:
        if "content-type" not in low:
            hs.append(("content-type", "text/plain; charset=utf-8"))
        return rule["text"].encode()
    if "body_b64" in rule:
        return base64.b64decode(rule["body_b64"])
    if "body_gen" in rule:
        return gen_bytes(rule["body_gen"])
    return b""


class Fake:
    """An HTTP service that answers by the rules of a case, and keeps what it got."""

    def __init__(self, name, port, ctx):
        self.name, self.port, self.ctx = name, port, ctx
        self.server = None
        self.writers = set()
        self.reset([])

    def reset(self, rules):
        self.rules = rules
        self.used = {}
        self.got = []
        self.inflight = 0
        self.epoch = object()
        self.event = asyncio.Event()

    async def up(self):
        if not self.server:
            self.server = await asyncio.start_server(self.serve, "127.0.0.1", self.port, limit=1 << 20)

    async def down(self):
        if self.server:
            self.server.close()
            self.server = None
        for w in list(self.writers):
            w.transport.abort()
        self.writers.clear()

    async def serve(self, r, w):
        self.writers.add(w)
        try:
            while True:
                line, hs = await read_head(r)
                method, target, _ = line.split(" ", 2)
                h = dict(hs)
                if h.get("expect", "").lower() == "100-continue":
                    w.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                if "chunked" in h.get("transfer-encoding", ""):
                    body = await read_chunked(r)
                else:
                    body = await r.readexactly(int(h.get("content-length") or 0))
                path, _, query = target.partition("?")
                rec = {"method": method, "path": path, "query": query, "headers": hs, "body": body, "used": False}
                self.got.append(rec)
                self.event.set()
                if not await self.answer(w, rec):
                    return
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.LimitOverrunError, asyncio.CancelledError, OSError, ValueError):
            pass
        finally:
            self.writers.discard(w)
            w.close()

    def pick(self, rec):
        try:
            js = loads(rec["body"])
        except Exception:
            js = None
        for i, rule in enumerate(self.rules):
            m, _, p = rule.get("match", "* *").partition(" ")
            if m != "*" and m != rec["method"]:
                continue
            if not (p == rec["path"] or (p.endswith("*") and rec["path"].startswith(p[:-1]))):
                continue
            if "when" in rule and diff(rule["when"], js, True):
                continue
            if "times" in rule:
                if self.used.get(i, 0) >= rule["times"]:
                    continue
                self.used[i] = self.used.get(i, 0) + 1
            return rule
        return {"status": 418, "json": {"detail": "fake: no rule for " + rec["method"] + " " + rec["path"]}}

    async def answer(self, w, rec):
        rule = self.pick(rec)
        epoch = self.epoch
        self.inflight += 1
        try:
            if rule.get("hang"):
                self.inflight -= 1
                epoch = None
                await asyncio.sleep(300)
                return False
            if rule.get("delay_ms"):
                await asyncio.sleep(rule["delay_ms"] / 1000)
            if rule.get("close_early"):
                return False
            status = rule.get("status", 200)
            hs = hdr_pairs(rule.get("headers"))
            body = rule_body(rule, hs)
            self.ctx["served"] = body
            nobody = status in (204, 304) or rec["method"] == "HEAD"
            if rule.get("chunked"):
                hs.append(("transfer-encoding", "chunked"))
            elif not rule.get("until_close") and status not in (204, 304) and "content-length" not in {k.lower() for k, _ in hs}:
                hs.append(("content-length", str(len(body))))
            w.write(head(f"HTTP/1.1 {status} {REASONS.get(status, 'Whatever')}", hs).encode("latin-1"))
            if not nobody:
                await self.write_body(w, rule, body)
            await w.drain()
            return not rule.get("until_close")
        finally:
            if epoch is self.epoch:
                self.inflight -= 1

    @staticmethod
    async def write_body(w, rule, body):
        if rule.get("trickle_ms"):
            for i in range(len(body)):
                w.write(body[i:i + 1])
                await w.drain()
                await asyncio.sleep(rule["trickle_ms"] / 1000)
        elif rule.get("chunked"):
            write_chunked(w, body, 7000)
        else:
            w.write(body)
