"""The AsyncAPI documents of docs/reference/asyncapi, and the recorded messages as JSON values."""
import base64
import json

import jsonschema
import yaml
from processes import ROOT, StartError
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT7

FOLDER = ROOT / "docs" / "reference" / "asyncapi"
GATEWAYS = ["levels", "trades", "events", "channels"]
SPECIFICATION = ROOT / "tests" / "node" / "node_modules" / "@asyncapi" / "specs" / "schemas" / "3.0.0.json"

# Recorded cases have placeholders where a value differs from run to run. These values stand in for them.
VALUES = {
    "$uuid": "0b4f2c5e-9f57-4b0e-8a61-3f6b1c2d4e5f",
    "$ms": 1795167584630,
    "$iso": "2026-01-09T10:30:00.000Z",
    "$seq": 7,
    "$string": "a text",
    "$any": None,
    "$re:^ws-gateway-[0-9a-f]{8}$": "ws-gateway-0a1b2c3d",
    "$re:^[A-Za-z0-9_-]{10,}$": "jC3kQw8dS0mG1vX5bN7aZg",
}


def specification():
    """The JSON schema of AsyncAPI 3.0 (npm: @asyncapi/specs)."""
    if not SPECIFICATION.exists():
        raise StartError(f"{SPECIFICATION} is missing; run: cd tests/node && npm ci")
    return json.loads(SPECIFICATION.read_text())


class Document:
    """One gateway's document."""

    def __init__(self, gateway):
        self.content = yaml.safe_load((FOLDER / f"{gateway}.yaml").read_text())
        # Each schema is checked inside of the document, where its references lead.
        self.registry = Registry().with_resource("urn:document", Resource(self.content, DRAFT7))
        self.validators = {}

    def at(self, reference):
        """What a reference of the document leads to."""
        assert reference.startswith("#/"), reference
        found = self.content
        for part in reference[2:].split("/"):
            found = found[part]
        return found

    def message_names(self, channel, action):
        """The names of the messages that weirgate sends or receives on a channel, in replies too."""
        names = set()
        for operation in self.content["operations"].values():
            uses = [(operation["action"], operation)]
            if reply := operation.get("reply"):
                uses.append(({"send": "receive", "receive": "send"}[operation["action"]], reply))
            for direction, use in uses:
                if direction == action and use["channel"]["$ref"] == f"#/channels/{channel}":
                    names |= {message["$ref"].rsplit("/", 1)[1] for message in use["messages"]}
        return names

    def fits(self, message, value):
        """Whether a value is valid as the payload of a message."""
        if message not in self.validators:
            assert "payload" in self.content["components"]["messages"][message], message
            schema = {"$ref": f"urn:document#/components/messages/{message}/payload"}
            self.validators[message] = jsonschema.Draft7Validator(
                schema, registry=self.registry, format_checker=jsonschema.Draft7Validator.FORMAT_CHECKER)
        return self.validators[message].is_valid(value)

    def fitting(self, channel, action, value):
        """The names of the messages of a channel that a value is valid for."""
        return {name for name in self.message_names(channel, action) if self.fits(name, value)}


def filled(value):
    """A recorded value with its placeholders filled in."""
    if isinstance(value, dict):
        return {key: filled(inner) for key, inner in value.items() if inner != "$absent"}
    if isinstance(value, list):
        return [filled(inner) for inner in value]
    if isinstance(value, str) and value.startswith("$prefix:"):
        return value.removeprefix("$prefix:") + "and more"
    if isinstance(value, str) and value.startswith("$"):
        return VALUES[value]
    return value


NOT_JSON = object()


def parsed(text):
    """The value of a text, NOT_JSON where it has none."""
    def no_constant(name):
        raise ValueError(f"{name} is not JSON")
    try:
        return json.loads(text, parse_constant=no_constant)
    except ValueError:
        return NOT_JSON


def sent(step):
    """The value of a `send` step, NOT_JSON where it has none."""
    if "json" in step:
        return step["json"]
    if "binary_b64" in step:
        return parsed(base64.b64decode(step["binary_b64"]))
    made = step.get("text_gen") or step.get("repeat")
    if made:
        return parsed(made.get("prefix", "") + made["unit"] * made["times"] + made.get("suffix", ""))
    return parsed(step["text"])


def cases(gateway):
    """(name, steps) of each recorded case."""
    folder = ROOT / "tests" / "vectors" / gateway
    for path in sorted((folder / "public" if gateway == "levels" else folder).glob("*.json")):
        yield path.stem, json.loads(path.read_text())["steps"]


def pairs(steps, is_push):
    """(send step, its response) of each client, in order; the response is None where the case expects none.

    Messages that weirgate sends by itself, as `is_push` says, are no responses.
    """
    waiting, found = {}, []
    for step in steps:
        if "send" in step:
            waiting.setdefault(step["send"], []).append(step)
        elif "expect" in step and not is_push(step["json"]):
            found.append((waiting[step["expect"]].pop(0), step["json"]))
        elif "expect_until" in step:
            # Any number of responses was left out.
            found += [(sending, None) for sending in waiting.pop(step["expect_until"], [])]
    return found + [(sending, None) for rest in waiting.values() for sending in rest]
