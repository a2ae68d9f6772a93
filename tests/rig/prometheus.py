"""Reads the text of /metrics, and names the series used by the tests."""
import re

_SAMPLE = re.compile(r'^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (\S+)(?: \S+)?(?: # .*)?$')
_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)"(?:,|$)')


class Metrics:
    """A scrape: samples by name and labels, and the type of each family."""

    def __init__(self, text):
        self.types, self.helps, self.samples = {}, {}, []
        for number, line in enumerate(text.splitlines(), 1):
            if line.startswith("# TYPE "):
                _, _, name, kind = line.split(" ", 3)
                assert name not in self.types, f"line {number}: a second TYPE of {name}"
                self.types[name] = kind
            elif line.startswith("# HELP "):
                _, _, name, words = line.split(" ", 3)
                self.helps[name] = words
            elif line and not line.startswith("#"):
                found = _SAMPLE.match(line)
                assert found, f"line {number} is no sample: {line!r}"
                name, labels, value = found.groups()
                pairs = dict(_LABEL.findall(labels)) if labels else {}
                assert not labels or _LABEL.sub("", labels) == "", f"line {number}: bad labels: {line!r}"
                self.samples.append((name, pairs, float(value)))

    def has(self, name):
        """Whether there is a sample or a declared family of this name (a counter with or without `_total`)."""
        family = name.removesuffix("_total")
        return family in self.types or name in self.types or any(n == name for n, _, _ in self.samples)

    def sum(self, name, **labels):
        """The sum of the samples with these labels; 0 when there is none yet."""
        return sum(v for n, have, v in self.samples if n == name and labels.items() <= have.items())


def scrape(weirgate):
    """The metrics of a running weirgate."""
    status, _, text = weirgate.get("/metrics")
    assert status == 200, f"/metrics answered {status}: {text}"
    return Metrics(text)
