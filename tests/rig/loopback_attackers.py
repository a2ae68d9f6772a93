"""Programs of another local user that attack the loopback connection between weirgate's NATS client and its TLS.

Both are handed to `python -c`, so that a user who may not read this folder can run them. Servers of other tests are
below port 32768, where these attackers never look.
"""
import os
import shutil
import subprocess
import sys

NOBODY = 65534

# Takes a listener's port over as soon as the port is free, and prints what the next client sends to it.
SQUAT = """
import socket, sys, time
port, end = int(sys.argv[1]), time.monotonic() + float(sys.argv[2])
taken = socket.socket()
taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
while time.monotonic() < end:
    try:
        taken.bind(("127.0.0.1", port)); taken.listen(5); break
    except OSError:
        time.sleep(0.002)
else:
    print("never free"); sys.exit()
taken.settimeout(max(end - time.monotonic(), 0.1))
try:
    client, _ = taken.accept()
except OSError:
    print("nobody came"); sys.exit()
client.settimeout(3)
client.sendall(b'INFO {"server_id":"NX","server_name":"NX","version":"2.9.10","proto":1,"go":"go1.19","host":"127.0.0.1","port":4222,'
               b'"headers":true,"auth_required":true,"max_payload":1048576,"client_id":5,"nonce":"abcdefgh"}\\r\\n')
print("got", client.recv(4000).decode(errors="replace"))
"""

# Connects to each new loopback listener before the gateway does, and prints how often a listener passed on what the
# server at the given port sends.
HIJACK = """
import socket, sys, time
end, seen, won = time.monotonic() + float(sys.argv[1]), set(), 0
table = open("/proc/net/tcp", "rb", buffering=0)
while time.monotonic() < end:
    table.seek(0)
    for line in table.read(65536).splitlines()[1:]:
        field = line.split()
        if len(field) < 4 or field[3] != b"0A" or not field[1].startswith(b"0100007F:"): continue
        port = int(field[1][9:], 16)
        if port < 32768 or port in seen: continue
        seen.add(port)
        try:
            link = socket.create_connection(("127.0.0.1", port), 1)
            link.settimeout(1)
            info = link.recv(4000)
            won += info.startswith(b"INFO") and b'"port":' + sys.argv[2].encode() + b"," in info
        except OSError: pass
print("listeners", len(seen), "won", won)
"""


def start(program, *arguments):
    """Starts the attacker as user nobody if this user may change users, else as this user; the output is a pipe."""
    argv = [sys.executable if os.geteuid() else shutil.which("python3", path="/usr/bin:/bin") or sys.executable]
    if os.geteuid() == 0:
        argv = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", *argv]
    return subprocess.Popen([*argv, "-c", program, *map(str, arguments)], stdout=subprocess.PIPE, text=True)
