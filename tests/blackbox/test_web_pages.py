"""The guides that end in a web page, word for word: each block of commands in a shell, and the page in Chromium until it has moved,
over a new start of the gateway too."""
import json
import re
import urllib.request

import nats
import pytest
from browser import open_page
from processes import ROOT, node_binary
from prometheus import Metrics
from waiting import until
from walkthrough import Shell, Walkthrough, connects, different

pytestmark = pytest.mark.chromium

ROWS = "[...document.querySelectorAll('tr')].map((row) => row.innerText.split('\\t'))"


@pytest.fixture
def guide(tmp_path):
    """guide(name) → the guide of that name, its shells ended with the test; `change` changes its text."""
    pages = []

    def page(name, change=str):
        node_binary()
        folder = tmp_path / name
        folder.mkdir()
        text = (ROOT / "docs" / "guides" / f"{name}.md").read_text()
        assert len(text.split()) <= 600, "a guide is read in a few minutes"
        pages.append(Walkthrough(change(text), folder))
        return pages[-1]
    yield page
    for one in pages:
        print(one.terminals())
        one.discard()


def stop_gateway(page):
    [*_, shell] = [shell for shell in page.shells if "weirgate channels" in shell.block]
    shell.discard()


def start_gateway(page):
    [block] = [block for kind, block, _ in page.parts if kind == "sh" and "weirgate channels" in block]
    page.shells.append(Shell(block, page.folder, page.env, len(page.shells) + 1))


async def test_the_table_has_200_rows_at_once_and_keeps_them_over_a_new_start(guide):
    page = guide("table")
    await page.run()
    assert (page.folder / "table.js").exists(), page.terminals()
    async with open_page(page.url(), width=900, height=500) as browser:
        await browser.until(f"{ROWS}.length === 200", 30, f"200 rows in\n{page.terminals()}")
        await browser.until("document.getElementById('status').textContent === 'All is well.'", 30, "all is well")
        names = [name for name, _, _ in await browser.js(ROWS)]
        assert names == [f"S{n:03}" for n in range(200)]

        async def prices():
            return json.dumps([price for _, price, _ in await browser.js(ROWS)])
        await different(browser, prices)
        # On the clock of the server: a message is stored before the page, and read after it.
        await browser.until("/newest after \\d+ ms/.test(document.body.innerText)", 30, "the latency")
        ages = [float(age.removesuffix(" s")) for _, _, age in await browser.js(ROWS)]
        assert all(age >= 0 for age in ages) and max(ages) < 600

        stop_gateway(page)
        await browser.until("document.getElementById('status').className === 'waiting'", 30, "the loss")
        assert len(await browser.js(ROWS)) == 200
        start_gateway(page)
        await browser.until("document.getElementById('status').textContent === 'All is well.'", 60, "all is well again")
        await different(browser, prices)
        assert len(await browser.js(ROWS)) == 200
        assert [one for one in browser.problems if "ERR_CONNECTION_REFUSED" not in one] == []


async def test_the_chart_begins_with_history_and_grows(guide):
    page = guide("chart")
    await page.run()
    begin = "JSON.stringify([+document.getElementById('points').textContent, document.getElementById('since').textContent])"
    async with open_page(page.url(), width=900, height=500) as browser:
        points = lambda: browser.js("document.getElementById('points').textContent")  # noqa: E731
        await different(browser, points)
        _, since = json.loads(await browser.js(begin))
        assert re.search(r"\d:\d\d:\d\d", since), since
        assert await browser.js("document.querySelectorAll('canvas').length") > 0
        # A page that is opened now begins where the first one began, though it was not there.
        await browser.goto(page.url())
        await browser.until(f"{begin.replace('JSON.stringify', '')}[0] >= 3", 30, "points from before the page")
        assert json.loads(await browser.js(begin))[1] == since
        await different(browser, points)

        stop_gateway(page)
        await browser.until("document.getElementById('how').textContent === 'waiting'", 30, "the loss")
        start_gateway(page)
        await browser.until("document.getElementById('how').textContent.startsWith('a hole in the line: ')", 60, "the hole is named")
        await different(browser, points)
        assert [one for one in browser.problems if "ERR_CONNECTION_REFUSED" not in one] == []


ANSWER = "JSON.stringify(document.getElementById('answer').textContent.split(' '))"
# What the guide says about JetStream.
ON_JETSTREAM = [
    ("redis-server --port 6379 --save ''", "nats-server -p 4222 -js -sd store"),
    ("export REDIS_URL=redis://127.0.0.1:6379\n", ""),
    ("--event-stream --stream answers", "--event-stream --bus nats://127.0.0.1:4222 --stream ANSWERS"),
    ("weirgate publish redis://127.0.0.1:6379 answer:7 'word{number}' --stream answers",
     "weirgate publish nats://127.0.0.1:4222 answer.7 'word{number}' --jetstream"),
    ("answer:", "answer."),
]


def on_jetstream(changes):
    def change(text):
        for redis, nats in changes:
            assert redis in text, redis
            text = text.replace(redis, nats)
        return text
    return change


async def make_stream(page, name, subjects):
    """As `nats stream add NAME --subjects SUBJECTS --defaults`."""
    [port] = re.findall(r"nats-server -p (\d+)", page.parts[0][1])
    await until(lambda: connects(int(port)), 30, "nats-server")
    connection = await nats.connect(f"nats://127.0.0.1:{port}")
    await connection.jetstream().add_stream(name=name, subjects=[subjects])
    await connection.close()


