"""The first lines of README, word for word: the commands in a shell, and the HTML in Chromium until its value has moved."""
import re
import shlex
import subprocess

import pytest
from browser import open_page
from processes import ROOT, weirgate_binary
from walkthrough import Walkthrough, values

pytestmark = pytest.mark.chromium

README = (ROOT / "README.md").read_text()
SECTION = README.split("\n## A moving value in a minute\n")[1].split("\n## ")[0]


def line_of(text):
    return README[:README.index(text)].count("\n") + 1


def test_the_first_commands_and_the_first_javascript_come_early():
    assert line_of("--retry\n```") <= 30 and line_of("import { Channels }") <= 45


def test_the_settings_of_every_other_command_are_right(tmp_path):
    (tmp_path / "roles.json").write_text('{"user": ["prices.*"]}')
    lines = re.findall(r"^    weirgate (.+)$", README, re.M)
    assert lines
    for line in lines:
        checked = subprocess.run([weirgate_binary(), *shlex.split(line), "--check"], cwd=tmp_path, capture_output=True, text=True)
        assert checked.returncode == 0, f"{line}: {checked.stderr}"


@pytest.mark.parametrize("server", ["nats-server", "redis-server"])
async def test_four_lines_and_a_page_make_a_value_move(tmp_path, server):
    folder = tmp_path / server
    folder.mkdir()
    steps = Walkthrough(SECTION, folder)
    # The other bus has its own four lines.
    steps.parts = [part for part in steps.parts if part[0] != "sh" or part[1].startswith(server)]
    assert [(kind, block.count("\n")) for kind, block, _ in steps.parts] == [("sh", 4), ("html", 6)]
    try:
        await steps.run()
        async with open_page(steps.url(), width=600, height=300) as page:
            await values(page, "#price")
            assert page.problems == []
    finally:
        print(steps.terminals())
        steps.discard()
