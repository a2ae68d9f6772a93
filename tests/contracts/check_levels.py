#!/usr/bin/env python3
"""Black-box checker for a levels gateway: publishes vectors over NATS JetStream, compares what a WebSocket client gets.

  check_levels.py --cmd "target/release/weirgate levels" [--only NAME] [--class core|edge|error] [--verbose]
      starts its own nats-server -js (temporary store, a free port of 127.0.0.1) and the command with NATS_URL and
      GATEWAY_PORT in its environment; the command is started afresh, with purged streams and no consumers, for every case.
  check_levels.py --ws ws://127.0.0.1:8000/ws/stream --nats nats://127.0.0.1:4222 ...
      against a gateway that runs already (never restarted; its state is carried over from case to case).

The cases are the files *.json in the folders of --dir that are asked for (--set NAME, repeatable; "public" without it).
One case: {"name", "class", "steps": [{"subject", "message" | "raw" | "raw_b64", "broadcast" | null}], "on_connect"}.
Exit status 0 only if every case passed.
Needs: nats-server in PATH (for --cmd), and pip install nats-py websockets tzdata.

Values are compared after JSON parsing: objects without regard to key order, numbers by value (1 == 1.0; integers exactly,
past 64 bits as doubles), true/false never equal to 1/0.  Fields named in "now_fields" depend on the clock and are compared with
the clock (ts within 120 s of now; is_first_15m and bars_since_open as they follow from the ts that was sent).
Frames that are also byte for byte what the first gateway sends are counted at the end ("identical text"), for information only.
"""
import argparse, asyncio, base64, glob, json, os, re, shutil, signal, socket, subprocess, sys, tempfile, time, urllib.error, urllib.request
from datetime import datetime, timedelta, timezone
from zoneinfo import ZoneInfo
import nats
from nats.js.api import StreamConfig
import websockets
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), os.pardir, "rig"))
from ports import free_port

sys.setrecursionlimit(20000)
HERE = os.path.dirname(os.path.abspath(__file__))
NY = ZoneInfo("America/New_York")
ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
ap.add_argument("--cmd"); ap.add_argument("--ws"); ap.add_argument("--nats")
for o in ("no-restart", "verbose"):
    ap.add_argument("--" + o, action="store_true")
ap.add_argument("--dir", default=os.path.join(HERE, "..", "vectors", "levels"), help="the folder that holds the sets")
ap.add_argument("--set", action="append", dest="sets", help="a folder of cases in --dir (public)")
ap.add_argument("--only", action="append", default=[])
ap.add_argument("--class", dest="cls", help="only cases of this class: core, edge, error")
ap.add_argument("--start-timeout", type=float, default=20)
ap.add_argument("--timeout", type=float, default=5, help="seconds to wait for a broadcast")
ap.add_argument("--log", help="file for the output of the command")
A = ap.parse_args()
if bool(A.cmd) == bool(A.ws): ap.error("give --cmd, or --ws and --nats")
if A.ws and not A.nats: ap.error("--ws needs --nats")

SUBJECTS = {"levels.signals": ("LEVEL_SIGNALS", "gateway_levels"), "market.flow": ("MARKET_DATA", "gateway_flow")}


class Fail(Exception):
    pass


# ------------------------------------------------------------------ comparing
def show(v):
    s = json.dumps(v)
    return s if len(s) < 90 else s[:87] + "..."


