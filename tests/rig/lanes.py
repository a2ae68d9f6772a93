"""Which tests run beside which: those with Chromium in two lanes, and before all others those that take long."""
import collections

import pytest

# A start takes a core for a second, and a page that moves a fifth of one.
CHROMIUMS = 2


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Files stay whole, so that what is made for all tests of a file is made once; each lane has about as many tests."""
    files, lanes = collections.Counter(item.path for item in items if item.get_closest_marker("chromium")), collections.Counter()
    lane_of = {}
    for file, count in sorted(files.items(), key=lambda file: -file[1]):
        lane_of[file] = min(range(CHROMIUMS), key=lambda lane: lanes[lane])
        lanes[lane_of[file]] += count
    for item in items:
        if item.get_closest_marker("chromium"):
            item.add_marker(pytest.mark.xdist_group(f"chromium-{lane_of[item.path] + 1}"))
    items.sort(key=lambda item: item.get_closest_marker("long") is None)
