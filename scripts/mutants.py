#!/usr/bin/env python3
"""Puts each fault of tests/mutations/mutations.toml in a copy of the tree and expects a test to fail.

    scripts/mutants.py [--seeds N] [--only REGEX] [--shard K/N] [--target-dir DIR] [--no-fail-fast]

A fault is looked for in the functions of its name, over all of src, and only when it runs. Ends with 1 when a fault
survives, does not build, or is rotted: its text is in no function of its name, or in several places.
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


def cargo_test(test, package, *arguments):
    """The command for a test program, or for a part of it: "nats_source cluster"."""
    program, *names = test.split()
    which = ["--lib"] if program == "lib" else ["--test", program]
    return ["cargo", "test", "--locked", "--package", package, *which, *arguments, *names]


def noticed_by(tree, env, tests, all_tests):
    """The tests that fail, of pairs with a package; "(hangs)" where one had to be ended; None when nothing builds."""
    for test, package in tests:
        status, output = run(cargo_test(test, package, "--no-run"), tree, env)
        if status != 0:
            return None, output
    noticed = []
    for test, package in tests:
        status, output = run(cargo_test(test, package, "--quiet"), tree, env, TEST_SECONDS_MAX)
        if status == 0 and "running 0 tests" in output:
            return None, f"{test} names no test"
        if status != 0:
            noticed.append(test if status is not None else f"{test} (hangs)")
            if not all_tests:
                break
    return noticed, ""


def package_of(file):
    """The name of the crate that the file belongs to."""
    for folder in file.parents:
        manifest = folder / "Cargo.toml"
        if manifest.is_file() and (package := tomllib.loads(manifest.read_text()).get("package")):
            return package["name"]
    raise LookupError(f"no crate has {file}")


def tests_of(mutation, file):
    """Pairs of a test and its package: unit tests are those of the crate of the fault."""
    tests = [mutation["test"]] if "test" in mutation else TESTS
    return [(test, package_of(file) if test.split()[0] == "lib" else "weirgate") for test in tests]


def functions(text, name):
    """Where the functions of this name begin and end: a function ends at a brace that is indented as its first line."""
    for head in re.finditer(rf"^( *)(?:pub(?:\([^)]*\))? )?(?:const )?fn {name}\b.*\n", text, re.M):
        if head[0].endswith("}\n"):
            yield head.span()
        elif end := re.compile(rf"^{head[1]}}}$", re.M).search(text, head.end()):
            yield head.start(), end.end()


def places_of(mutation, tree):
    """Each file and offset of the fault's text in a function of its name."""
    find, places = mutation["find"], set()
    for file in sorted((tree / "src").rglob("*.rs")):
        text = file.read_text()
        if find in text:
            for begin, end in functions(text, mutation["function"]):
                inside = re.finditer(re.escape(find), text[begin:end])
                places |= {(file, begin + found.start()) for found in inside}
    return sorted(places)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=240, help="seeds of each simulation")
    parser.add_argument("--only", default="", help="regular expression on the names of faults and functions")
    parser.add_argument("--shard", default="0/1", help="every Nth fault from the Kth on, as 1/2; a run at the same time needs its own target directory")
    parser.add_argument("--target-dir", default=str(ROOT / "target" / "mutants"))
    parser.add_argument("--no-fail-fast", action="store_true", help="run all tests on each fault")
    parser.add_argument("--list", action="store_true", help="only say where each fault would be")
    options = parser.parse_args()

    mutations = tomllib.loads(LIST.read_text())["mutation"]
    first, step = map(int, options.shard.split("/"))
    mutations = [m for m in mutations if re.search(options.only, m["name"] + " " + m["function"])][first::step]
    places = {mutation["name"]: places_of(mutation, ROOT) for mutation in mutations}
    rotted = [mutation for mutation in mutations if len(places[mutation["name"]]) != 1]
    for mutation in rotted:
        print(f"{mutation['name']}: ROTTED: {len(places[mutation['name']])} places in a function {mutation['function']}")
    mutations = [mutation for mutation in mutations if mutation not in rotted]
    places = {mutation["name"]: places[mutation["name"]][0] for mutation in mutations}
    if options.list:
        for mutation in mutations:
            print(f"{mutation['name']:60} {places[mutation['name']][0].relative_to(ROOT)}")
        return 1 if rotted else 0

    env = dict(os.environ, CARGO_TARGET_DIR=options.target_dir, SIM_SEEDS=str(options.seeds))
    env.update(RUST_BACKTRACE="0", SIM_SEED="")
    survivors = []
    with tempfile.TemporaryDirectory(prefix="weirgate-mutants-") as directory:
        tree = Path(directory)
        copy_of_the_tree(tree)
        every = sorted({test for m in mutations for test in tests_of(m, places[m["name"]][0])})
        noticed, output = noticed_by(tree, env, every, all_tests=True)
        if noticed != []:
            print(f"without any fault: {noticed or output}")
            return 1
        for mutation in mutations:
            started = time.monotonic()
            source, at = places[mutation["name"]]
            file = tree / source.relative_to(ROOT)
            original = file.read_text()
            file.write_text(original[:at] + mutation["replace"] + original[at + len(mutation["find"]):])
            noticed, output = noticed_by(tree, env, tests_of(mutation, source), options.no_fail_fast)
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
    print(f"{len(mutations) - len(survivors)} of {len(mutations)} noticed, {len(rotted)} rotted")
    return 1 if survivors or rotted else 0


if __name__ == "__main__":
    sys.exit(main())
