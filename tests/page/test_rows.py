"""The rows of a list of clients/js/README.md, word for word, in React and in Vue."""
import contextlib
import functools
import http.server
import re
import shutil
import threading

import pytest
from browser import open_page
from processes import ROOT, free_port
from waiting import until

pytestmark = pytest.mark.chromium

PACKAGES = ROOT / "tests/node/node_modules"
HEAD = """<!doctype html><meta charset="utf-8"><div id="root"></div>%s<script type="module">
%s
import { Channels } from "http://127.0.0.1:%d/channels.js";
const channels = new Channels("ws://127.0.0.1:%d/ws", { last: 1 }), name = "orders:ann:*";
const drawn = ({ rows }) => [...rows].map(([id, { value }]) => h("p", { key: id }, `${id} ${value.n}`));
"""
REACT = ["react/umd/react.production.min.js", "react-dom/umd/react-dom.production.min.js"]
IMPORTS = '<script type="importmap">{ "imports": { "react": "./the-react.js", "weirgate/react": "./react.js" } }</script>'
VUE = ["vue/dist/vue.runtime.esm-browser.prod.js"]
WITH_REACT = """
const Orders = () => drawn(useRows(channels, name));
ReactDOM.createRoot(document.getElementById("root")).render(h(Orders));
</script>"""
WITH_VUE = """
createApp({ setup() { const rows = useRows(channels, name); return () => drawn(rows.value); } }).mount("#root");
</script>"""


def pages(folder, port):
    section = (ROOT / "clients/js/README.md").read_text().split("\n## Rows of a list\n")[1]
    _, react, vue = re.findall(r"^```jsx?\n(.*?)^```$", section, re.M | re.S)
    for module in ("react", "rows", "status"):
        shutil.copy(ROOT / f"clients/js/{module}.js", folder)
    shutil.copy(ROOT / "clients/js/examples/channels/react.js", folder / "the-react.js")
    for file in REACT + VUE:
        shutil.copy(PACKAGES / file, folder)
    scripts = "".join(f'<script src="{file.rpartition("/")[2]}"></script>' for file in REACT)
    head = HEAD % (scripts + IMPORTS, "const { createElement: h } = React;", port, port)
    # The hook alone: its example has JSX.
    (folder / "react.html").write_text(head + react.partition("const Orders")[0] + WITH_REACT)
    vue_imports = f'import {{ rowsOf }} from "./rows.js";\nimport {{ createApp, h, onScopeDispose, shallowRef }} from "./{VUE[0].rpartition("/")[2]}";'
    head = HEAD % ("", vue_imports, port, port)
    (folder / "vue.html").write_text(head + vue + WITH_VUE)


@contextlib.contextmanager
def served(folder):
    handler = type("Quiet", (http.server.SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(handler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("page_name", ["react", "vue"])
async def test_rows_of_a_list_come_change_and_begin_anew(start_weirgate, redis_server, tmp_path, page_name):
    port, publish = free_port(), redis_server.client().publish
    flags = ["--history-ms", "60000", "--history-names", "orders:*"]
    env = {"REDIS_WS_GATEWAY_PORT": str(port), "DEFAULT_ROLE": "internal"}
    start = functools.partial(start_weirgate, "channels", *flags, redis=redis_server, env=env)
    reads = lambda one: until(lambda: "subscribed on Redis" in one.log(), 20, "it reads")
    weirgate = start()
    await reads(weirgate)
    pages(tmp_path, port)
    for row in (5, 6):
        publish(f"orders:ann:{row}", f'{{"n":{row}}}')
    shows = lambda *rows: f"[...document.querySelectorAll('p')].map((row) => row.textContent).join() === '{','.join(rows)}'"  # noqa: E731
    with served(tmp_path) as url:
        async with open_page(f"{url}/{page_name}.html") as page:
            await page.until(shows("5 5", "6 6"), 20, "the rows from before the page")
            publish("orders:ann:5", '{"n":55}')
            publish("orders:ann:7", '{"n":7}')
            await page.until(shows("5 55", "6 6", "7 7"), 10, "a row that changed, and a new one")
            # Another process knows none of the rows: what is on the page may be old.
            weirgate.kill()
            await reads(start())
            await page.until(shows(), 20, "no rows")
            publish("orders:ann:6", '{"n":66}')
            await page.until(shows("6 66"), 10, "the rows from now on")