def diff(want, got, path="$", skip=()):
    """First differing path as text, or None."""
    if path in skip: return None
    if isinstance(want, bool) or isinstance(got, bool) or want is None or got is None:
        return None if want is got else f"{path}: want {show(want)}, got {show(got)}"
    if isinstance(want, (int, float)) and isinstance(got, (int, float)):
        if want == got or (want != want and got != got): return None
        big = isinstance(want, int) and not -2**63 <= want < 2**64
        try:
            if big and float(want) == float(got): return None
        except OverflowError: pass
        return f"{path}: want {show(want)}, got {show(got)}"
    if type(want) is not type(got): return f"{path}: want {show(want)}, got {show(got)}"
    if isinstance(want, dict):
        for k in want:
            if k not in got: return f"{path}.{k}: missing (want {show(want[k])})"
        for k in got:
            if k not in want: return f"{path}.{k}: not wanted (got {show(got[k])})"
        for k in want:
            d = diff(want[k], got[k], f"{path}.{k}", skip)
            if d: return d
        return None
    if isinstance(want, list):
        for i in range(min(len(want), len(got))):
            d = diff(want[i], got[i], f"{path}[{i}]", skip)
            if d: return d
        return None if len(want) == len(got) else f"{path}: want {len(want)} entries, got {len(got)}"
    return None if want == got else f"{path}: want {show(want)}, got {show(got)}"


def session(ts):
    """(is_first_15m, bars_since_open) of ts in ms, as the contract has it: open = New York midnight + 9.5 h of real time."""
    d = datetime.fromtimestamp(ts / 1000, tz=timezone.utc).astimezone(NY)
    m = datetime(d.year, d.month, d.day, tzinfo=NY).timestamp() + 34200
    minutes = (int(ts) / 1000 - m) / 60
    return 0 <= minutes < 15, min(240, max(0, int(minutes)))


def compare(want, got, now_fields):
    skip = set()
    if isinstance(want, dict) and isinstance(got, dict) and isinstance(want.get("levels"), dict) and isinstance(got.get("levels"), dict):
        for k, v in list(got["levels"].items()):       # instruments other than spy may be passed on (contract: `es`)
            if k not in want["levels"] and isinstance(v, dict) and "spot" in v: del got["levels"][k]
    if now_fields and isinstance(got, dict) and isinstance(got.get("levels"), dict):
        ts = got["levels"].get("ts")
        if isinstance(ts, bool) or not isinstance(ts, int) or abs(ts / 1000 - time.time()) > 120:
            return f"$.levels.ts: want an integer, milliseconds of now, got {show(ts)}"
        first, bars = session(ts)
        skip.add("$.levels.ts")
        for i, l in enumerate(want["levels"]["levels"]):
            l["is_first_15m"], l["bars_since_open"] = first, bars
    return diff(want, got, "$", skip)


def ready(health):
    """/ready beside /health answers 200, or there is no such page."""
    try: urllib.request.urlopen(re.sub(r"/health$", "/ready", health), timeout=2); return True
    except urllib.error.HTTPError as e: return e.code == 404


# ------------------------------------------------------------------ processes
class Proc:
    def __init__(self, cmd, env=None, log=None):
        out = open(log, "ab") if log else subprocess.DEVNULL
        self.p = subprocess.Popen(cmd, shell=isinstance(cmd, str), env={**os.environ, **(env or {})}, stdin=subprocess.DEVNULL,
                                  stdout=out, stderr=subprocess.STDOUT, start_new_session=True)

    def alive(self): return self.p.poll() is None

    def stop(self):
        """Ends only the process group started here."""
        for sig, wait in ((signal.SIGTERM, 6), (signal.SIGKILL, 3)):
            try: os.killpg(self.p.pid, sig)
            except ProcessLookupError: break
            try: self.p.wait(wait); break
            except subprocess.TimeoutExpired: pass


def http_json(url):
    with urllib.request.urlopen(url, timeout=2) as r: return json.loads(r.read())


