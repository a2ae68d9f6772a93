"""The AsyncAPI documents: valid, and true of every recorded message."""
import copy
import functools
import re

import asyncapi_documents as documents
import jsonschema
import pytest
from asyncapi_documents import GATEWAYS, NOT_JSON, Document, cases, filled, pairs, parsed, sent

# Where clients are: gateway -> channel of its document.
CLIENTS = {"trades": "client", "channels": "client", "events": "device"}

document = functools.cache(Document)


def errors(content):
    validator = jsonschema.Draft7Validator(documents.specification())
    return [f"{error.json_path}: {error.message[:300]}" for error in validator.iter_errors(content)]


@pytest.mark.parametrize("gateway", GATEWAYS)
def test_a_document_is_asyncapi_3(gateway):
    content = document(gateway).content
    assert content["asyncapi"] == "3.0.0" and errors(content) == []


@pytest.mark.parametrize("wrong", [
    lambda content: content.pop("info"),
    lambda content: content["servers"]["weirgate"].pop("protocol"),
    lambda content: content["operations"]["ping"].update(action="say"),
    lambda content: content["channels"]["client"].update(adress="/"),
])
def test_a_wrong_document_is_noticed(wrong):
    content = copy.deepcopy(document("trades").content)
    wrong(content)
    assert errors(content)


def references(value):
    if isinstance(value, dict):
        yield from (inner for key, inner in value.items() if key == "$ref")
        value = list(value.values())
    for inner in value if isinstance(value, list) else []:
        yield from references(inner)


@pytest.mark.parametrize("gateway", GATEWAYS)
def test_references_lead_somewhere_and_examples_fit(gateway):
    content = document(gateway).content
    for reference in references(content):
        document(gateway).at(reference)
    for name, message in content["components"]["messages"].items():
        assert message["examples"], name
        assert all(document(gateway).fits(name, example["payload"]) for example in message["examples"]), name
    used = {message for channel in content["channels"] for action in ["send", "receive"]
            for message in document(gateway).message_names(channel, action)}
    assert used == set(content["components"]["messages"])


def to_clients(gateway):
    """(case, message) of each message that the cases expect from weirgate."""
    return [(name, filled(step.get("json"))) for name, steps in cases(gateway) for step in steps
            if ("expect" in step or "expect_until" in step) and "json" in step]


@pytest.mark.parametrize("gateway", CLIENTS)
def test_messages_to_clients_fit_one_message_each(gateway):
    seen = set()
    for case, value in to_clients(gateway):
        names = document(gateway).fitting(CLIENTS[gateway], "send", value)
        assert len(names) == 1, f"{case}: {value} fits {names}"
        seen |= names
    # Messages of settings that the replaced gateways do not have are in no case.
    messages = document(gateway).content["components"]["messages"]
    of_contract = {name for name in document(gateway).message_names(CLIENTS[gateway], "send") if "x-setting" not in messages[name]}
    assert seen == of_contract, "a message that no case has"


def spoilt(value):
    """Copies of a message, each with one fault, and what the fault is."""
    yield {**value, "unknown": 1}, "one member more"
    for key, inner in value.items():
        yield {k: v for k, v in value.items() if k != key}, f"no {key}"
        # Values of any type, as far as the gateway knows.
        if key not in ("data", "requestId"):
            yield {**value, key: {"wrong": [1]}}, f"{key} of a wrong type"
        if isinstance(inner, dict) and (key == "error" or "currentSubscriptions" in inner or "connectionId" in inner):
            for nested in inner:
                yield {**value, key: {k: v for k, v in inner.items() if k != nested}}, f"no {key}.{nested}"


@pytest.mark.parametrize("gateway", CLIENTS)
def test_wrong_messages_to_clients_fit_nothing(gateway):
    for case, value in to_clients(gateway):
        for wrong, fault in spoilt(value):
            assert not document(gateway).fitting(CLIENTS[gateway], "send", wrong), f"{case}: {fault}: {wrong}"


def is_push(value):
    """Whether weirgate sends a message by itself."""
    return value["type"] in ("trade", "data", "connected", "event") or value.get("message") == "Connected to WebSocket Gateway"


def is_refused(gateway, response):
    """Whether a response says that the request has a wrong shape; None where it does not say."""
    if response is None:
        return None
    if response["type"] != "error":
        return False
    if gateway == "events":
        # These two are looked at before the shape.
        code = response["error"]["code"]
        return None if code in ("message_too_large", "rate_limited") else code == "bad_request"
    text = response["message" if gateway == "trades" else "error"].removeprefix("$prefix:")
    # "$string": words for a person, which only faults of the shape have.
    return text.startswith(("$string", "Invalid", "Unknown action"))


@pytest.mark.parametrize("gateway", CLIENTS)
def test_messages_of_clients_fit_if_they_are_accepted(gateway):
    accepted = refused = 0
    for case, steps in cases(gateway):
        for step, response in pairs(steps, is_push):
            wrong = is_refused(gateway, response)
            # The payload of a binary frame may be right: the frame is what these two refuse.
            if wrong is None or ("binary_b64" in step and gateway != "trades"):
                continue
            value = sent(step)
            names = set() if value is NOT_JSON else document(gateway).fitting(CLIENTS[gateway], "receive", value)
            assert len(names) == (0 if wrong else 1), f"{case}: {step} fits {names}; the response: {response}"
            refused, accepted = refused + wrong, accepted + (not wrong)
    assert accepted >= 15 and refused >= 5, (accepted, refused)


