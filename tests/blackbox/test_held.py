"""What is held for clients: the metrics of every gateway and the table of docs/reference/limits.md name the same sums."""
import pathlib
import re

from prometheus import scrape

LIMITS = pathlib.Path(__file__).parents[2] / "docs/reference/limits.md"


def documented():
    """{of: gateways} of the table."""
    text = LIMITS.read_text().split("## Held for all clients together", 1)[1].split("\n## ", 1)[0]
    rows = (row.strip("| ").split(" | ") for row in text.splitlines() if row.startswith("| `"))
    return {re.sub("`", "", row[0]): row[-1] for row in rows if row[0] != "`of`"}


async def test_each_sum_of_the_table_is_a_metric_and_each_metric_is_in_the_table(start_tls, service, nats, redis_server):
    table = documented()
    lobby = service(lambda asked: {})
    gateways = {
        "levels": {"nats": nats},
        "trades": {"redis": redis_server},
        "channels": {"redis": redis_server},
        "events": {"env": {"LOBBY_URL": lobby.url}},
    }
    shown = set()
    for gateway, servers in gateways.items():
        metrics = scrape(start_tls(gateway, **servers).wait_ready())
        held, limited = ({labels["of"] for name, labels, _ in metrics.samples if name == family} for family in ("weirgate_held", "weirgate_held_max"))
        assert held == limited
        for of in held:
            # The parts of the calls have a row together.
            row = of if of in table else of.rsplit("_", 1)[0]
            assert row in table, f"{of} of {gateway} is not in the table"
            assert table[row].startswith("all") or gateway in table[row], f"{of}: {table[row]}"
            # The connection and the request for the metrics are in the sums.
            most = {"http_bytes": 1_000, "connection_bytes": 15_000}.get(of, 0)
            assert metrics.sum("weirgate_held", of=of) <= most, "nobody else is connected"
            shown.add(row)
    assert shown == set(table)