class Bench:
    async def open(self):
        self.gw = self.ns = self.others = None
        if A.cmd:
            self.store = tempfile.mkdtemp(prefix="levels-check-")
            port = free_port()
            self.nats_url = f"nats://127.0.0.1:{port}"
            self.ns = Proc(["nats-server", "-js", "-a", "127.0.0.1", "-p", str(port), "-sd", self.store])
        else:
            self.nats_url, self.ws_url = A.nats, A.ws
            self.health = re.sub(r"^ws", "http", A.ws).split("/ws/")[0] + "/health"
        for _ in range(100):
            try:
                with socket.create_connection(self.nats_url.split("//")[-1].split("@")[-1].rsplit(":", 1), timeout=1): pass
                self.nc = await nats.connect(self.nats_url, allow_reconnect=False); break
            except Exception: await asyncio.sleep(0.05)
        else: raise SystemExit("no NATS at " + self.nats_url)
        self.js = self.nc.jetstream(timeout=5)
        for name, subj in (("MARKET_DATA", ["market.*", "market.*.*"]), ("LEVEL_SIGNALS", ["levels.*"])):
            try: await self.js.add_stream(StreamConfig(name=name, subjects=subj, max_age=86400, storage="file"))
            except Exception: pass
        return self

    async def reset(self):
        """Stop the gateway, forget consumers and messages, start it again."""
        if self.gw: await asyncio.to_thread(self.gw.stop)
        for stream in ("MARKET_DATA", "LEVEL_SIGNALS"):
            for c in await self.js.consumers_info(stream): await self.js.delete_consumer(stream, c.name)
            await self.js.purge_stream(stream)
        port = free_port()
        self.ws_url, self.health = f"ws://127.0.0.1:{port}/ws/stream", f"http://127.0.0.1:{port}/health"
        self.gw = Proc("exec " + A.cmd, {"NATS_URL": self.nats_url, "GATEWAY_PORT": str(port)}, A.log)
        t = time.time()
        while True:
            try:
                await asyncio.to_thread(http_json, self.health)
                if await asyncio.to_thread(ready, self.health): return
            except Exception: pass
            if not self.gw.alive(): raise Fail("the gateway ended at start, status %s" % self.gw.p.returncode)
            if time.time() - t > A.start_timeout: raise Fail("no answer at /health")
            await asyncio.sleep(0.02)

    async def client(self, n):
        """A WebSocket that the gateway knows of (waits until /health counts n connections, where it counts them)."""
        ws = await websockets.connect(self.ws_url, max_size=None, open_timeout=5, close_timeout=0.5)
        for _ in range(50):
            try:
                c = (await asyncio.to_thread(http_json, self.health)).get("connections")
                if c is None: await asyncio.sleep(0.05); break
                if c >= n: break
            except Exception: pass
            await asyncio.sleep(0.01)
        return ws

    async def connections(self):
        try: return (await asyncio.to_thread(http_json, self.health)).get("connections") or 0
        except Exception: return 0

    async def quiet(self):
        """Number of connections that are not ours, once those of the case before are gone."""
        if self.others is None: self.others = 0 if A.cmd else await self.connections()
        for _ in range(50):
            if await self.connections() <= self.others: break
            await asyncio.sleep(0.01)
        return self.others

    async def publish(self, subject, data): return (await self.js.publish(subject, data)).seq

    async def processed(self, subject, seq, limit=0.6):
        """Wait (a little) until the durable consumer has taken message seq; only a help against a late broadcast."""
        stream, durable = SUBJECTS[subject]
        t = time.time()
        while time.time() - t < limit:
            try:
                i = await self.js.consumer_info(stream, durable)
                if i.ack_floor.stream_seq >= seq: break
            except Exception: await asyncio.sleep(0.1); break
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.03)

    async def close(self):
        if self.gw: await asyncio.to_thread(self.gw.stop)
        try: await self.nc.close()
        except Exception: pass
        if self.ns:
            self.ns.stop(); shutil.rmtree(self.store, ignore_errors=True)


# ------------------------------------------------------------------ one case
STAT = {"frames": 0, "same": 0}


async def frame(ws, what):
    try: m = await asyncio.wait_for(ws.recv(), A.timeout)
    except asyncio.TimeoutError: raise Fail(f"{what}: no frame within {A.timeout:g} s")
    except websockets.ConnectionClosed as e: raise Fail(f"{what}: connection closed ({e})")
    if not isinstance(m, str): raise Fail(f"{what}: a binary frame")
    try: return m, json.loads(m)
    except ValueError as e: raise Fail(f"{what}: not JSON ({e}): {m[:80]}")


SENT = [0]


