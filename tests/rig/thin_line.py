"""A line of 64 kbit/s between a gateway and a client: prints the operator's state once the client has a cause, as JSON.

Runs in a user and network namespace of its own: `unshare -Urn python thin_line.py WEIRGATE`."""
import json
import os
import subprocess
import sys
import time
import urllib.request

GATEWAY, CLIENT, PORT, ADMIN = "10.9.0.1", "10.9.0.2", 8_000, 9_100
READER = f"""
import os, socket, sys
sys.path.insert(0, {os.path.dirname(__file__)!r})
from clients import upgrade_request
with socket.create_connection(("{GATEWAY}", {PORT})) as line:
    line.sendall(upgrade_request({PORT}))
    while line.recv(65536):
        pass
"""


def run(*words, within=None):
    entered = ["nsenter", "-t", str(within), "-n"] if within else []
    subprocess.run([*entered, *words], check=True)


def state(admin=ADMIN):
    """The operator's state, None without an answer."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{admin}/operator/state", timeout=5) as answer:
            return json.load(answer)
    except OSError:
        return None


def far_side(gateway, clients, seconds):
    """A process in a namespace with these addresses, which ends by itself; the line to them is the device `near`."""
    far = subprocess.Popen(["unshare", "-n", "sleep", str(seconds)])
    time.sleep(0.3)
    run("ip", "link", "set", "lo", "up")
    run("ip", "link", "add", "near", "type", "veth", "peer", "name", "far", "netns", str(far.pid))
    run("ip", "addr", "add", f"{gateway}/24", "dev", "near")
    run("ip", "link", "set", "near", "up")
    run("ip", "link", "set", "far", "up", within=far.pid)
    # Each is the first of its net: the end of one takes no other away.
    for address in clients:
        run("ip", "addr", "add", f"{address}/32", "dev", "far", within=far.pid)
    run("ip", "route", "add", f"{gateway}/32", "dev", "far", within=far.pid)
    return far


def main(weirgate):
    far = far_side(GATEWAY, [CLIENT], 60)
    run("tc", "qdisc", "add", "dev", "near", "root", "tbf", "rate", "64kbit", "burst", "4kb", "latency", "3s")
    gateway = subprocess.Popen([weirgate, "demo", "--listen", GATEWAY, "--port", str(PORT), "--admin-addr", f"127.0.0.1:{ADMIN}"],
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while state() is None:
        assert gateway.poll() is None, "the gateway ended"
        time.sleep(0.1)
    client = subprocess.Popen(["nsenter", "-t", str(far.pid), "-n", sys.executable, "-c", READER])
    try:
        for _ in range(100):
            time.sleep(0.2)
            survey = state()["survey"]
            # A busy machine may be late itself.
            slowest = [row for row in survey["slowest"] if row["why"] not in (None, "gateway", "unclear")] if survey else []
            if slowest:
                return print(json.dumps(slowest))
        print(json.dumps(survey["slowest"]))
    finally:
        for process in (client, gateway, far):
            process.kill()


if __name__ == "__main__":
    main(sys.argv[1])
