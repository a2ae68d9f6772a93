"""nginx, HAProxy, Caddy, Apache, Varnish, Envoy and Traefik in front of weirgate, with the configurations of deploy/; started without rights."""
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time

from processes import ROOT, Process, StartError, free_port, system_binary

RECIPE = ROOT / "deploy" / "nginx" / "weirgate.conf"
NGINX_RELOAD = ROOT / "deploy" / "nginx" / "reload.conf"
HAPROXY = ROOT / "deploy" / "haproxy"
NGINX_TCP = ROOT / "deploy" / "nginx" / "tcp.conf"
CADDYFILE = ROOT / "deploy" / "caddy" / "Caddyfile"
APACHE = ROOT / "deploy" / "apache" / "weirgate.conf"
VARNISH = ROOT / "deploy" / "varnish" / "weirgate.vcl"
ENVOY = ROOT / "deploy" / "envoy" / "envoy.yaml"
TRAEFIK = ROOT / "deploy" / "traefik"
# The line of a recipe with the address of weirgate, and the rest of the line.
HAPROXY_SERVER = {"weirgate.cfg": r"server one 127\.0\.0\.1:8000 (.*)",
                  "replicas.cfg": r"server-template .* gateway:8000 resolvers docker init-addr none (.*)",
                  "tcp.cfg": r"server one 127\.0\.0\.1:8443 (.*)"}

