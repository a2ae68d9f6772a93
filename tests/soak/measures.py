"""What a gateway's process and its `/metrics` say, and the balances that must hold between these numbers."""
import asyncio
import os
import pathlib
import re
import statistics

from prometheus import Metrics

LIVE = ("head", "open", "closing")


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
    live = int(sum(metrics.sum("weirgate_connections", phase=phase) for phase in LIVE))
    closed = sum(count["closes"].values())
    if came != http + closed + live:
        yield f"{came} connections came, but {http} became HTTP, {closed} ended, {live} live"


def median_of(looks):
    """The median of each number of several looks."""
    return {name: int(statistics.median(look[name] for look in looks)) for name in looks[0]}


def grown(before, after, share):
    """What is more after than before, in words: resident memory by more than `share`, descriptors at all."""
    more = after["rss_kib"] / before["rss_kib"] - 1
    if more > share:
        yield f"resident memory {before['rss_kib']} -> {after['rss_kib']} KiB ({more:+.1%})"
    if before["fds"] != after["fds"]:
        yield f"descriptors {before['fds']} -> {after['fds']}"
