"""Holds clients of other authors against weirgate: run.py [NAME…]; prints a table, exit 1 when a check fails.

A NAME is a client, a language, or a test_*.py of this folder; without one, all are held. OVER_TLS=1: the clients come over TLS; programs
without TLS are named and left out. README.md has the rest."""
import asyncio
import os
import pathlib
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "rig")]

import over_tls  # noqa: E402
from checks import CHECKS, Bench  # noqa: E402
from processes import weirgate_binary  # noqa: E402
from the_clients import BUILT, CLIENTS, SOMETIMES  # noqa: E402
from trust import Trust  # noqa: E402

CHECK_S = 400
AT_ONCE = 4


def set_up(language, chosen):
    """Installs and builds what the chosen clients of this language need; returns why that failed, or nothing."""
    print(f"setting up {language}", flush=True)
    names = [client.name for client in chosen if client.language == language]
    done = subprocess.run([HERE / language / "setup.sh", *names], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True, env={**os.environ, "BUILT": str(BUILT)})
    return done.stdout[-3000:] or f"exit {done.returncode}" if done.returncode else ""


async def check(client, name, facts, trust):
    """Returns what came of one check, as (held, word for the table, what to say)."""
    if name in client.lacks:
        return True, "n/a", ""
    log = BUILT / "logs" / f"{client.name}-{name}.log"
    log.write_text("")
    told, bench = "", Bench(client.command, log, trust)
    facts[name] = bench.facts
    try:
        async with asyncio.timeout(CHECK_S), bench:
            await CHECKS[name](bench)
    except Exception as error:
        told = str(error) if isinstance(error, AssertionError) else repr(error)
    known = {**client.known, **(client.known_over_tls if trust else {})}
    part, reason, *when = known.get(name, ("", ""))
    if reason and part in told and told:
        return True, "known", ""
    if not told and SOMETIMES in when:
        return True, "yes", ""
    if reason:
        return False, "FAILED", f"{told or 'held'}, and known is: {part!r} ({reason})"
    return not told, "FAILED" if told else "yes", told


async def hold(client, trust):
    """All checks of one client, some at a time: its cells by check, and what was offered and answered."""
    facts, slots = {}, asyncio.Semaphore(AT_ONCE)

    async def one(name):
        async with slots:
            return await check(client, name, facts, trust)
    cells = dict(zip(CHECKS, await asyncio.gather(*map(one, CHECKS))))
    facts = facts["levels"]
    if facts and ("permessage-deflate" in facts["offer"]) != client.deflate:
        cells["levels"] = (False, "FAILED", f"offers {facts['offer']!r}, which the_clients.py does not say")
    return cells, facts


def test_file(path):
    """The tests of a file, as one cell."""
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", path], cwd=HERE.parents[1])
    return done.returncode == 0


def table(rows):
    """A Markdown table of all clients."""
    lines = [["client", "version", *CHECKS, "offer", "answer"], ["---"] * (len(CHECKS) + 4)]
    for client, cells, facts in rows:
        lines.append([client.name, client.version(), *(cells[name][1] for name in CHECKS), facts.get("offer", "?") or "none", facts.get("answer", "?") or "none"])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main(names):
    tests = sorted(HERE.glob("test_*.py"))
    known = {client.name for client in CLIENTS} | {client.language for client in CLIENTS} | {test.stem for test in tests}
    if unknown := set(names) - known:
        sys.exit(f"no client {', '.join(sorted(unknown))}; there are: {', '.join(sorted(known))}")
    chosen = [client for client in CLIENTS if not names or {client.name, client.language} & set(names)]
    trust = Trust(pathlib.Path(os.environ["TMPDIR"])) if over_tls.is_on() else None
    for client in [client for client in chosen if trust and client.plain]:
        print(f"not over TLS: {client.name}: {client.plain}", flush=True)
        chosen.remove(client)
    weirgate_binary()
    (BUILT / "logs").mkdir(parents=True, exist_ok=True)
    problems = {language: set_up(language, chosen) for language in dict.fromkeys(client.language for client in chosen)}
    rows, results = [], []
    for client in chosen:
        begin = time.monotonic()
        if problem := problems[client.language]:
            print(f"FAILED {client.name}: set-up: {problem}", flush=True)
            results.append(False)
            continue
        cells, facts = asyncio.run(hold(client, trust))
        rows.append((client, cells, facts))
        results += [held for held, _, _ in cells.values()]
        print(f"{client.name}: {time.monotonic() - begin:.0f} s, {' '.join(word for _, word, _ in cells.values())}", flush=True)
        for name, (held, _, told) in cells.items():
            if not held:
                print(f"FAILED {client.name} {name}: {told}", flush=True)
    results += [test_file(test) for test in tests if not names or test.stem in names]
    print(f"\n{table(rows)}\n\n{sum(results)} passed, {len(results) - sum(results)} failed")
    sys.exit(not all(results))


if __name__ == "__main__":
    # Browsers that are killed leave their profiles.
    with tempfile.TemporaryDirectory(prefix="weirgate-clients-", ignore_cleanup_errors=True) as profiles:
        os.environ["TMPDIR"] = profiles
        main(sys.argv[1:])
