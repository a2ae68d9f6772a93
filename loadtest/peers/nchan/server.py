#!/usr/bin/env python3
"""nginx with nchan, and what posts each message of the NATS subject to it over one kept connection."""
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[3]
sys.path.append(str(ROOT / "loadtest/peers/feed"))
import core_nats  # noqa: E402
MODULE = ROOT / "target/peers/nchan/usr/lib/nginx/modules/ngx_nchan_module.so"


def start_nginx(folder):
    text = pathlib.Path(__file__).with_name("nginx.conf").read_text()
    for name, value in {"dir": folder, "module": MODULE, "port": os.environ.get("GATEWAY_PORT", "8000")}.items():
        text = text.replace("{%s}" % name, str(value))
    (folder / "nginx.conf").write_text(text)
    nginx = shutil.which("nginx") or "/usr/sbin/nginx"
    return subprocess.Popen([nginx, "-p", folder, "-c", folder / "nginx.conf"])


def publisher(folder):
    """The connection to nginx, once it listens."""
    for _ in range(100):
        try:
            link = socket.socket(socket.AF_UNIX)
            link.connect(str(folder / "publish"))
            return link
        except OSError:
            time.sleep(0.05)
    sys.exit("nginx does not listen")


def post(link, body):
    link.sendall(b"POST /publish HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    answer = b""
    while b"\r\n\r\n" not in answer:
        piece = link.recv(4096)
        if not piece:
            sys.exit("nginx has ended the connection")
        answer += piece
    head, _, rest = answer.partition(b"\r\n\r\n")
    lengths = [int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")]
    missing = sum(lengths) - len(rest)
    while missing > 0:
        missing -= len(link.recv(missing))


def relay(link):
    for payload in core_nats.payloads():
        post(link, b'{"flow":' + payload + b"}")


def main():
    if not MODULE.exists():
        sys.exit("no nchan module: run loadtest/peers/nchan/setup.sh")
    folder = pathlib.Path(tempfile.mkdtemp(prefix="nchan-"))
    # nginx's worker may be another user.
    folder.chmod(0o755)
    nginx = start_nginx(folder)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        relay(publisher(folder))
    finally:
        nginx.terminate()
        nginx.wait()
        shutil.rmtree(folder, ignore_errors=True)


main()
