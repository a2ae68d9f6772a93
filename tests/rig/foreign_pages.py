"""Pages that try to send a device message through the browser of a visitor, in every way open to a page."""
import asyncio
import contextlib
import json
import re

from prometheus import scrape
from waiting import until

# Names mapped to 127.0.0.1 in the browser of a test. Browsers send Sec-Fetch-* to addresses of this machine, but not to
# these names.
NAMES = ("gateway.test", "listed.test", "foreign.test", "rebound.test")

PAGE = r"""<!doctype html><title>a page</title><script>
const PATIENCE_MS = 10_000;
const pause = (ms) => new Promise((done) => setTimeout(done, ms));
const said = (by) => Promise.race([new Promise((done) => { by.onmessage = done; }), pause(PATIENCE_MS)]);
const stream = { headers: { Accept: "text/event-stream" } };

async function ask(url, options) {
  const abort = new AbortController();
  setTimeout(() => abort.abort(), PATIENCE_MS);
  try { await fetch(url, { ...stream, ...options, signal: abort.signal }); } catch {}
  abort.abort();
}
function add(name, attributes, where = document.body) {
  const made = Object.assign(document.createElement(name), attributes);
  where.append(made);
  return Promise.race([new Promise((done) => { made.onload = made.onerror = done; }), pause(PATIENCE_MS)]);
}
function listen(url, options) {
  const source = new EventSource(url, options);
  const end = new Promise((done) => { source.onopen = source.onerror = done; });
  return Promise.race([end, pause(PATIENCE_MS)]).then(() => source.close());
}
function form(url, method) {
  const to = new URL(url), name = "frame-" + method;
  const made = Object.assign(document.createElement("form"), { action: to.origin + to.pathname, method, target: name });
  if (method === "post") made.action = url;
  for (const [key, value] of to.searchParams) made.append(Object.assign(document.createElement("input"), { name: key, value }));
  const loaded = add("iframe", { name });
  document.body.append(made);
  made.submit();
  return loaded;
}
function link(url) {
  const loaded = add("iframe", { name: "frame-link" });
  const made = Object.assign(document.createElement("a"), { href: url, target: "frame-link" });
  document.body.append(made);
  made.click();
  return loaded;
}
// In a place of its own, which says when it has an answer.
const script = (url, say) => `const end = () => ${say};
  fetch(${JSON.stringify(url)}, {mode: "no-cors", headers: {Accept: "text/event-stream"}}).then(end, end)`;
function work(url) {
  const worker = new Worker(URL.createObjectURL(new Blob([script(url, "postMessage(1)")])));
  return said(worker).then(() => worker.terminate());
}
function frame(attributes) {
  const made = Object.assign(document.createElement("iframe"), attributes);
  const end = new Promise((done) => addEventListener("message", ({ source }) => source === made.contentWindow && done()));
  document.body.append(made);
  return Promise.race([end, pause(PATIENCE_MS)]);
}
const html = (url) => `<script>${script(url, "parent.postMessage(1, '*')")}<\/script>`;
function knock(url) {
  const socket = new WebSocket(url.replace("http", "ws"));
  socket.onopen = () => socket.send(new URL(url).searchParams.get("send"));
  const end = new Promise((done) => { socket.onerror = socket.onmessage = done; });
  return Promise.race([end, pause(PATIENCE_MS)]).then(() => socket.close());
}

const WAYS = {
  fetch: (url) => ask(url, { mode: "no-cors" }),
  fetch_cookies: (url) => ask(url, { mode: "no-cors", credentials: "include" }),
  fetch_hidden: (url) => ask(url, { mode: "no-cors", referrerPolicy: "no-referrer", credentials: "omit" }),
  fetch_hidden_cookies: (url) => ask(url, { mode: "no-cors", referrerPolicy: "no-referrer", credentials: "include" }),
  fetch_reload: (url) => ask(url, { mode: "no-cors", cache: "reload", keepalive: true }),
  fetch_agent: (url) => ask(url, { mode: "no-cors", referrerPolicy: "no-referrer", headers: { ...stream.headers, "User-Agent": "curl/8" } }),
  fetch_cors: (url) => ask(url, { mode: "cors" }),
  fetch_cors_cookies: (url) => ask(url, { mode: "cors", credentials: "include" }),
  fetch_in_worker: work,
  fetch_in_sandbox: (url) => frame({ sandbox: "allow-scripts", srcdoc: html(url) }),
  fetch_in_data: (url) => frame({ src: `data:text/html,${encodeURIComponent(html(url))}` }),
  event_source: (url) => listen(url),
  event_source_cookies: (url) => listen(url, { withCredentials: true }),
  websocket: knock,
  img: (url) => add("img", { src: url }),
  script: (url) => add("script", { src: url }),
  style: (url) => add("link", { rel: "stylesheet", href: url }, document.head),
  prefetch: (url) => add("link", { rel: "prefetch", href: url }, document.head),
  video: (url) => add("video", { src: url }),
  object: (url) => add("object", { data: url }),
  iframe: (url) => add("iframe", { src: url }),
  form_get: (url) => form(url, "get"),
  form_post: (url) => form(url, "post"),
  beacon: async (url) => navigator.sendBeacon(url, "x"),
  link,
};

const target = (base, event) => `${base}/ws?device_id=victim&send=` + encodeURIComponent(JSON.stringify({ event, request_id: "1", data: {} }));
const tryAll = (base, phase) => Promise.all(Object.entries(WAYS).map(([name, way]) => way(target(base, `lobby.${phase}.${name}`))));
</script><body>"""