MAIN = """\
daemon off;
master_process {master};
{user}
pid {folder}/pid;
include {folder}/reload.conf;
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

NGINX_TCP_MAIN = """\
load_module /usr/lib/nginx/modules/ngx_stream_module.so;
daemon off;
master_process off;
pid {folder}/pid;
error_log stderr warn;
events {{ worker_connections 2048; }}
include {folder}/tcp.conf;
"""


# Debian's Apache without a site: the modules and time limits for requests that are on by default.
APACHE_MAIN = """\
ServerRoot /usr/lib/apache2
ServerName localhost
PidFile {folder}/pid
DefaultRuntimeDir {folder}
ErrorLog /dev/stderr
Listen 127.0.0.1:{port}
{modules}
RequestReadTimeout header=20-40,minrate=500 body=10,minrate=500
ThreadsPerChild 25
StartServers 1
Include {folder}/weirgate.conf
"""
DEBIAN_MODULES = ["mpm_event", "authz_core", "alias", "reqtimeout", "setenvif", "slotmem_shm"]


def replaced(text, old, new):
    """`text` with `old` replaced; `old` must occur in the recipe."""
    assert old in text, f"the recipe has no {old!r} any more"
    return text.replace(old, str(new))


class Proxy:
    """A proxy on `port` of 127.0.0.1. With `stays_s` it can be reloaded, and what was before a reload stays for so long in place of the
    ten minutes of the recipe."""

    # Files in the folder that the recipe has made its logs.
    logs = []

    def log(self):
        """All that the proxy has logged."""
        return self.process.log() + "".join((self.folder / name).read_text() for name in self.logs)

    def reload(self):
        """New processes, or a new configuration, from the same files."""
        self.process.send(self.reload_signal)

    def workers(self):
        """The process ids of its processes, with those that wait for the end of their clients."""
        children = subprocess.run(["ps", "-o", "pid=", "--ppid", str(self.process.pid)], capture_output=True, text=True).stdout
        return set(children.split())

    def old_processes(self):
        """How many processes of the proxy wait for the end of their clients."""
        return len(self.workers()) - self.processes

    def wait_until_it_listens(self, seconds=30):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                pass
            if not self.process.alive():
                raise StartError(f"{type(self).__name__} ended at start\n{self.process.log_tail()}")
            time.sleep(0.02)
        raise StartError(f"{type(self).__name__} does not listen\n{self.process.log_tail()}")

    def discard(self):
        self.process.discard()
        shutil.rmtree(self.folder, ignore_errors=True)


class Haproxy(Proxy):
    """HAProxy before the given ports or paths of unix sockets."""

    reload_signal, processes = signal.SIGUSR2, 1

    def __init__(self, *backends, recipe="weirgate.cfg", stays_s=None):
        self.port = free_port()
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="weirgate-haproxy-"))
        server = re.search(HAPROXY_SERVER[recipe], text := (HAPROXY / recipe).read_text())
        assert server, f"{recipe} names no backend"
        where = [f"unix@{one}" if isinstance(one, pathlib.Path) else f"127.0.0.1:{one}" for one in backends]
        servers = "\n    ".join(f"server s{n} {one} {server.group(1)}" for n, one in enumerate(where))
        text = replaced(text, server.group(0), servers)
        # Two descriptors for each: more than a test may have.
        text = replaced(text, "maxconn 50000", "maxconn 1000")
        text = replaced(text, "bind :443" if recipe == "tcp.cfg" else "bind :80", f"bind 127.0.0.1:{self.port}")
        if stays_s:
            text = replaced(text, "hard-stop-after 10m", f"hard-stop-after {stays_s}s")
        config = self.folder / "haproxy.cfg"
        config.write_text(text)
        master = ["-W"] if stays_s else []
        self.process = Process([system_binary("haproxy", "haproxy"), *master, "-db", "-f", config])
        self.wait_until_it_listens()


class Nginx(Proxy):
    """nginx before the given ports or paths of unix sockets; `replace` changes lines of the recipe for a test."""

    reload_signal, processes = signal.SIGHUP, 1

    def __init__(self, *backends, replace=(), stays_s=None):
        self.port = free_port()
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="weirgate-nginx-"))
        recipe = RECIPE.read_text()
        server = re.search(r"server 127\.0\.0\.1:8000(.*;)", recipe)
        assert server, f"{RECIPE} names no backend"
        where = [f"unix:{one}" if isinstance(one, pathlib.Path) else f"127.0.0.1:{one}" for one in backends]
        servers = "\n    ".join(f"server {one}{server.group(1)}" for one in where)
        recipe = replaced(recipe, server.group(0), servers)
        recipe = replaced(recipe, "listen 80;", f"listen 127.0.0.1:{self.port};")
        recipe = replaced(recipe, "/var/log/nginx/", f"{self.folder}/")
        self.logs = ["weirgate.log", "weirgate.error.log"]
        for old, new in replace:
            recipe = replaced(recipe, old, new)
        (self.folder / "weirgate.conf").write_text(recipe)
        reload = NGINX_RELOAD.read_text()
        if stays_s:
            reload = replaced(reload, "worker_shutdown_timeout 10m;", f"worker_shutdown_timeout {stays_s}s;")
        (self.folder / "reload.conf").write_text(reload)
        # Workers of root's nginx are another user's, who may not use the folder.
        main = {"master": "on" if stays_s else "off", "user": "user root;" if stays_s and os.getuid() == 0 else ""}
        (self.folder / "nginx.conf").write_text(MAIN.format(folder=self.folder, **main))
        self.process = Process([system_binary("nginx", "nginx-light"), "-e", "stderr", "-p", self.folder, "-c", self.folder / "nginx.conf"])
        self.wait_until_it_listens()


class NginxTcp(Proxy):
    """nginx as a load balancer of TCP before one port."""

    def __init__(self, backend):
        self.port = free_port()
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="weirgate-nginx-"))
        recipe = replaced(NGINX_TCP.read_text(), "127.0.0.1:8443", f"127.0.0.1:{backend}")
        recipe = replaced(recipe, "listen 443;", f"listen 127.0.0.1:{self.port};")
        (self.folder / "tcp.conf").write_text(recipe)
        (self.folder / "nginx.conf").write_text(NGINX_TCP_MAIN.format(folder=self.folder))
        self.process = Process([system_binary("nginx", "nginx-light"), "-e", "stderr", "-p", self.folder, "-c", self.folder / "nginx.conf"])
        self.wait_until_it_listens()


def caddy_binary():
    """(program, whether it knows stream_close_delay): the one of tests/requirements.txt, or Debian's, which is 2.6."""
    own = ROOT / ".venv" / "bin" / "caddy"
    program = own if own.exists() else system_binary("caddy", "caddy")
    version = subprocess.run([program, "version"], capture_output=True, text=True, check=True).stdout
    return program, not re.match(r"v?2\.6\.", version)