async def run_case(b, v, fresh):
    base = {}                                   # state from before the case (nothing when the gateway is fresh) and of sentinels
    own = {"flow": False, "levels": False}      # what the case itself has set
    n0 = 0 if fresh else await b.quiet()
    ws = await b.client(n0 + 1)
    late = None
    try:
        if not fresh:
            try: base = json.loads(await asyncio.wait_for(ws.recv(), 0.3))
            except asyncio.TimeoutError: pass

        def expected(want):
            want, e = want or {}, {}
            for k, o in (("flow", "flow"), ("levels", "levels"), ("viewport", "levels")):
                src = want if own[o] else base
                if k in src: e[k] = src[k]
            return json.loads(json.dumps(e))

        async def sentinel(state, clients, what, now):
            SENT[0] += 1
            s = {"sentinel": SENT[0]}
            await b.publish("market.flow", json.dumps(s).encode())
            base["flow"], own["flow"] = s, False
            for w in clients:
                _, got = await frame(w, what)
                if not (isinstance(got, dict) and got.get("flow") == s):
                    raise Fail(f"{what}: a frame that should not be: {show(got)}")
                d = compare(expected(state), got, now)
                if d: raise Fail(f"{what}, state after: {d}")

        last, now = None, None
        for i, st in enumerate(v["steps"]):
            data = (base64.b64decode(st["raw_b64"]) if "raw_b64" in st else st["raw"].encode("utf-8", "surrogatepass") if "raw" in st
                    else json.dumps(st["message"], ensure_ascii=False).encode())
            seq = await b.publish(st["subject"], data)
            what = f"step {i} ({st['subject']})"
            if st["broadcast"] is None:
                await b.processed(st["subject"], seq)
                last, now = st.get("state_after"), st.get("now_fields")
                await sentinel(last, [ws], what, now)
                continue
            own["flow" if st["subject"] == "market.flow" else "levels"] = True
            text, got = await frame(ws, what)
            last, now = st["broadcast"], st.get("now_fields")
            d = compare(expected(last), got, now)
            if d: raise Fail(f"{what}: {d}")
            STAT["frames"] += 1; STAT["same"] += text == st.get("broadcast_text")
        # a client that connects now
        late = await b.client(n0 + 2)
        want, now = expected(v["on_connect"]), v.get("on_connect_now_fields")
        if want:
            text, got = await frame(late, "on connect")
            d = compare(want, got, now)
            if d: raise Fail(f"on connect: {d}")
        await sentinel(v["on_connect"], [ws, late], "after the case", now)
        if b.gw and not b.gw.alive(): raise Fail("the gateway ended, status %s" % b.gw.p.returncode)
    finally:
        for w in (ws, late):
            if w is not None:
                try: await asyncio.wait_for(w.close(), 1)
                except Exception: pass


def load():
    for s in A.sets or ["public"]:
        vs = [json.load(open(f)) for f in sorted(glob.glob(os.path.join(A.dir, s, "*.json")))]
        if not vs: raise SystemExit(f"no cases in {os.path.join(A.dir, s)}")
        for v in vs:
            if (not A.only or v["name"] in A.only) and (not A.cls or v.get("class") == A.cls): yield s, v


async def main():
    b = await Bench().open()
    ok = bad = 0
    dirty = True
    try:
        for s, v in load():
            try:
                fresh = bool(A.cmd) and (dirty or not b.gw or not b.gw.alive() or not A.no_restart)
                if fresh: await b.reset()
                dirty = True
                await run_case(b, v, fresh)
                dirty = False
                ok += 1
                if A.verbose: print(f"ok   {v['name']}", flush=True)
            except Fail as e:
                bad += 1
                print(f"FAIL {s}/{v['name']}: {e}", flush=True)
            except Exception as e:
                bad += 1
                print(f"FAIL {s}/{v['name']}: {type(e).__name__}: {e}", flush=True)
            if A.ws: dirty = False
    finally:
        await b.close()
    print(f"identical text: {STAT['same']} of {STAT['frames']} frames (information only)")
    print(f"{ok} passed, {bad} failed")
    sys.exit(0 if ok and not bad else 1)

asyncio.run(main())
