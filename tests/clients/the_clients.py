"""All clients: how each is started, which of its faults are known, and what it has no interface for."""
import dataclasses
import os
import pathlib
import re
import subprocess

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
BUILT = pathlib.Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target").resolve() / "clients"


@dataclasses.dataclass(frozen=True)
class Client:
    """One client program. `package` is what its version is asked of; `deflate`: it offers permessage-deflate here.

    `known` has the faults of the client itself, by check, as (a part of what is then said, the reason, and SOMETIMES); `lacks` has the
    checks that its interface has no way for, with the reason. Both are asserted or shown: nothing is left out in silence. `known_over_tls` has
    faults that only TLS brings out; `plain`: why the program speaks no TLS."""
    name: str
    language: str
    command: list
    package: str
    deflate: bool = True
    known: dict = dataclasses.field(default_factory=dict)
    lacks: dict = dataclasses.field(default_factory=dict)
    known_over_tls: dict = dataclasses.field(default_factory=dict)
    plain: str = ""

    def version(self):
        """The version that is installed."""
        return VERSIONS[self.language](self.package)


def python(name, package, file=None, **more):
    return Client(name, "python", [BUILT / "python/bin/python", HERE / "python" / f"{file or name}.py"], package, **more)


def node(name, *command, package=None, **more):
    return Client(name, "node", ["node", *command], package or name, **more)


def standard(name, **more):
    return node(name, HERE / "node/standard.mjs", name, **more)


def go(name, package, **more):
    return Client(name, "go", [BUILT / "go" / name], package, **more)


def rust(name, **more):
    return Client(name, "rust", [BUILT / "rust/release" / name], name, **more)


def cpp(name, package, **more):
    return Client(name, "cpp", [BUILT / "cpp" / name], package, **more)


def java(name, package, **more):
    return Client(name, "java", ["java", "-Xmx1g", "-cp", f"/usr/share/java/*:{BUILT / 'java'}", {"okhttp": "OkHttp"}.get(name, name.title())],
                  package, **more)


NO_ANSWER_1006 = "forgets the code that came if its own close frame cannot be sent: asyncio ends both directions at the end of one"
BUILT_PLAIN = "the program is built without TLS"
UNKNOWN_1012 = "does not know the code 1012"
WITH_CODES = ("1009", "3999", "1012", "1001", "1008")
NO_CODES = "no close codes in its interface"
NOT_ITS_OWN = "does not show the code of its own close"
# A fault that comes and goes with the client's own scheduler.
SOMETIMES = "sometimes"
NO_SUBPROTOCOLS = {"subprotocol": "no subprotocols in its interface"}

