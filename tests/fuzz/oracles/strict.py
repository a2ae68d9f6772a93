"""JSON as the contracts take JSON, numbers as their text, and how two values differ."""
import json
import re
import sys

DEPTH_MAX = 512
# Walks over two values take a few calls for a level.
sys.setrecursionlimit(20 * DEPTH_MAX)
NOW_MS = 1_700_000_000_123


class Bad(Exception):
    """The input is not what the contract takes."""


class Number(str):
    """A number as its text: numbers pass as they came."""

    __slots__ = ()

    def __eq__(self, other):
        return isinstance(other, Number) and str(self) == str(other)

    __hash__ = str.__hash__


def refuse(_):
    raise Bad("a constant")


DECODER = json.JSONDecoder(parse_float=Number, parse_int=Number, parse_constant=refuse)
SURROGATE = re.compile("[\ud800-\udfff]")


def depth(text):
    deepest = now = 0
    for found in re.finditer(r'"(?:[^"\\]|\\.)*(?:"|$)|[\[{]|[\]}]', text, re.S):
        if found[0] in "[{":
            now += 1
            deepest = max(deepest, now)
        elif found[0] in "]}":
            now = max(0, now - 1)
    return deepest


def no_surrogates(value):
    if isinstance(value, str):
        if SURROGATE.search(value):
            raise Bad("half a surrogate pair")
    elif isinstance(value, dict):
        for key, entry in value.items():
            no_surrogates(key)
            no_surrogates(entry)
    elif isinstance(value, list):
        for entry in value:
            no_surrogates(entry)


def pairs_without_surrogates(pairs):
    # Also the values that a repeated key replaces.
    no_surrogates([entry for pair in pairs for entry in pair if isinstance(entry, str)])
    return dict(pairs)


STRICT = json.JSONDecoder(parse_float=Number, parse_int=Number, parse_constant=refuse,
                          object_pairs_hook=pairs_without_surrogates)


def loads(data, depth_max=DEPTH_MAX):
    try:
        text = data if isinstance(data, str) else data.decode()
        if depth(text) > depth_max:
            raise Bad("too deep")
        value = (STRICT if "\\u" in text else DECODER).decode(text)
    except ValueError as error:
        raise Bad(str(error)) from None
    no_surrogates(value) if "\\u" in text else None
    return value


def is_number(value):
    return isinstance(value, Number)


def is_text(value):
    return isinstance(value, str) and not isinstance(value, Number)


def is_truthy(value):
    if is_number(value):
        return any(digit in "123456789" for digit in re.split("[eE]", value)[0])
    return bool(value)


def as_float(number):
    return float(str(number))


def difference(ours, python, where="", ordered=True):
    """Where two values differ; floats that Python computed are compared with the double of our text."""
    if isinstance(python, float):
        if not is_number(ours) or repr(as_float(ours)) != repr(python):
            return f"{where}: {ours!r}, Python has {python!r}"
        return ""
    if type(ours) is not type(python):
        return f"{where}: {ours!r}, Python has {python!r}"
    if isinstance(python, dict):
        if (list(ours) if ordered else sorted(ours)) != (list(python) if ordered else sorted(python)):
            return f"{where}: keys {list(ours)}, Python has {list(python)}"
        return next(filter(None, (difference(ours[key], python[key], f"{where}.{key}", ordered) for key in python)), "")
    if isinstance(python, list):
        if len(ours) != len(python):
            return f"{where}: {len(ours)} entries, Python has {len(python)}"
        return next(filter(None, (difference(*two, f"{where}[{at}]", ordered) for at, two in enumerate(zip(ours, python)))), "")
    return "" if ours == python else f"{where}: {ours!r}, Python has {python!r}"


def parsed(text):
    # What weirgate sends nests one level deeper than what came, or two.
    return loads(text, DEPTH_MAX + 4)
