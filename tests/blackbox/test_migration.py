"""What docs/guides/migrate.md and docs/guides/deploy.md name is there: environment, flags, pages, files."""
import re
import subprocess

import pytest
from processes import ROOT, weirgate_binary

# The words of others that the pages quote.
OTHERS = {"--scale", "--unix-socket", "--bus-away-exit-s", "--locked", "--profile", "--target", "--rm", "--build", "--now", "--signal", "--kill-whom",
          "--remap-path-prefix", "--env-file", "--build-arg", "--set", "--check", "--ignore-missing"}


def printed(*argv):
    return subprocess.run([weirgate_binary(), *argv], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={},
                          timeout=10).stdout


def page(name):
    return (ROOT / "docs" / "guides" / name).read_text()


@pytest.mark.parametrize("name", ["migrate.md", "deploy.md"])
def test_flags_and_environment_exist(name):
    help_text = "".join(printed(gateway, "--help") for gateway in ("levels", "trades", "channels", "events"))
    flags = set(re.findall(r"--[a-z][a-z-]+", help_text))
    env = {word for found in re.findall(r"\[env:\s+([^\]]+)\]", help_text) for word in re.findall(r"[A-Z_]+", found)}
    # The names of the section "Only in the environment".
    env |= set(re.findall(r"^  ([A-Z_]{4,}) ", help_text, re.MULTILINE))
    env |= {"WEIRGATE_" + flag.removeprefix("--").replace("-", "_").upper() for flag in flags} | {"WEIRGATE_GATEWAY", "RUST_LOG"}
    text = page(name)
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text)) - flags - OTHERS == set()
    assert set(re.findall(r"\b(?:WEIRGATE|GATEWAY|NATS)_[A-Z_]+\b|\bPORT\b", text)) - env - {"EXTEND_TIMEOUT_USEC", "WEIRGATE_COMMIT"} == set()


async def test_pages_exist(nats, start_weirgate):
    weirgate = start_weirgate(nats=nats).wait_ready()
    levels = page("migrate.md").split("\n## ")[1]
    assert levels.startswith("levels\n")
    pages = set(re.findall(r"`(/[a-z]+)`", levels))
    assert {"/health", "/ready", "/stats", "/metrics"} <= pages
    for path in pages:
        assert weirgate.get(path)[0] == 200, path


async def test_the_old_fields_of_health_come_first(nats, start_weirgate):
    weirgate = start_weirgate(nats=nats).wait_ready()
    row = next(line for line in page("migrate.md").splitlines() if line.startswith("| `/health`: `service`"))
    old, new = (re.findall(r"`([a-z_]+)`", cell) for cell in row.split("|")[1:3])
    assert list(weirgate.health()) == old + new


def test_the_banner_is_the_quoted_one():
    text = page("migrate.md")
    source = "".join(path.read_text() for path in (ROOT / "src" / "gateways" / "levels").glob("*.rs"))
    for quoted in ["GATEWAY SERVICE", "✅ Gateway subscribed to NATS subjects"]:
        assert quoted in text and quoted in source
