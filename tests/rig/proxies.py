"""nginx in front of weirgate, with the configuration that deploy/ hands out; started without rights, in a folder of its own."""
import pathlib
import re
import shutil
import socket
import tempfile
import time

from processes import ROOT, Process, StartError, free_port, system_binary

RECIPE = ROOT / "deploy" / "nginx" / "weirgate.conf"

MAIN = """\
daemon off;
master_process off;
pid {folder}/pid;
error_log stderr warn;
events {{ worker_connections 2048; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/weirgate.conf;
}}
"""


def replaced(text, old, new):
    """`text` with `old` replaced; the recipe must still have it."""
    assert old in text, f"{RECIPE} has no {old!r} any more"
    return text.replace(old, new)


class Nginx:
    """nginx before the given ports; `replace` changes lines of the recipe for a test."""

    def __init__(self, *backends, replace=()):
        self.port = free_port()
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="weirgate-nginx-"))
        recipe = RECIPE.read_text()
        server = re.search(r"server 127\.0\.0\.1:8000(.*;)", recipe)
        assert server, f"{RECIPE} names no backend"
        servers = "\n    ".join(f"server 127.0.0.1:{port}{server.group(1)}" for port in backends)
        recipe = replaced(recipe, server.group(0), servers)
        recipe = replaced(recipe, "listen 80;", f"listen 127.0.0.1:{self.port};")
        for old, new in replace:
            recipe = replaced(recipe, old, new)
        (self.folder / "weirgate.conf").write_text(recipe)
        (self.folder / "nginx.conf").write_text(MAIN.format(folder=self.folder))
        self.process = Process([system_binary("nginx", "nginx-light"), "-e", "stderr", "-p", self.folder, "-c", self.folder / "nginx.conf"])
        self.wait_until_it_listens()

    def wait_until_it_listens(self, seconds=10):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                pass
            if not self.process.alive():
                raise StartError(f"nginx ended at start\n{self.process.log_tail()}")
            time.sleep(0.02)
        raise StartError(f"nginx does not listen\n{self.process.log_tail()}")

    def discard(self):
        self.process.discard()
        shutil.rmtree(self.folder, ignore_errors=True)
