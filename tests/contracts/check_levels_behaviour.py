#!/usr/bin/env python3
"""Behaviour of a levels gateway around the messages: health, restart, replay, odd clients, NATS away.

  check_levels_behaviour.py --cmd "target/release/weirgate levels" [--port-base N] [--parity]

Every check prints "ok", "FAIL" or (without --parity) "differs": things of the first gateway that a replacement may do better.
Exit 0 only if nothing FAILed.  All facts were recorded from the first gateway, which passes with --parity.
Uses three ports of 127.0.0.1 from --port-base on; without it, three that are free.
Needs: nats-server in PATH, and pip install nats-py websockets.
"""
import argparse, asyncio, json, os, shutil, signal, socket, subprocess, sys, tempfile, time, urllib.error, urllib.request
import nats, websockets
from nats.js.api import StreamConfig
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), os.pardir, "rig"))
from ports import free_port

ap = argparse.ArgumentParser()
ap.add_argument("--cmd", required=True); ap.add_argument("--port-base", type=int)
ap.add_argument("--parity", action="store_true", help="count differences in what may be done better as failures too")
A = ap.parse_args()


NP, GP, GP2 = [free_port() for _ in range(3)] if A.port_base is None else range(A.port_base, A.port_base + 3)
URL, WS, H = f"nats://127.0.0.1:{NP}", f"ws://127.0.0.1:{GP}/ws/stream", f"http://127.0.0.1:{GP}"
store = tempfile.mkdtemp(prefix="levels-behave-")
bad = []


def say(name, ok, got="", must=True):
    print(("ok      " if ok else "FAIL    " if must or A.parity else "differs ") + name + ("" if ok else f"  (got {str(got)[:200]})"), flush=True)
    if not ok and (must or A.parity): bad.append(name)