class Caddy(Proxy):
    """Caddy before the given ports or paths of unix sockets."""

    def __init__(self, *backends, replace=(), stays_s=None):
        self.port = free_port()
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="weirgate-caddy-"))
        where = [f"unix/{one}" if isinstance(one, pathlib.Path) else f"127.0.0.1:{one}" for one in backends]
        recipe = replaced(CADDYFILE.read_text(), "reverse_proxy 127.0.0.1:8000 {", f"reverse_proxy {' '.join(where)} {{")
        recipe = replaced(recipe, "\n:80 {", f"\nhttp://:{self.port} {{\n\tbind 127.0.0.1")
        self.caddy, knows_delay = caddy_binary()
        if (stays_s or replace) and not knows_delay:
            raise StartError(f"{self.caddy} cuts WebSockets at a reload, and compresses event streams: run `scripts/install-test-deps.sh`")
        delay = f"stream_close_delay {stays_s}s" if stays_s else "stream_close_delay 10m" if knows_delay else ""
        recipe = replaced(recipe, "stream_close_delay 10m", delay)
        for old, new in replace:
            recipe = replaced(recipe, old, new)
        self.config = self.folder / "Caddyfile"
        # The admin port would be the same for every Caddy of the machine.
        self.admin = f"unix/{self.folder}/admin.sock"
        self.config.write_text(replaced(recipe, "\n{\n\tlog", f"\n{{\n\tadmin {self.admin if stays_s else 'off'}\n\tlog"))
        # Caddy keeps files in these folders.
        self.homes = {name: str(self.folder) for name in ("HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME")}
        homes = [f"{name}={folder}" for name, folder in self.homes.items()]
        self.process = Process(["/usr/bin/env", *homes, self.caddy, "run", "--adapter", "caddyfile", "--config", self.config])
        self.wait_until_it_listens()

    def reload(self):
        argv = [self.caddy, "reload", "--force", "--address", self.admin, "--adapter", "caddyfile", "--config", self.config]
        subprocess.run(argv, env=os.environ | self.homes, check=True, capture_output=True, timeout=20)

    def old_processes(self):
        return 0


class Apache(Proxy):
    """Apache in front of the given ports, with the modules of the recipe."""

    def __init__(self, *backends, replace=()):
        self.port = free_port()
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="weirgate-apache-"))
        recipe = APACHE.read_text()
        member = re.search(r'BalancerMember "http://127\.0\.0\.1:8000"(.*)', recipe)
        assert member, f"{APACHE} names no backend"
        members = "\n    ".join(f'BalancerMember "http://127.0.0.1:{one}"{member.group(1)}' for one in backends)
        recipe = replaced(recipe, member.group(0), members)
        recipe = replaced(recipe, "<VirtualHost *:80>", f"<VirtualHost 127.0.0.1:{self.port}>")
        recipe = replaced(recipe, "${APACHE_LOG_DIR}", self.folder)
        self.logs = ["weirgate.log"]
        for old, new in replace:
            recipe = replaced(recipe, old, new)
        (self.folder / "weirgate.conf").write_text(recipe)
        named = re.search(r"^#   a2enmod (.*) && a2ensite weirgate$", recipe, re.M).group(1).split()
        modules = "\n".join(f"LoadModule {name}_module modules/mod_{name}.so" for name in DEBIAN_MODULES + named)
        config = self.folder / "apache2.conf"
        config.write_text(APACHE_MAIN.format(folder=self.folder, port=self.port, modules=modules))
        self.process = Process([system_binary("apache2", "apache2-bin"), "-X", "-f", config])
        self.wait_until_it_listens()