@pytest.mark.parametrize("bus", ["redis", "jetstream"])
async def test_an_answer_survives_a_reload_and_a_new_process_of_the_gateway(guide, bus):
    page = guide("answer", on_jetstream(ON_JETSTREAM) if bus == "jetstream" else str)
    [publisher] = [part for part in page.parts if part[0] == "sh" and "word{number}" in part[1]]
    first, rest = page.parts[:1], [part for part in page.parts[1:] if part is not publisher]
    page.parts = first
    await page.run()
    if bus == "jetstream":
        await make_stream(page, "ANSWERS", "answer.*")
    page.parts = rest
    await page.run()
    async with open_page(page.url(), width=900, height=500) as browser:
        async def grows():
            """Until there are more words; all of them once, from the first on."""
            before = len(json.loads(await browser.js(ANSWER)))
            await browser.until(f"JSON.parse({ANSWER}).length > {before + 5}", 60, f"more words than {before}: {browser.problems}")
            words = json.loads(await browser.js(ANSWER))
            assert words == [f"word{n}" for n in range(1, len(words) + 1)]
            return len(words)

        await browser.until("document.getElementById('how').textContent === 'open'", 60, "the stream")
        page.shells.append(Shell(publisher[1], page.folder, page.env, len(page.shells) + 1))
        async def reload():
            """All words from before are there again."""
            count = await grows()
            await browser.js("globalThis.isOld = true, location.reload()")
            await browser.until(f"!globalThis.isOld && document.getElementById('count') && +document.getElementById('count').textContent >= {count}", 60, "all words")
            await grows()

        await reload()
        stop_gateway(page)
        await browser.until("document.getElementById('how').textContent === 'waiting'", 30, "the loss")
        start_gateway(page)
        await browser.until("document.getElementById('how').textContent === 'open'", 60, "it is back")
        await reload()


def subscriptions(port):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as answer:
        return Metrics(answer.read().decode()).sum("weirgate_subscriptions")


INBOX = """JSON.stringify([document.getElementById('list').textContent.split('\\n').filter(Boolean), +document.getElementById('unread').textContent,
    document.getElementById('how').textContent])"""
INBOX_ON_JETSTREAM = [
    ("redis-server --port 6379 --save ''", "nats-server -p 4222 -js -sd store"),
    ("REDIS_URL=redis://127.0.0.1:6379 ", ""),
    ("weirgate channels --acl roles.json --stream inbox", "weirgate channels --acl roles.json --bus nats://127.0.0.1:4222 --stream INBOX"),
    ("publish redis://127.0.0.1:6379", "publish nats://127.0.0.1:4222"),
    ("--stream inbox", "--jetstream"),
    ("inbox:", "inbox."),
]


@pytest.mark.parametrize("bus", ["redis", "jetstream"])
async def test_a_user_who_was_away_gets_each_message_once_and_a_new_device_the_newest(guide, bus):
    page = guide("inbox", on_jetstream(INBOX_ON_JETSTREAM) if bus == "jetstream" else str)
    of_user = lambda word: [part for part in page.parts if part[0] == "sh" and "ann '{" in part[1] and word in part[1]]  # noqa: E731
    [[_, publish, _]], [[_, read, _]] = of_user("number"), of_user("read")
    first, page.parts = page.parts[:1], [part for part in page.parts[1:] if part[1] not in (publish, read)]
    rest, page.parts = page.parts, first
    await page.run()
    if bus == "jetstream":
        await make_stream(page, "INBOX", "inbox.*")
    page.parts = rest
    await page.run()
    numbers = lambda begin, end: [f"message {n}" for n in range(begin, end + 1)]  # noqa: E731

    async def published(block):
        page.shells.append(Shell(block, page.folder, page.env, len(page.shells) + 1))
        shell = page.shells[-1]
        await until(lambda: shell.child.poll() is not None, 30, f"its end in\n{page.terminals()}")
        assert shell.child.returncode == 0, page.terminals()

    async def shows(browser, messages, unread):
        text = json.dumps([messages, unread, "open"], separators=(",", ":"))
        try:
            await browser.until(f"{INBOX} === {json.dumps(text)}", 30, "the messages")
        except AssertionError as error:
            raise AssertionError(f"{await browser.js(INBOX)}; {browser.problems}") from error

    async with open_page(page.url(), width=900, height=500) as browser:
        await shows(browser, [], 0)
        # The page is open before it is subscribed; then it would get the newest 20.
        await until(lambda: subscriptions(int(page.env["REDIS_WS_GATEWAY_PORT"])) == 1, 30, "its subscription")
        await published(publish)
        await shows(browser, numbers(1, 50), 50)
        for count in (100, 150):
            # Away: messages, and a new process of the gateway.
            await browser.goto("about:blank")
            await published(publish)
            stop_gateway(page)
            start_gateway(page)
            await until(lambda: connects(int(page.env["REDIS_WS_GATEWAY_PORT"])), 30, "the gateway")
            await browser.goto(page.url())
            await shows(browser, numbers(1, 50) * (count // 50), count)
        await browser.goto("about:blank")
        await published(publish)
        await published(read)
        await browser.goto(page.url())
        await shows(browser, numbers(1, 50) * 4, 0)
        assert browser.problems == []
    async with open_page(page.url(), width=900, height=500) as device:
        await shows(device, numbers(32, 50), 0)