# Ways that a gateway without --allowed-origins accepts from any page.
OPEN = {"fetch", "fetch_cookies", "fetch_hidden", "fetch_hidden_cookies", "fetch_reload", "fetch_agent", "fetch_cors",
        "fetch_cors_cookies", "fetch_in_worker", "fetch_in_sandbox", "fetch_in_data", "event_source", "event_source_cookies", "websocket"}


class Site:
    """A web server with a single page. Passes /ws on unchanged, like a reverse proxy, and like a name rebound to the address of
    the gateway."""

    def __init__(self, gateway_port):
        self.gateway_port = gateway_port

    async def __aenter__(self):
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        self.port = self.server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_):
        self.server.close()

    def origin(self, host):
        return f"http://{host}:{self.port}"

    async def serve(self, reader, writer):
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            # A single request for each connection, whatever the browser requests.
            head = re.sub(rb"(?i)\r\nconnection: keep-alive", b"\r\nConnection: close", head)
            if head.split()[1].startswith(b"/ws"):
                await self.pass_on(head, reader, writer)
            elif head.split()[1] == b"/page":
                self.answer(writer, "200 OK", PAGE)
            else:
                self.answer(writer, "404 Not Found", "")
        writer.close()

    async def pass_on(self, head, reader, writer):
        from_gateway, to_gateway = await asyncio.open_connection("127.0.0.1", self.gateway_port)
        to_gateway.write(head)

        async def pump(source, sink):
            with contextlib.suppress(OSError):
                while chunk := await source.read(65536):
                    sink.write(chunk)
                    await sink.drain()
            sink.close()
        await asyncio.gather(pump(reader, to_gateway), pump(from_gateway, writer))

    @staticmethod
    def answer(writer, status, text):
        body = text.encode()
        lines = [f"HTTP/1.1 {status}", "Content-Type: text/html; charset=utf-8", "Set-Cookie: session=1; Path=/",
                 f"Content-Length: {len(body)}", "Connection: close", "", ""]
        writer.write("\r\n".join(lines).encode() + body)


def gateway(start_weirgate, lobby, *flags):
    """An events gateway with event streams."""
    return start_weirgate("events", "--event-stream", *flags, "--lobby-url", lobby.url).wait_ready()


async def check_pages(page, start_weirgate, service):
    """Checks which ways of pages of every origin reach the service, through a gateway with and without a list of origins."""
    lobby = service()
    phases = iter(range(100))

    async def reached(at, base, wanted=frozenset()):
        """The ways by which the page of the origin `at` reaches the service through the gateway at `base`; waits for the
        `wanted` ways."""
        start = f"lobby.{next(phases)}."

        def ways():
            return {event.removeprefix(start) for event in lobby.events() if event.startswith(start)}
        await page.goto(f"{at}/page")
        await page.js(f"tryAll({json.dumps(base)}, {json.dumps(start[6:-1])}).then(() => true)")
        with contextlib.suppress(AssertionError):
            await until(lambda: wanted <= ways(), 10, "what is wanted")
        await asyncio.sleep(0.5)
        return ways()

    open_to_all = gateway(start_weirgate, lobby)
    async with Site(open_to_all.port) as foreign:
        for at, base in [
            (foreign.origin("localhost"), open_to_all.http_url),
            (foreign.origin("foreign.test"), f"http://gateway.test:{open_to_all.port}"),
            (foreign.origin("rebound.test"), foreign.origin("rebound.test")),
        ]:
            assert await reached(at, base, OPEN) == OPEN, at

    # The ports of the sites are known before the gateway's port.
    async with Site(None) as foreign, Site(None) as good:
        listed = ",".join(good.origin(host) for host in ("localhost", "listed.test"))
        guarded = gateway(start_weirgate, lobby, "--allowed-origins", listed)
        foreign.gateway_port = good.gateway_port = guarded.port
        by_address, by_name = guarded.http_url, f"http://gateway.test:{guarded.port}"

        def refused():
            return scrape(guarded).sum("weirgate_client_closes_total", reason="policy")

        for at, base in [
            (foreign.origin("localhost"), by_address),
            (foreign.origin("127.0.0.1"), by_address),
            (foreign.origin("foreign.test"), by_address),
            (foreign.origin("foreign.test"), by_name),
            (foreign.origin("rebound.test"), foreign.origin("rebound.test")),
        ]:
            before = refused()
            assert await reached(at, base) == set(), at
            await until(lambda: refused() - before >= len(OPEN), 10, f"{at} has tried")

        # A page that navigates to the gateway.
        await page.js(f"void setTimeout(() => (location.href = target({json.dumps(by_name)}, 'lobby.left')))")
        await asyncio.sleep(1)
        assert "lobby.left" not in lobby.events()

        for at, base in [(good.origin("localhost"), by_address), (good.origin("listed.test"), by_name)]:
            wanted = {"event_source", "event_source_cookies", "fetch_cors", "websocket"}
            assert wanted <= await reached(at, base, wanted), at
        # Pages of the gateway's own origin, which need no listing if the browser vouches for the origin.
        for at in (foreign.origin("127.0.0.1"), foreign.origin("localhost"), good.origin("listed.test")):
            wanted = {"event_source", "fetch_cors"}
            assert wanted <= await reached(at, at, wanted), at
