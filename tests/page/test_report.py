"""The page of `loadtest compare --report`: every plot is drawn, from nothing but the file, and follows what is chosen."""
import asyncio
import json
import subprocess

import pytest
from browser import open_page
from processes import loadtest_binary

pytestmark = pytest.mark.chromium

# Two numbers of clients and two sizes, so that each plot has something to show.
LOAD = ["--rounds", "2", "--clients", "5,20", "--bytes", "200,2048", "--messages", "10", "--warm-up", "1", "--settle", "0.1"]
PLOTS = ["ratio", "percentiles", "time", "clients", "machine", "bytes"]


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    server = f"second={loadtest_binary()} limit --port {{port}} --nats {{nats}}"
    argv = [loadtest_binary(), "compare", "--aa", "--server", server, "--report", folder, *LOAD]
    subprocess.run(argv, stdin=subprocess.DEVNULL, check=True, timeout=100)
    return folder


def marks(plot, what):
    return f"document.querySelectorAll('#{plot} figure {what}').length"


@pytest.mark.parametrize("width,scheme", [(1280, "light"), (390, "dark")])
async def test_every_plot_is_drawn_from_the_file_alone(report, width, scheme):
    async with open_page((report / "index.html").as_uri(), width=width, scheme=scheme) as page:
        for plot in PLOTS:
            assert await page.js(marks(plot, "svg")) == 1, plot
            shapes = await page.js(marks(plot, "path") + "+" + marks(plot, "rect") + "+" + marks(plot, "circle"))
            assert shapes >= 4, plot
        assert await page.js("document.querySelectorAll('#figures tbody tr').length") == 4
        bad = "[...document.querySelectorAll('svg *')].some(e => [...e.attributes].some(a => /NaN|Infinity|undefined/.test(a.value)))"
        assert not await page.js(bad)
        assert await page.js("document.documentElement.scrollWidth") <= width
        assert page.problems == [] and page.hosts() == set()


async def test_choices_change_the_plots(report):
    result = json.loads((report / "result.json").read_text())
    sizes = {(c["clients"], c["bytes"]): c["servers"][0]["bytes_per_delivery"]["median"] for c in result["cases"]}
    async with open_page((report / "index.html").as_uri()) as page:
        press = "[...document.querySelectorAll('{}')].find(b => b.textContent === '{}').click()".format
        assert f"{sizes[20, 2048]:,.0f} B" in await page.text("#bytes figure")
        await page.js(press("#cases button", "200 B"))
        assert f"{sizes[20, 200]:,.0f} B" in await page.text("#bytes figure")
        assert "second" in await page.text("#ratio figure")
        await page.js(press("#legend button", "second"))
        assert "second" not in await page.text("#ratio figure")
        await page.js(press("#references button", "coalescing limit"))
        assert "coalescing limit" not in await page.text("#ratio figure")
        x, y = await page.js("(() => { const r = document.querySelector('#percentiles figure').getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2] })()")
        await page.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        await asyncio.sleep(0.1)
        assert "of deliveries within" in await page.text("#tip") and "limit again" in await page.text("#tip")
        assert page.problems == []
