#!/usr/bin/env python3
"""Puts each fault of tests/mutations/mutations.toml in a copy of the tree and expects a test to fail.

    scripts/mutants.py [--seeds N] [--only REGEX] [--shard K/N] [--target-dir DIR] [--no-fail-fast]

Ends with 1 when a fault survives, does not build, or is not found exactly once.
"""

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LIST = ROOT / "tests" / "mutations" / "mutations.toml"
# The simulation first: it is what has to notice, except where the list says `by = "rules"`; the
# scenarios say more exactly what is wrong. A fault outside of the core names its own `test`: a test
# program, or "lib" for the unit tests, and the beginning of a test's name.
TESTS = ["simulation", "hub_rules", "toy_gateways"]
# A fault may hang a test.
TEST_SECONDS_MAX = 240


def copy_of_the_tree(into):
    """Every file that git knows, with what is changed but not committed."""
    files = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, check=True, capture_output=True,
    ).stdout.decode().split("\0")
    for name in filter(None, files):
        source = ROOT / name
        if source.is_file():
            target = into / name
            target.parent.mkdir(parents=True, exist_ok=True)
            # With the time of now: what an earlier run built may be of a faulty file.
            shutil.copyfile(source, target)
            shutil.copymode(source, target)


def run(command, tree, env, seconds=None):
    """Exit status and output; the whole process group is ended when its time is over."""
    process = subprocess.Popen(
        command, cwd=tree, env=env, text=True, errors="replace", start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )
    try:
        output, _ = process.communicate(timeout=seconds)
        return process.returncode, output
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return None, ""


def cargo_test(test, *arguments):
    """The command for a test program, or for a part of it: "nats_source cluster"."""
    program, *names = test.split()
    which = ["--lib"] if program == "lib" else ["--test", program]
    return ["cargo", "test", "--locked", "--package", "weirgate", *which, *arguments, *names]


def noticed_by(tree, env, tests, all_tests):
    """The tests that fail, with "(hangs)" where one had to be ended; None when nothing builds."""
    for test in tests:
        status, output = run(cargo_test(test, "--no-run"), tree, env)
        if status != 0:
            return None, output
    noticed = []
    for test in tests:
        status, output = run(cargo_test(test, "--quiet"), tree, env, TEST_SECONDS_MAX)
        if status == 0 and "running 0 tests" in output:
            return None, f"{test} names no test"
        if status != 0:
            noticed.append(test if status is not None else f"{test} (hangs)")
            if not all_tests:
                break
    return noticed, ""


def tests_of(mutation):
    return [mutation["test"]] if "test" in mutation else TESTS


def check_texts(mutations):
    """The list has not rotted: each text stands exactly once."""
    rotten = []
    for mutation in mutations:
        count = (ROOT / mutation["file"]).read_text().count(mutation["find"])
        if count != 1:
            rotten.append(f"{mutation['name']}: its text stands {count} times in {mutation['file']}")
    return rotten


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=240, help="seeds of each simulation")
    parser.add_argument("--only", default="", help="regular expression on the names and files")
    parser.add_argument("--shard", default="0/1", help="every Nth fault from the Kth on, as 1/2; a run at the same time needs its own target directory")
    parser.add_argument("--target-dir", default=str(ROOT / "target" / "mutants"))
    parser.add_argument("--no-fail-fast", action="store_true", help="run all tests on each fault")
    parser.add_argument("--list", action="store_true", help="only check that the list is sound")
    options = parser.parse_args()

    mutations = tomllib.loads(LIST.read_text())["mutation"]
    rotten = check_texts(mutations)
    if rotten or options.list:
        print("\n".join(rotten) or f"{len(mutations)} mutations, each text stands once")
        return 1 if rotten else 0
    first, step = map(int, options.shard.split("/"))
    mutations = [m for m in mutations if re.search(options.only, m["name"] + " " + m["file"])][first::step]

    env = dict(os.environ, CARGO_TARGET_DIR=options.target_dir, SIM_SEEDS=str(options.seeds))
    env.update(RUST_BACKTRACE="0", SIM_SEED="")
    survivors = []
    with tempfile.TemporaryDirectory(prefix="weirgate-mutants-") as directory:
        tree = Path(directory)
        copy_of_the_tree(tree)
        every = sorted({test for mutation in mutations for test in tests_of(mutation)})
        noticed, output = noticed_by(tree, env, every, all_tests=True)
        if noticed != []:
            print(f"without any fault: {noticed or output}")
            return 1
        for mutation in mutations:
            started = time.monotonic()
            file = tree / mutation["file"]
            original = file.read_text()
            file.write_text(original.replace(mutation["find"], mutation["replace"]))
            noticed, output = noticed_by(tree, env, tests_of(mutation), options.no_fail_fast)
            file.write_text(original)
            by_simulation = bool(noticed) and noticed[0].startswith(TESTS[0])
            elsewhere = "test" in mutation or mutation.get("by") == "rules"
            if noticed and (by_simulation or elsewhere):
                verdict = ", ".join(noticed)
            elif noticed:
                verdict = f"NOT BY THE SIMULATION: {noticed[0]}"
                survivors.append(mutation["name"])
            else:
                verdict = "DOES NOT BUILD" if noticed is None else "SURVIVES: " + mutation["why"]
                survivors.append(mutation["name"])
            seconds = time.monotonic() - started
            print(f"{mutation['name']:50} {seconds:5.0f} s  {verdict}", flush=True)
            if noticed is None:
                print(output[-2000:])
    print(f"{len(mutations) - len(survivors)} of {len(mutations)} noticed")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
