#!/usr/bin/env python3
"""Makes deploy/grafana/weirgate.json from the tables below: python3 scripts/dashboard.py

$i stands for the chosen instances, $r for the time over which Grafana takes a rate.
"""
import json
import pathlib
import sys

FILE = pathlib.Path(__file__).parent.parent / "deploy" / "grafana" / "weirgate.json"
WIDTH = 24
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
RED, YELLOW, GREEN = "red", "yellow", "green"


def quantile(share, metric, by="le"):
    return f"histogram_quantile({share}, sum by ({by}) (rate({metric}[$r])))"


def stage(name, share=0.99):
    return quantile(share, f'weirgate_stage_duration_seconds_bucket{{$i,stage="{name}"}}')


def rate(metric, by=""):
    return f"sum{f' by ({by})' if by else ''} (rate({metric}{{$i}}[$r]))"


# One number: title, description, unit, query, colours from a value on. Of several instances the worst.
STATS = [
    ("Up", "Instances that answer the scrape.", "short",
     'sum(up{$i,job=~"$job"})', [(None, RED), (1, GREEN)]),
    ("Data can come", "1 while every subscription of every instance is active.", "short",
     "min(weirgate_bus_subscribed{$i})", [(None, RED), (1, GREEN)]),
    ("Bus", "1 while the bus answers every instance.", "short",
     "min(weirgate_bus_connected{$i})", [(None, RED), (1, GREEN)]),
    ("Newest message", "Age of the newest good message.", "s",
     "time() - min(weirgate_bus_last_message_timestamp_seconds{$i})", [(None, GREEN), (10, YELLOW), (300, RED)]),
    ("Clients", "Open WebSockets.", "short", "sum(weirgate_clients{$i})", [(None, GREEN)]),
    ("Last client, p99", "From the arrival of a message until every client that takes bytes was written to.", "s",
     stage("last_write"), [(None, GREEN), (0.02, YELLOW), (0.05, RED)]),
    ("Slow clients dropped", "In the last hour.", "short",
     'sum(increase(weirgate_client_closes_total{$i,reason=~"send_stalled|send_queue_soft|send_queue_hard|frame_memory"}[1h]))',
     [(None, GREEN), (1, YELLOW)]),
    ("Stopping", "Instances after their first stop signal.", "short", "sum(weirgate_draining{$i})", [(None, GREEN), (1, YELLOW)]),
]