class P:
    def __init__(self, cmd, env={}):
        self.p = subprocess.Popen(cmd, shell=isinstance(cmd, str), env={**os.environ, **env}, stdin=subprocess.DEVNULL,
                                  stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    def stop(self, sig=signal.SIGTERM):
        try: os.killpg(self.p.pid, sig); self.p.wait(6)
        except ProcessLookupError: pass
        except subprocess.TimeoutExpired: os.killpg(self.p.pid, signal.SIGKILL); self.p.wait()


def http(path, method="GET"):
    try:
        with urllib.request.urlopen(urllib.request.Request(H + path, method=method), timeout=3) as r: return r.status, r.headers, r.read()
    except urllib.error.HTTPError as e: return e.code, e.headers, e.read()
    except Exception as e: return 0, {}, repr(e).encode()


async def up():
    for _ in range(400):
        if (await asyncio.to_thread(http, "/health"))[0] == 200 and (await asyncio.to_thread(http, "/ready"))[0] in (200, 404): return True
        await asyncio.sleep(.05)
    return False


async def rx(ws, t=3.0):
    try: return await asyncio.wait_for(ws.recv(), t)
    except asyncio.TimeoutError: return None
    except websockets.ConnectionClosed as e: return ("closed", e.rcvd.code if e.rcvd else 1006)


def js(x):
    try: return json.loads(x)
    except Exception: return x


async def settle(n):
    for _ in range(60):
        if js((await asyncio.to_thread(http, "/health"))[2]).get("connections") == n: return True
        await asyncio.sleep(.05)
    return False


async def connect_nats():
    for _ in range(100):
        try:
            with socket.create_connection(("127.0.0.1", NP), timeout=1): pass
            return await nats.connect(URL, allow_reconnect=False)
        except Exception: await asyncio.sleep(.05)


async def main():
    ns_cmd = ["nats-server", "-js", "-a", "127.0.0.1", "-p", str(NP), "-sd", store]
    gw_env = {"NATS_URL": URL, "GATEWAY_PORT": str(GP)}
    run = lambda: P("exec " + A.cmd, gw_env)
    ns, gw = P(ns_cmd), None
    try:
        nc = await connect_nats(); j = nc.jetstream(timeout=5)
        gw = run(); say("starts and answers /health", await up())
        names = {s.config.name: s.config for s in await j.streams_info()}
        say("creates streams MARKET_DATA and LEVEL_SIGNALS when absent", {"MARKET_DATA", "LEVEL_SIGNALS"} <= set(names), list(names))
        if {"MARKET_DATA", "LEVEL_SIGNALS"} <= set(names):
            m, l = names["MARKET_DATA"], names["LEVEL_SIGNALS"]
            say("  with their subjects", sorted(m.subjects) == ["market.*", "market.*.*"] and l.subjects == ["levels.*"], (m.subjects, l.subjects))
            say("  file storage, limits, 24 h", all(str(c.storage).endswith("file") and c.max_age == 86400 for c in (m, l)), (m.max_age, m.storage))
        for s, d in (("LEVEL_SIGNALS", "gateway_levels"), ("MARKET_DATA", "gateway_flow")):
            try: i = (await j.consumer_info(s, d)).config; say(f"durable {d}, explicit ack", str(i.ack_policy).endswith("explicit"), i)
            except Exception as e: say(f"durable {d}, explicit ack", False, repr(e))
        st, hd, body = await asyncio.to_thread(http, "/health")
        say("/health body (more fields may follow)", isinstance(js(body), dict) and list(js(body).items())[:4] == [("service", "gateway"), ("status", "healthy"), ("nats_url", URL), ("connections", 0)], body)
        say("/health is application/json", (hd.get("content-type") or "").startswith("application/json"), hd.get("content-type"))
        ws = await websockets.connect(WS); say("connections counts a client", await settle(1))
        say("nothing is sent on connect when nothing is known", (g := await rx(ws, .5)) is None, g)
        await ws.send("hello"); await ws.send('{"type":"ping"}'); await ws.send("x" * 100000)
        say("client text is ignored", (g := await rx(ws, .4)) is None, g)
        await nc.publish("market.flow", b'{"plain":1}'); say("a plain NATS publish reaches the client (the stream holds it)", js(g := await rx(ws)) == {"flow": {"plain": 1}}, g)
        await nc.publish("levels.other", b'{"ts":1,"levels":[]}'); await nc.publish("market.futures.trades", b'{"x":1}')
        say("other subjects are not relayed", (g := await rx(ws, .5)) is None, g)
        pong = await ws.ping(b"abc")
        try: await asyncio.wait_for(pong, 2); say("a client's ping is answered", True)
        except Exception as e: say("a client's ping is answered", False, repr(e))
        w2 = await websockets.connect(WS + "?token=x", origin="http://elsewhere.example"); say("query text and any Origin are accepted; cached state on connect", js(g := await rx(w2)) == {"flow": {"plain": 1}}, g)
        await w2.close(); say("close is answered with the client's code", w2.close_code == 1000, w2.close_code); say("connections goes down after a close", await settle(1))
        s = socket.create_connection(("127.0.0.1", GP)); s.close()
        w3 = await websockets.connect(WS); await rx(w3, .5); w3.transport.abort(); say("connections goes down after an abrupt loss", await settle(1))
        await j.publish("market.flow", b"not json"); await j.publish("levels.signals", b'{"ts":1,"levels":null}'); await asyncio.sleep(.6)
        try:
            # On a busy machine the acknowledgements take longer.
            for _ in range(50):
                c1, c2 = await j.consumer_info("MARKET_DATA", "gateway_flow"), await j.consumer_info("LEVEL_SIGNALS", "gateway_levels")
                if not (c1.num_ack_pending or c2.num_ack_pending): break
                await asyncio.sleep(.2)
            say("bad messages are acknowledged (never redelivered)", c1.num_ack_pending == 0 and c2.num_ack_pending == 0, (c1.num_ack_pending, c2.num_ack_pending))
        except Exception as e: say("bad messages are acknowledged (never redelivered)", False, repr(e))
        for path in ("/ws", "/ws/stream/", "/nope"):
            try: x = await websockets.connect(f"ws://127.0.0.1:{GP}{path}"); await x.close(); say(f"WebSocket {path} is refused with 403", False, "accepted")
            except websockets.InvalidStatus as e: say(f"WebSocket {path} is refused with 403", e.response.status_code == 403, e.response.status_code, must=False)
            except Exception as e: say(f"WebSocket {path} is refused with 403", False, repr(e), must=False)
        for m, path, want in (("GET", "/nope", 404), ("GET", "/ws/stream", 404), ("POST", "/health", 405)):
            g = (await asyncio.to_thread(http, path, m))[0]; say(f"{m} {path} gives {want}", g == want, g, must=False)
        await j.publish("levels.signals", b'{"ts":1715629300123,"levels":[{"id":"a"}]}'); await rx(ws)
        gw.stop(); say("clients see close code 1012 at SIGTERM", (g := await rx(ws)) == ("closed", 1012), g, must=False)
        for i in range(3): await j.publish("market.flow", json.dumps({"down": i}).encode())
        gw = run(); await up(); await asyncio.sleep(.3); ws = await websockets.connect(WS)
        g = await rx(ws)
        say("after a restart: messages published meanwhile are taken (durable)", isinstance(js(g), dict) and js(g).get("flow") == {"down": 2}, g)
        say("  and the last levels are there again (warm start)", isinstance(js(g), dict) and "levels" in js(g), g, must=not A.parity)
        gw.stop(signal.SIGKILL); await j.publish("levels.signals", b'{"ts":1715629300123,"levels":[]}'); gw = run(); await up(); await asyncio.sleep(.3)
        ws = await websockets.connect(WS); g = await rx(ws); say("the same after SIGKILL", isinstance(js(g), dict) and "levels" in js(g), g)
        await nc.close(); ns.stop(); await asyncio.sleep(2)
        st, _, body = await asyncio.to_thread(http, "/health"); say("/health stays 200 and healthy while NATS is away", st == 200 and js(body).get("status") == "healthy", body)
        w2 = await websockets.connect(WS); say("a client that connects while NATS is away gets the cached state", isinstance(js(g := await rx(w2)), dict), g); await w2.close()
        ns = P(ns_cmd); nc = await connect_nats(); j = nc.jetstream(timeout=5); await j.publish("market.flow", b'{"back":1}')
        g = await rx(ws, 10); say("after NATS is back (store kept) it goes on by itself", isinstance(js(g), dict) and js(g).get("flow") == {"back": 1}, g)
        g2 = P("exec " + A.cmd, {**gw_env, "GATEWAY_PORT": str(GP2)})
        await asyncio.sleep(4)
        c = (await j.consumer_info("MARKET_DATA", "gateway_flow"))
        say("a second gateway on the same durables takes nothing from the first (it waits, or ends)", c.num_ack_pending == 0, c)
        g2.stop()
        await j.publish("market.flow", b'{"still":1}'); g = await rx(ws); say("  and the first one goes on", isinstance(js(g), dict) and js(g).get("flow") == {"still": 1}, g)
    finally:
        if gw: gw.stop()
        ns.stop(); shutil.rmtree(store, ignore_errors=True)
    print(f"{len(bad)} failed"); sys.exit(1 if bad else 0)

asyncio.run(main())
