"""The soak sees what it is there to see: a loss, a repetition, a leak, counters that do not balance."""
import os
import subprocess
import sys
import time

import pytest
from ledger import Follower, Sequence, Spans
from measures import grown, trend, unbalanced
from processes import ROOT
from prometheus import Metrics


def published(count):
    sequence = Sequence("of a test")
    for _ in range(count):
        sequence.next()
    return sequence


def followed(sequence, *numbers):
    follower = Follower(sequence)
    for n in numbers:
        follower.see(n)
    return follower


def test_a_loss_is_seen_and_only_an_outage_explains_it():
    sequence = published(6)
    followed(sequence, 1, 2, 5)
    bare, explained = sequence.lost(Spans())
    assert (sorted(bare), explained) == ([3, 4], 0)
    outages, stalls = Spans(), Spans()
    outages.begin()
    outages.end()
    assert sequence.lost(stalls, outages) == ({}, 2)
    early = Spans()
    early.note(time.monotonic() - 300, time.monotonic() - 200)
    assert sorted(sequence.lost(early)[0]) == [3, 4]


def test_what_never_came_is_lost_too():
    sequence = published(4)
    followed(sequence, 0, 1).finish()
    assert sorted(sequence.lost(Spans())[0]) == [2, 3]


def test_repetitions_and_disorder_are_never_explained():
    sequence = published(5)
    followed(sequence, 0, 1, 1, 3, 2)
    assert (sequence.twice, sequence.older) == (1, 1)


def test_a_publication_that_failed_halfway_may_come_late_or_twice_or_never():
    sequence = published(5)
    sequence.unsure.add(2)
    followed(sequence, 0, 1, 3, 2, 4, 2)
    assert (sequence.twice, sequence.older, sequence.lost(Spans())) == (0, 0, ({}, 0))


def numbers(rss, fds=40, loaded=0):
    return {"rss_kib": rss, "fds": fds, "loaded_kib": loaded}


def test_growth_of_memory_and_any_change_of_descriptors_are_told():
    assert list(grown(numbers(10_000), numbers(10_400), 0.05)) == []
    assert "+6.0%" in "".join(grown(numbers(10_000), numbers(10_600), 0.05))
    assert list(grown(numbers(10_000, loaded=10_200), numbers(10_600), 0.05)) == []
    assert list(grown(numbers(10_000, 40), numbers(10_000, 41), 0.05)) == ["descriptors 40 -> 41"]


def test_a_slow_leak_shows_in_the_trend():
    leak = [(second, 10_000 + second // 2) for second in range(1_500)]
    assert len(list(trend(leak, 0.05))) == 1
    assert list(trend([(second, 10_000 + second % 300) for second in range(1_500)], 0.05)) == []


PAGE = """\
weirgate_messages_queued_total 10
weirgate_frames_sent_total {sent}
weirgate_messages_conflated_total 2
weirgate_messages_dropped_total 1
weirgate_connections_accepted_total 9
weirgate_client_connections_total{{outcome="http"}} 3
weirgate_connections{{phase="open"}} 2
weirgate_connections{{phase="closing"}} 1
weirgate_client_closes_total{{reason="peer_gone"}} {closed}
"""


def test_counters_that_do_not_balance_are_told():
    page = lambda sent, closed: list(unbalanced(Metrics(PAGE.format(sent=sent, closed=closed))))
    assert page(7, 4) == page(7, 3) == []
    assert len(page(6, 4)) == len(page(7, 5)) == len(page(7, 2)) == 1


@pytest.mark.parametrize("program", ["soak", "hostile", "uncharged", "slow_lines", "how_large"])
def test_the_release_build_is_measured_unless_another_is_named(program, tmp_path):
    bare = {name: value for name, value in os.environ.items() if name not in ("TEST_BUILD", "TEST_BINARY")}
    for build, target, more in [("release", "build", {}), ("debug", "test", {"TEST_BUILD": "debug"})]:
        done = subprocess.run([sys.executable, ROOT / "tests" / "soak" / f"{program}.py"], text=True, timeout=60, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, env={**bare, **more, "CARGO_TARGET_DIR": str(tmp_path)})
        missing = f"{program}: no program at {tmp_path}/{build}/weirgate: run `make {target}` once\n"
        assert (done.returncode, done.stdout, done.stderr) == (1, "", missing)
