"""Reads /metrics: the text, and native histograms from protobuf."""
import collections
import itertools
import re
import urllib.request

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


PROTOBUF = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited"


def _varint(data, at):
    value = shift = 0
    while True:
        value |= (data[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if data[at - 1] < 0x80:
            return value, at


def _fields(data):
    """(number, value) of each field of a protobuf message: an integer, or bytes."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        if key & 7 == 0:
            value, at = _varint(data, at)
        else:
            size, at = (8, at) if key & 7 == 1 else _varint(data, at)
            value, at = data[at:at + size], at + size
        yield key >> 3, value


def _delimited(data):
    at = 0
    while at < len(data):
        size, at = _varint(data, at)
        yield data[at:at + size]
        at += size


def _signed(value):
    return value >> 1 ^ -(value & 1)


def native(weirgate, name):
    """The native histogram of this name, over all labels: a Counter of the upper bounds in seconds."""
    request = urllib.request.Request(weirgate.http_url + "/metrics", headers={"Accept": PROTOBUF})
    with urllib.request.urlopen(request, timeout=5) as answer:
        families = [list(_fields(family)) for family in _delimited(answer.read())]
    counts = collections.Counter()
    for family in (family for family in families if (1, name.encode()) in family):
        for metric in (dict(_fields(value)) for number, value in family if number == 4):
            _add(counts, list(_fields(metric[7])))
    return counts


def _add(counts, histogram):
    """Adds the buckets: runs of neighbours, and for each bucket the difference to the one before."""
    of = lambda number: [value for found, value in histogram if found == number]
    index, indices = 0, []
    for span in (dict(_fields(value)) for value in of(12)):
        index += _signed(span.get(1, 0))
        indices += range(index, index + span.get(2, 0))
        index += span.get(2, 0)
    deltas, at, packed = [], 0, b"".join(of(13))
    while at < len(packed):
        delta, at = _varint(packed, at)
        deltas.append(_signed(delta))
    for index, count in zip(indices, itertools.accumulate(deltas), strict=True):
        counts[2 ** (index / 2 ** _signed(of(5)[0]))] += count
    counts[0.0] += sum(of(7))
    assert counts.total() >= sum(of(1)), "buckets are missing"