# Rows of graphs: title, description, unit, then pairs of a query and its legend.
ROWS = {
    "Clients": [
        ("Clients", "Open WebSockets.", "short", ("sum by (instance) (weirgate_clients{$i})", "{{instance}}")),
        ("Connections by phase", "Plain HTTP and handshakes included.", "short",
         ("sum by (phase) (weirgate_connections{$i})", "{{phase}}")),
        ("Ends by reason", "The first reason of each connection that ended, ends per second.", "ops",
         (rate("weirgate_client_closes_total", "reason") + " > 0", "{{reason}}")),
        ("Refused: tokens", "Clients refused because of their token, by reason, per second.", "ops",
         (rate("weirgate_auth_refusals_total", "reason") + " > 0", "{{reason}}")),
        ("Refused: requests", "Messages of clients dropped for a rate limit, and entries of subscribe over a limit of all clients, per second.", "ops",
         (rate("weirgate_requests_limited_total"), "rate limit"),
         (rate("weirgate_subscriptions_limited_total", "limit") + " > 0", "{{limit}}")),
        ("New connections", "Accepted, and accepts that failed, per second.", "ops",
         (rate("weirgate_connections_accepted_total"), "accepted"), (rate("weirgate_accept_errors_total"), "failed")),
    ],
    "Delivery": [
        ("From arrival to the last client", "From a message's arrival in the process until every client that takes bytes was written to.", "s",
         (stage("last_write", 0.5), "p50"), (stage("last_write"), "p99"), (stage("last_write", 0.999), "p99.9")),
        ("Stages, p99", "Where the time goes.", "s",
         *((stage(name), name) for name in ("bus", "bus_to_feed", "feed", "queue", "first_write", "last_write"))),
        ("Messages to clients", "Queued is sent, conflated, shed, dropped or waiting; messages per second.", "ops",
         (rate("weirgate_frames_sent_total"), "sent"), (rate("weirgate_messages_conflated_total"), "conflated"),
         (rate("weirgate_messages_shed_total"), "shed"), (rate("weirgate_messages_dropped_total"), "dropped")),
        ("Bytes to clients", "What the kernel took.", "Bps", (rate("weirgate_bytes_sent_total", "instance"), "{{instance}} {{process}}")),
        ("Send queues", "All queues, the largest of one client, the frames in them, and their limit.", "bytes",
         ("sum(weirgate_send_queue_bytes{$i})", "all queues"), ("max(weirgate_send_queue_peak_bytes{$i})", "largest lately"),
         ("sum(weirgate_frame_bytes_alive{$i})", "frames"), ("max(weirgate_frame_bytes_max{$i})", "limit of frames")),
        ("Slow clients", "Writes that the kernel took in part, and writes that failed, per second.", "ops",
         (rate("weirgate_writes_short_total"), "short writes"), (rate("weirgate_send_errors_total", "kind") + " > 0", "failed: {{kind}}")),
    ],
    "Bus": [
        ("Messages from the bus", "Good, refused, too old; messages per second.", "ops",
         (rate("weirgate_bus_messages_total", "subject"), "{{subject}}"),
         (rate("weirgate_bus_messages_bad_total", "subject") + " > 0", "{{subject}} bad"),
         (rate("weirgate_bus_messages_old_total", "subject") + " > 0", "{{subject}} old")),
        ("Behind the bus", "What the bus still holds, and what waits for the loop.", "short",
         ("weirgate_consumer_lag_messages{$i}", "{{instance}} {{process}} {{consumer}}"), ("weirgate_bus_queue_messages{$i}", "{{instance}} {{process}} bus queue")),
        ("Age of the newest message", "Grows while the publisher or the bus is away.", "s",
         ("time() - weirgate_bus_last_message_timestamp_seconds{$i}", "{{instance}} {{process}}"),
         ("time() - weirgate_feed_last_message_timestamp_seconds{$i} > weirgate_feed_quiet_after_seconds{$i}", "{{instance}} {{process}} {{subject}} quiet")),
        ("Losses", "Losses between the bus and weirgate, connections made again, and losses that clients were told of, in five minutes.", "short",
         ("sum by (instance) (increase(weirgate_bus_gaps_total{$i}[5m]))", "{{instance}} losses"),
         ("sum by (instance) (increase(weirgate_bus_reconnects_total{$i}[5m]))", "{{instance}} connections"),
         ("sum(increase(weirgate_gaps_told_total{$i}[5m]))", "told to clients")),
        ("Subjects in trouble", "1 while a consumer cannot be set up (away), has no answer of JetStream (silent), or holds messages that do not come (stalled).", "short",
         *((f"weirgate_consumer_{word}{{$i}} > 0", f"{{{{instance}}}} {{{{process}}}} {{{{consumer}}}} {word}") for word in ("away", "silent", "stalled"))),
        ("Refused by the bus", "Subscriptions that the bus refused, consumers that could not be set up, searches for a last good message that ended at their limit.", "short",
         ("sum by (instance) (increase(weirgate_bus_subscriptions_refused_total{$i}[$r]))", "{{instance}} subscriptions"),
         ("sum by (instance) (increase(weirgate_consumer_setups_failed_total{$i}[$r]))", "{{instance}} set-ups"),
         ("weirgate_bus_look_backs_limited_total{$i} > 0", "{{instance}} {{process}} look-backs since the start")),
    ],
    "Subscriptions (trades, channels)": [
        ("Subscriptions", "Held by clients, counted once per client.", "short",
         ("sum by (instance) (weirgate_subscriptions{$i})", "{{instance}}")),
        ("Different names and patterns", "Of all clients together, and their limits.", "short",
         ("sum by (kind) (weirgate_subscribed_names{$i})", "{{kind}}"),
         ('max(weirgate_held_max{$i,of="names"})', "limit"), ('max(weirgate_held_max{$i,of="patterns"})', "limit of patterns")),
        ("Changes under way", "Names to subscribe or unsubscribe on the bus, by stage.", "short",
         ("sum by (stage) (weirgate_subscription_changes{$i})", "{{stage}}")),
        ("Resumes", "With --history-ms: names that clients asked to resume, by outcome.", "ops",
         (rate("weirgate_resumes_total", "outcome"), "{{outcome}}")),
        ("Reach of the history", "With --history-ms: how far back clients can resume, and how far they should.", "s",
         ("time() - weirgate_history_since_timestamp_seconds{$i}", "{{instance}}"),
         ("max(weirgate_history_wanted_seconds{$i})", "--history-ms")),
        ("Trades that candles lack", "With --candles: late, early or unreadable trades, and those of symbols beyond the limit.", "ops",
         (rate("weirgate_candle_trades_dropped_total", "reason") + " > 0", "{{reason}}")),
    ],
    "Devices and services (events)": [
        ("Calls of services", "Calls by what came of them, and calls that were not made because the service was away.", "reqps",
         (rate("weirgate_upstream_calls_total", "service, outcome"), "{{service}} {{outcome}}"),
         (rate("weirgate_upstream_calls_skipped_total", "service"), "{{service}} skipped")),
        ("Time of a call, p99", "From the call to the end of its answer; proxied requests to the head of theirs.", "s",
         (quantile(0.99, "weirgate_upstream_call_duration_seconds_bucket{$i}", "service, le"), "{{service}}"),
         (quantile(0.99, "weirgate_proxy_head_duration_seconds_bucket{$i}", "service, le"), "{{service}}, proxied")),
        ("Services away", "1 from a request without an answer to the next answer; paused while the circuit is open.", "short",
         ("max by (service) (weirgate_service_away{$i})", "{{service}} away"),
         ("max by (service) (weirgate_upstream_circuit_open{$i})", "{{service}} circuit open")),
        ("Under way", "Calls and proxied requests without an answer so far.", "short",
         ("sum by (service) (weirgate_upstream_calls_in_flight{$i})", "{{service}} calls"),
         ("sum by (service) (weirgate_proxy_requests_in_flight{$i})", "{{service}} proxied")),
        ("Proxied requests", "Requests to /v1/…, by what came of them.", "reqps",
         (rate("weirgate_proxy_requests_total", "service, outcome"), "{{service}} {{outcome}}")),
        ("Pushes and errors", "Events pushed by services, and errors sent to devices by code, per second.", "ops",
         (rate("weirgate_pushes_total"), "pushes"), (rate("weirgate_event_errors_total", "code") + " > 0", "{{code}}")),
    ],
    "Limits": [
        ("Room before the loop", "Bytes between the bus and the event loop, and the limit; at the limit the bus waits.", "bytes",
         ("weirgate_bus_queue_bytes{$i}", "{{instance}}"), ("max(weirgate_bus_queue_bytes_max{$i})", "limit")),
        ("Share of each limit", "1 is the limit.", "percentunit",
         ("max(sum without (phase) (weirgate_connections{$i}) / weirgate_connections_max{$i})", "connections"),
         ('max(process_open_fds{$i,job=~"$job"} / process_max_fds{$i,job=~"$job"})', "descriptors"),
         ("max(weirgate_frame_bytes_alive{$i} / weirgate_frame_bytes_max{$i})", "frames"),
         ("max(weirgate_bus_queue_messages{$i} / weirgate_bus_queue_messages_max{$i})", "bus queue"),
         ("max by (of) (weirgate_held{$i} / (weirgate_held_max{$i} > 0))", "{{of}}"),
         ("max(weirgate_history_bytes{$i} / weirgate_history_bytes_max{$i})", "bytes of history"),
         ("max(weirgate_candle_pairs{$i} / weirgate_candle_pairs_max{$i})", "candles")),
        ("Unanswered messages of devices", "Events gateway: bytes that wait or are being answered; one client address fills half of the share waiting-bytes of --memory-max.", "bytes",
         ("weirgate_event_waiting_bytes{$i}", "{{instance}} {{process}}")),
        ("Clients that are not read", "By reason; turn lasts for some turns of the loop only.", "short",
         ("sum by (reason) (weirgate_clients_paused{$i})", "{{reason}}")),
    ],
    "Process": [
        ("Slow clients", "Clients whose send queue waited for half of the last second, by cause.", "short",
         ("sum by (why) (weirgate_slow_clients{$i})", "{{why}}")),
        ("Lateness", "Seconds a second for which clients wait for the loop itself; behind: each client gets the newest states only.", "percentunit",
         (rate("weirgate_late_seconds_total"), "late"), (rate("weirgate_behind_seconds_total"), "behind")),
        ("Turns of the loop", "Time of one turn, without its wait.", "s",
         *((quantile(share, "weirgate_loop_turn_duration_seconds_bucket{$i}"), name) for share, name in ((0.5, "p50"), (0.99, "p99"), (0.999, "p99.9")))),
        ("Budgets used up", "How often a budget of a turn was used up, so that the rest waited for the next turn.", "ops",
         (rate("weirgate_loop_budgets_spent_total", "budget"), "{{budget}}")),
        ("CPU", "One core is the most that the loop can use.", "percentunit",
         ('rate(process_cpu_seconds_total{$i,job=~"$job"}[$r])', "{{instance}} {{process}}")),
        ("Memory", "Resident memory.", "bytes", ('process_resident_memory_bytes{$i,job=~"$job"}', "{{instance}} {{process}}")),
    ],
}


