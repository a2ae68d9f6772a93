"""What a gateway's process and its `/metrics` say, and the balances that must hold between these numbers."""
import asyncio
import os
import pathlib
import re
import statistics

from processes import ROOT
from prometheus import Metrics



def deployed_environment():
    """What the recipes of deploy/ set for the allocator: the gateways of a measurement of memory run with the same."""
    unit = (ROOT / "deploy/systemd/weirgate@.service").read_text()
    return dict(re.findall(r"^Environment=(MALLOC_\w+|GLIBC_TUNABLES)=(\S+)$", unit, re.M))


def process_numbers(pid):
    """Memory in KiB, descriptors and threads of a process."""
    rollup = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text()
    memory = {name: int(re.search(rf"^{name}: +(\d+)", rollup, re.M)[1]) for name in ("Rss", "Pss", "Anonymous")}
    return {"rss_kib": memory["Rss"], "pss_kib": memory["Pss"], "anonymous_kib": memory["Anonymous"],
            "fds": len(os.listdir(f"/proc/{pid}/fd")), "threads": len(os.listdir(f"/proc/{pid}/task"))}


async def scrape(weirgate):
    """The metrics; raises AssertionError if the page does not answer."""
    status, _, text = await asyncio.to_thread(weirgate.get, "/metrics", 20)
    assert status == 200, f"/metrics answered {status}: {text[:200]}"
    return Metrics(text)


def by_label(metrics, name, label):
    """The samples of a metric by one label, without zeros."""
    return {labels[label]: int(value) for n, labels, value in metrics.samples if n == name and value}


def counters(metrics):
    """The counters of one line of the soak."""
    total = lambda name: int(metrics.sum(f"weirgate_{name}"))
    return {
        "clients": total("clients"),
        "accepted": total("connections_accepted_total"),
        "queued": total("messages_queued_total"),
        "sent": total("frames_sent_total"),
        "conflated": total("messages_conflated_total"),
        "shed": total("messages_shed_total"),
        "dropped": total("messages_dropped_total"),
        "waiting": total("messages_waiting"),
        "bus": total("bus_messages_total"),
        "bus_bad": total("bus_messages_bad_total"),
        "bus_old": total("bus_messages_old_total"),
        "bus_ignored": total("bus_messages_ignored_total"),
        "gaps": total("bus_gaps_total"),
        "reconnects": total("bus_reconnects_total"),
        "calls": total("upstream_calls_total"),
        "pushes": total("pushes_total"),
        "proxied": total("proxy_requests_total"),
        "closes": by_label(metrics, "weirgate_client_closes_total", "reason"),
    }


def unbalanced(metrics):
    """What does not balance on one page of metrics, in words. All numbers of a page are from the same turn."""
    count = counters(metrics)
    places = ("sent", "conflated", "shed", "dropped", "waiting")
    if count["queued"] != sum(count[place] for place in places):
        yield f"{count['queued']} messages queued, but " + ", ".join(f"{count[place]} {place}" for place in places)
    came = count["accepted"] + int(metrics.sum("weirgate_connections_returned_total"))
    http = int(metrics.sum("weirgate_client_connections_total", outcome="http"))
    phase = lambda name: int(metrics.sum("weirgate_connections", phase=name))
    gone, live = http + sum(count["closes"].values()), phase("head") + phase("open")
    # The reason of a connection under way to its end may be counted already.
    if not gone + live <= came <= gone + live + phase("closing"):
        yield (f"{came} connections came, but {http} became HTTP, {gone - http} ended, {live} live, "
               f"{phase('closing')} are closing")


def resident_kib(pid):
    """Resident memory, at little cost."""
    return int(pathlib.Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024


def median_of(looks):
    """The median of each number of several looks."""
    return {name: int(statistics.median(look[name] for look in looks)) for name in looks[0]}


def loaded_kib(samples, seconds=15):
    """The median of the resident memory in the last seconds of the samples."""
    return int(statistics.median(kib for at, kib in samples if at > samples[-1][0] - seconds))


def grown(before, after, share):
    """What is more after than before, in words: resident memory by more than `share`, descriptors at all.

    The allocator gives freed memory back to the kernel or keeps it, as its blocks happen to lie. Therefore the memory
    before is the larger of two: at rest, and under the load just before.
    """
    reference = max(before["rss_kib"], before["loaded_kib"])
    if after["rss_kib"] > reference * (1 + share):
        yield f"resident memory {reference} -> {after['rss_kib']} KiB ({after['rss_kib'] / reference - 1:+.1%})"
    if before["fds"] != after["fds"]:
        yield f"descriptors {before['fds']} -> {after['fds']}"


def trend(samples, share):
    """Growth of resident memory under load: the last quarter of the samples beside the first; needs twenty minutes.

    Yields words if the growth is more than `share`; a leak that rests hide shows here.
    """
    if not samples or samples[-1][0] - samples[0][0] < 1_200:
        return
    quarter = len(samples) // 4
    first, last = (statistics.median(kib for _, kib in part) for part in (samples[:quarter], samples[-quarter:]))
    if last > first * (1 + share):
        yield f"resident memory under load {first:.0f} -> {last:.0f} KiB ({last / first - 1:+.1%})"