CLIENTS = [
    node("chromium", HERE / "node/browser.mjs", "chrome", "/usr/bin/chromium", package="chromium"),
    node("firefox", HERE / "node/browser.mjs", "firefox", "/usr/bin/firefox-esr", package="firefox-esr"),
    node("ws", HERE / "node/ws.mjs"),
    standard("undici"),
    node("node-built-in", "--experimental-websocket", HERE / "node/standard.mjs", "built-in", package="nodejs"),
    Client("deno", "node", [HERE / "node/node_modules/.bin/deno", "run", "-A", HERE / "node/standard.mjs", "built-in"], "deno", deflate=False),
    Client("bun", "node", [HERE / "node/node_modules/.bin/bun", HERE / "node/standard.mjs", "built-in"], "bun"),
    standard("websocket", deflate=False),
    standard("faye-websocket", known={"1012": ("closed 1002", UNKNOWN_1012)}),
    standard("partysocket"),
    standard("reconnecting-websocket"),
    python("websockets", "websockets", "websockets_asyncio"),
    python("websockets-sync", "websockets", "websockets_sync"),
    python("websocket-client", "websocket-client", "websocket_client", deflate=False),
    python("aiohttp", "aiohttp", "aiohttp_client", known_over_tls={"1009": ("closed 1006", NO_ANSWER_1006, SOMETIMES)}),
    python("tornado", "tornado", "tornado_client"),
    python("picows", "picows", "picows_client", deflate=False, lacks=NO_SUBPROTOCOLS),
    python("wsproto", "wsproto", "wsproto_client", plain="no TLS of its own: it makes and reads bytes"),
    python("autobahn", "autobahn", "autobahn_client"),
    python("httpx-ws", "httpx-ws", "httpx_ws_client", deflate=False, known={"3999": ("closed 1006", NOT_ITS_OWN)}),
    python("trio-websocket", "trio-websocket", "trio_client", deflate=False, known={"3999": ("closed 1000", NOT_ITS_OWN, SOMETIMES)}),
    python("lomond", "lomond", "lomond_client"),
    python("curl_cffi", "curl_cffi", "curl_cffi_client", deflate=False, lacks=NO_SUBPROTOCOLS,
           known={"pongs": ("closed 1011", "sends no pong while it only reads"), "3999": ("'closed '", NOT_ITS_OWN)}),
    python("niquests", "niquests", "niquests_client", lacks={**NO_SUBPROTOCOLS, **dict.fromkeys(WITH_CODES, NO_CODES)}),
    rust("tokio-tungstenite", deflate=False, plain=BUILT_PLAIN),
    rust("tokio-websockets", deflate=False, plain=BUILT_PLAIN),
    rust("fastwebsockets", deflate=False, plain=BUILT_PLAIN),
    rust("yawc", lacks=NO_SUBPROTOCOLS, plain=BUILT_PLAIN),
    cpp("libwebsockets", "libwebsockets-dev", known={"1012": ("closed 1002", UNKNOWN_1012)}, plain=BUILT_PLAIN),
    cpp("libsoup", "libsoup-3.0-dev", plain=BUILT_PLAIN),
    cpp("beast", "libboost-dev", plain=BUILT_PLAIN),
    cpp("websocketpp", "libwebsocketpp-dev", plain=BUILT_PLAIN),
    go("gorilla", "golang-github-gorilla-websocket-dev"),
    go("nhooyr", "golang-nhooyr-websocket-dev"),
    go("xnet", "golang-golang-x-net-dev", deflate=False,
       lacks=dict.fromkeys(WITH_CODES, NO_CODES)),
    java("jdk", "openjdk-17-jdk-headless", deflate=False),
    java("jetty", "libjetty9-java"),
    java("netty", "libnetty-java"),
    java("tomcat", "libtomcat9-java", known={
        "1012": ("closed 1002", UNKNOWN_1012),
        "sends": ("1500000 bytes came back as", "cuts off a message in stored blocks behind some reads of its socket, another server's too")}),
    java("okhttp", "libokhttp-java", deflate=False, known={"1012": ("Code 1012 is reserved and may not be used", UNKNOWN_1012)}),
    Client("mojolicious", "perl", ["perl", HERE / "perl/mojolicious.pl"], "libmojolicious-perl"),
]


def debian(package):
    return subprocess.run(["dpkg-query", "-W", "-f", "${Version}", package], capture_output=True, text=True).stdout


def of_pip(package):
    return subprocess.run([BUILT / "python/bin/python", "-c", f"import importlib.metadata as m; print(m.version({package!r}))"],
                          capture_output=True, text=True).stdout.strip()


def of_npm(package):
    found = HERE / "node/node_modules" / package / "package.json"
    return re.search(r'"version": *"([^"]*)"', found.read_text())[1] if found.exists() else debian(package)


def of_cargo(package):
    return re.search(rf'name = "{package}"\nversion = "([^"]*)"', (HERE / "rust/Cargo.lock").read_text())[1]


VERSIONS = {"python": of_pip, "node": of_npm, "rust": of_cargo, "perl": debian, "go": debian, "java": debian, "cpp": debian}