def test_publications_and_calls_of_events_fit():
    posted = called = 0
    for case, steps in cases("events"):
        for step in steps:
            request = step.get("http", {})
            if request.get("path") == "/internal/broadcast" and request["method"] == "POST":
                fits = "json" in request and document("events").fits("broadcast", request["json"])
                # With a wrong token nobody looks at the body.
                assert step["status"] not in (200, 422) or fits == (step["status"] == 200), f"{case}: {request}"
                answer = filled(step["json"])
                if step["status"] == 422:
                    answer = {"detail": [{"loc": ["body"], "msg": "a text"}]}
                expected = {200: "sent", 422: "wrongBody"}.get(step["status"], "notSent")
                assert document("events").fitting("broadcast", "send", answer) == {expected}, f"{case}: {answer}"
                posted += 1
            if step.get("path") == "/gateway/handle" and "upstream_got" in step:
                value = filled(step["json"])
                assert document("events").fits("call", value), f"{case}: {value}"
                for wrong, fault in [({**value, "more": 1}, "one member more"), ({"message": value["message"]}, "no client"),
                                     ({**value, "message": {**value["message"], "data": []}}, "data of a wrong type")]:
                    assert not document("events").fits("call", wrong), f"{case}: {fault}"
                called += 1
    assert posted >= 15 and called >= 30


def test_publications_of_trades_fit_if_they_are_passed_on():
    objects = others = 0
    for case, steps in cases("trades"):
        for step in steps:
            if "publish" in step:
                value = sent(step)
                is_object = isinstance(value, dict)
                assert (value is not NOT_JSON and document("trades").fits("publication", value)) == is_object, f"{case}: {step}"
                objects, others = objects + is_object, others + (not is_object)
    assert objects and others


def examples(gateway):
    """The whole messages in the protocol page of a gateway; those with an ellipsis are left out."""
    page = (documents.ROOT / "docs" / "reference" / f"protocol-{gateway}.md").read_text()
    blocks = re.findall(r"```json\n(.*?)```", page, re.S)
    texts = re.findall(r"`(\{[^`\n]*\})`", page) + [line for block in blocks for line in block.splitlines()]
    values = [parsed(text) for text in texts if "…" not in text]
    marks = {"type", "action", "event", "client", "sent", "flow"}
    return [value for value in values if value is not NOT_JSON and marks & set(value)]


@pytest.mark.parametrize("gateway, at_least", [("levels", 1), ("trades", 4), ("channels", 2), ("events", 5)])
def test_examples_of_the_protocol_pages_fit(gateway, at_least):
    found = examples(gateway)
    for value in found:
        fits = [name for name, message in document(gateway).content["components"]["messages"].items()
                if message["payload"] and document(gateway).fits(name, value)]
        assert fits, value
    assert len(found) >= at_least


def levels_steps():
    """(case, step, the last good levels.signals message) of each recorded step."""
    for case, steps in cases("levels"):
        last = {}
        for step in steps:
            message = step["message"] if "message" in step else parsed(step["raw"])
            if step["subject"] == "levels.signals" and step["broadcast"] is not None:
                last = message
            broadcast = step["broadcast"]
            for now_field in step.get("now_fields", []):
                # The time of the publication is in place of what the case cannot know.
                if now_field == "levels.ts":
                    broadcast = copy.deepcopy(broadcast)
                    broadcast["levels"]["ts"] = documents.VALUES["$ms"]
            yield case, step, message, broadcast, last


def test_states_of_levels_fit():
    typed = 0
    for case, _, _, broadcast, last in levels_steps():
        if broadcast is None:
            continue
        assert document("levels").fits("stateOfAnyTypes", broadcast), f"{case}: {broadcast}"
        if document("levels").fits("levelsSignals", last):
            assert document("levels").fits("state", broadcast), f"{case}: {broadcast} of {last}"
            typed += 1
    assert typed >= 40


def test_messages_that_levels_refuses_fit_nothing():
    refused = 0
    for case, step, message, broadcast, _ in levels_steps():
        if step["subject"] == "levels.signals" and broadcast is None:
            assert message is NOT_JSON or not document("levels").fits("levelsSignals", message), f"{case}: {message}"
            refused += 1
    assert refused >= 5


def test_wrong_states_of_levels_fit_nothing():
    state = next(broadcast for case, _, _, broadcast, _ in levels_steps() if case == "p02_viewport_match")
    levels = state["levels"]
    [level, *_] = (level for level in levels["levels"] if "ml_predictions" in level)

    def with_level(level):
        return {**state, "levels": {**levels, "levels": [level]}}

    assert document("levels").fits("state", with_level(level))
    wrong = [[], "text", {"levels": []}, {**state, "levels": None}, with_level({**level, "unknown": 1})]
    wrong += [with_level({**level, key: {"wrong": 1}}) for key in ("is_first_15m", "bars_since_open", "sweep_detected")]
    wrong += [with_level({k: v for k, v in level.items() if k != key}) for key in level if key != "ml_predictions"]
    wrong += [{**state, "levels": {k: v for k, v in levels.items() if k != key}} for key in ("ts", "spy", "levels")]
    wrong += [with_level({**level, "ml_predictions": {k: v for k, v in level["ml_predictions"].items() if k != "stage"}})]
    for value in wrong:
        assert not document("levels").fits("stateOfAnyTypes", value) and not document("levels").fits("state", value), value
    for key, text in [("level_price", "687.5"), ("signal", 5), ("note", 5), ("tape_buy_vol", "1")]:
        copied = with_level({**level, key: text})
        assert document("levels").fits("stateOfAnyTypes", copied) and not document("levels").fits("state", copied), key
