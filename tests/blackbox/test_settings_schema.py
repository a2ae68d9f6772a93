"""The JSON schema of settings: a schema, with every setting of every gateway, and of the same mind as weirgate."""
import json
import subprocess

import jsonschema
import pytest
from processes import ROOT, weirgate_binary

SCHEMA = json.loads((ROOT / "docs/reference/settings.schema.json").read_text())
GATEWAYS = ["levels", "trades", "channels", "events", "demo"]
NEEDED = {"trades": {"REDIS_URL": "redis://127.0.0.1:1"}}


def is_valid(env):
    return jsonschema.Draft202012Validator(SCHEMA).is_valid(env)


def check(gateway, *flags, **env):
    argv = [weirgate_binary(), gateway, "--check", "--format", "json", *flags]
    env = {**NEEDED.get(gateway, {}), **env}
    done = subprocess.run(argv, env={name: str(value) for name, value in env.items()}, text=True, stdout=subprocess.PIPE)
    return json.loads(done.stdout)


def test_it_is_a_schema():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("gateway", GATEWAYS)
def test_every_setting_is_in_it_with_a_default_that_is_allowed(gateway):
    properties = SCHEMA["$defs"][gateway]["properties"]
    settings = check(gateway, "--all")["settings"]
    flags = [one["flag"] for one in settings if f"WEIRGATE_{one['flag'].upper().replace('-', '_')}" in properties]
    assert len(flags) > 50
    helped = subprocess.run([weirgate_binary(), gateway, "--help"], env={}, text=True, stdout=subprocess.PIPE).stdout
    groups = helped.split("\nListening:\n")[1]
    of_help = [line.split()[0].lstrip("-").split("=")[0].split("[")[0] for line in groups.splitlines() if line.startswith("      --")]
    assert sorted(flags) == sorted(of_help)
    defaults = {name: one["default"] for name, one in properties.items() if "default" in one}
    assert is_valid({"WEIRGATE_GATEWAY": gateway, **defaults})
    assert check(gateway, **{name: str(value).lower() if isinstance(value, bool) else value
                             for name, value in defaults.items() if not name.startswith("WEIRGATE_")})["errors"] == []


@pytest.mark.parametrize("gateway, env, good", [
    ("demo", {"WEIRGATE_PORT": 8000, "WEIRGATE_LOG_FORMAT": "JSON", "WEIRGATE_EVENT_STREAM": "Yes"}, True),
    ("demo", {"WEIRGATE_PORT": "off", "WEIRGATE_LISTEN": "unix:/run/a"}, True),
    ("demo", {"WEIRGATE_PORT": "http"}, False),
    ("demo", {"WEIRGATE_PORT": 70_000}, False),
    ("demo", {"WEIRGATE_LOG_FORMAT": "xml"}, False),
    ("demo", {"WEIRGATE_EVENT_STREAM": "perhaps"}, False),
    ("demo", {"WEIRGATE_DEFLATE_LEVEL": 10}, False),
    ("demo", {"WEIRGATE_LISTEN_BACKLOG": 10}, False),
    ("channels", {"MAX_CHANNELS_PER_CLIENT": "many"}, False),
    ("channels", {"REDIS_PORT": 0}, False),
    ("channels", {"REDIS_PORT": "tcp://10.0.0.1:6379", "JWT_SECRET": "s"}, True),
    ("events", {"RATE_LIMIT_RPS": 0.5}, True),
])
def test_it_is_of_the_same_mind_as_weirgate(gateway, env, good):
    assert is_valid({"WEIRGATE_GATEWAY": gateway, **env}) == good
    assert (check(gateway, **env)["errors"] == []) == good