class Varnish(Proxy):
    """Varnish before the given ports or paths of unix sockets."""

    def __init__(self, *backends, replace=()):
        self.port = free_port()
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="weirgate-varnish-"))
        recipe = VARNISH.read_text()
        backend = re.search(r'backend one \{ \.host = "127\.0\.0\.1"; \.port = "8000";(.*)', recipe)
        assert backend, f"{VARNISH} names no backend"
        where = [f'.path = "{one}";' if isinstance(one, pathlib.Path) else f'.host = "127.0.0.1"; .port = "{one}";' for one in backends]
        each = "\n".join(f"backend s{n} {{ {one}{backend.group(1)}" for n, one in enumerate(where))
        recipe = replaced(recipe, backend.group(0), each)
        recipe = replaced(recipe, "weirgate.add_backend(one);", "\n    ".join(f"weirgate.add_backend(s{n});" for n in range(len(where))))
        for old, new in replace:
            recipe = replaced(recipe, old, new)
        config = self.folder / "weirgate.vcl"
        config.write_text(recipe)
        # Without a change of user, which needs rights; `-n`: a separate folder from the machine's Varnish.
        self.process = Process([system_binary("varnishd", "varnish"), "-F", "-j", "none", "-f", config, "-n", self.folder / "work",
                                "-a", f"127.0.0.1:{self.port}", "-s", "malloc,16M"])
        self.wait_until_it_listens()


def packaged_binary(name):
    """A program of tests/requirements.txt."""
    program = ROOT / ".venv" / "bin" / name
    if not program.exists():
        raise StartError(f"{name} is missing: run `scripts/install-test-deps.sh`")
    return program


class Envoy(Proxy):
    """Envoy before the given ports."""

    def __init__(self, *backends):
        self.port = free_port()
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="weirgate-envoy-"))
        recipe = ENVOY.read_text()
        endpoint = re.search(r"- endpoint: .*127\.0\.0\.1, port_value: 8000.*", recipe)
        assert endpoint, f"{ENVOY} names no backend"
        each = [endpoint.group(0).replace("8000", str(one)) for one in backends]
        recipe = replaced(recipe, endpoint.group(0), ("\n" + " " * 14).join(each))
        recipe = replaced(recipe, "{address: 0.0.0.0, port_value: 80}", f"{{address: 127.0.0.1, port_value: {self.port}}}")
        self.config = self.folder / "envoy.yaml"
        self.config.write_text(recipe)
        # `base-id`: memory that every Envoy of the machine would share.
        self.process = Process([packaged_binary("envoy"), "-c", self.config, "--use-dynamic-base-id", "--concurrency", "1", "--log-level", "info",
                                "--drain-time-s", "1"])
        self.wait_until_it_listens()


class Traefik(Proxy):
    """Traefik before the given ports."""

    def __init__(self, *backends):
        self.port = free_port()
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="weirgate-traefik-"))
        served = (TRAEFIK / "weirgate.yaml").read_text()
        server = re.search(r'( +)- url: "http://127\.0\.0\.1:8000"\n', served)
        assert server, f"{TRAEFIK} names no backend"
        served = replaced(served, server.group(0), "".join(server.group(0).replace("8000", str(one)) for one in backends))
        (self.folder / "weirgate.yaml").write_text(served)
        recipe = replaced((TRAEFIK / "traefik.yaml").read_text(), "/etc/traefik/weirgate.yaml", self.folder / "weirgate.yaml")
        recipe = replaced(recipe, 'address: ":80"', f'address: "127.0.0.1:{self.port}"')
        (self.folder / "traefik.yaml").write_text(recipe)
        self.process = Process([packaged_binary("traefik"), f"--configFile={self.folder}/traefik.yaml"])
        self.wait_until_it_listens()