def target(number, query, legend=""):
    query = query.replace("$i", 'instance=~"$instance"').replace("$r", "$__rate_interval")
    more = {"legendFormat": legend} if legend else {"instant": True}
    return {"datasource": SOURCE, "expr": query, **more, "refId": chr(ord("A") + number)}


def panel(kind, at, title, description, targets, defaults, options):
    return {
        "type": kind, "title": title, "description": description, "datasource": SOURCE, "gridPos": at,
        "targets": [target(number, *one) for number, one in enumerate(targets)],
        "fieldConfig": {"defaults": defaults, "overrides": []}, "options": options,
    }


def stat(index, title, description, unit, query, colours):
    width = WIDTH // len(STATS)
    steps = [{"value": value, "color": colour} for value, colour in colours]
    defaults = {"unit": unit, "noValue": "–", "thresholds": {"mode": "absolute", "steps": steps}}
    options = {"colorMode": "background", "graphMode": "none", "reduceOptions": {"calcs": ["lastNotNull"]}}
    at = {"x": index * width, "y": 0, "w": width, "h": 4}
    return panel("stat", at, title, description, [(query,)], defaults, options)


def graph(at, title, description, unit, *targets):
    legend = {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi", "sort": "desc"}}
    return panel("timeseries", at, title, description, targets, {"unit": unit, "min": 0}, legend)


def panels():
    """The numbers, then the rows; those of one kind of gateway are folded."""
    made = [stat(index, *one) for index, one in enumerate(STATS)]
    y = 4
    for title, graphs in ROWS.items():
        folded = "(" in title
        row = {"type": "row", "title": title, "collapsed": folded, "gridPos": {"x": 0, "y": y, "w": WIDTH, "h": 1}, "panels": []}
        y += 1
        inside = []
        for index, one in enumerate(graphs):
            inside.append(graph({"x": index % 3 * 8, "y": y + index // 3 * 7, "w": 8, "h": 7}, *one))
        if folded:
            row["panels"] = inside
            made.append(row)
        else:
            made += [row, *inside]
            y += (len(graphs) + 2) // 3 * 7
    return made


def variable(name, query):
    return {
        "name": name, "type": "query", "datasource": SOURCE, "query": {"query": query, "refId": name}, "definition": query,
        "refresh": 2, "multi": True, "includeAll": True, "current": {"text": "All", "value": "$__all"},
    }


def dashboard():
    numbered = panels()
    everything = [inner for outer in numbered for inner in (outer, *outer.get("panels", []))]
    for number, one in enumerate(everything, 1):
        one["id"] = number
    return {
        "title": "weirgate", "uid": "weirgate", "tags": ["weirgate"], "schemaVersion": 39, "version": 2, "editable": True,
        "refresh": "10s", "time": {"from": "now-1h", "to": "now"}, "timezone": "browser",
        "templating": {"list": [
            {"name": "datasource", "type": "datasource", "query": "prometheus", "current": {}},
            variable("job", "label_values(weirgate_build_info, job)"),
            variable("instance", 'label_values(weirgate_build_info{job=~"$job"}, instance)'),
        ]},
        "annotations": {"list": []},
        "panels": numbered,
    }


if __name__ == "__main__":
    text = json.dumps(dashboard(), indent=1, ensure_ascii=False) + "\n"
    if sys.argv[1:] == ["--check"]:
        sys.exit(0 if FILE.read_text() == text else f"{FILE.name} is older than its tables: run scripts/dashboard.py")
    FILE.write_text(text)
