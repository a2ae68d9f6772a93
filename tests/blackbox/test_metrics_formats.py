"""Both texts of /metrics, read by the parsers of Prometheus' own Python client; and native histograms."""
import time
import urllib.request

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families as prometheus_text
from prometheus import PROTOBUF, native, scrape

OPEN_METRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
PROMETHEUS_TEXT = "text/plain; version=0.0.4; charset=utf-8"
# What Prometheus 3 sends, and what it sends with only the text format configured.
PROMETHEUS = ("application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,application/openmetrics-text;version=0.0.1;q=0.5,"
              "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2")
PROMETHEUS_TEXT_ONLY = "text/plain;version=0.0.4;q=0.5,*/*;q=0.4"
TURN = "weirgate_loop_turn_duration_seconds"


def page(weirgate, accept):
    """(content type, text)"""
    headers = {} if accept is None else {"Accept": accept}
    request = urllib.request.Request(weirgate.http_url + "/metrics", headers=headers)
    with urllib.request.urlopen(request, timeout=5) as answer:
        return answer.headers["Content-Type"], answer.read().decode()


@pytest.mark.parametrize("accept, content_type", [
    (None, OPEN_METRICS), ("*/*", OPEN_METRICS), (PROMETHEUS, OPEN_METRICS),
    ("text/plain", PROMETHEUS_TEXT), (PROMETHEUS_TEXT_ONLY, PROMETHEUS_TEXT),
])
def test_the_accept_header_chooses_the_text(start_weirgate, accept, content_type):
    weirgate = start_weirgate("demo").wait_ready()
    assert page(weirgate, accept)[0] == content_type


def samples(families):
    # Each text writes bounds in a way of its own.
    labels = lambda sample: tuple(sorted((name, float(value) if name == "le" else value) for name, value in sample.labels.items()))
    return {(sample.name, labels(sample)) for family in families for sample in family.samples}


def test_both_texts_have_the_same_families_and_samples(start_weirgate):
    weirgate = start_weirgate("demo").wait_ready()
    # A first request asks for the survey that the next ones have numbers of.
    page(weirgate, None)
    time.sleep(1)
    one, other = (list(parse(page(weirgate, accept)[1]))
                  for parse, accept in [(open_metrics, None), (prometheus_text, "text/plain")])
    assert samples(one) == samples(other) and len(samples(one)) > 100
    # An info metric, of OpenMetrics alone, is a gauge.
    kinds = {"info": "gauge"}
    names = {(family.name + ("_info" if family.type == "info" else ""), kinds.get(family.type, family.type)) for family in one}
    assert names == {(family.name, family.type) for family in other}
    assert all(family.documentation for family in other)


def test_a_text_is_made_at_most_four_times_a_second(start_weirgate):
    weirgate = start_weirgate("demo").wait_ready()
    for accept in (None, "text/plain", PROTOBUF):
        began, texts = time.monotonic(), []
        while len(texts) < 200:
            request = urllib.request.Request(weirgate.http_url + "/metrics", headers={"Accept": accept} if accept else {})
            with urllib.request.urlopen(request, timeout=5) as answer:
                texts.append(answer.read())
        # The loop turns meanwhile, so each text that is made is another.
        made = len(set(texts))
        assert made <= 1 + (time.monotonic() - began) / 0.25, f"{accept}: {made}"


def test_native_histograms_count_as_the_classic_ones_do(start_weirgate):
    weirgate = start_weirgate("demo").wait_ready()
    time.sleep(1)
    before, counts, after = scrape(weirgate), native(weirgate, TURN), scrape(weirgate)
    turns = counts.total()
    assert before.sum(TURN + "_count") <= turns <= after.sum(TURN + "_count") and turns > 10
    # A classic bucket may end within a native one.
    for bound in [0.001, 0.01, 0.1]:
        low, high = (sum(count for upper, count in counts.items() if upper <= up_to) for up_to in [bound, bound * 2 ** 0.25])
        assert before.sum(TURN + "_bucket", le=str(bound)) <= high and low <= after.sum(TURN + "_bucket", le=str(bound))
    request = urllib.request.Request(weirgate.http_url + "/metrics", headers={"Accept": f"{PROTOBUF};q=0.6,{PROMETHEUS_TEXT_ONLY}"})
    with urllib.request.urlopen(request, timeout=5) as answer:
        assert answer.headers["Content-Type"].startswith("application/vnd.google.protobuf; proto=io.prometheus")
