#!/usr/bin/env python3
"""a program is compiled the same with and without the tests: one_build.py; prints which crates differ, exit 1 when any does.

cargo unites the features of everything that it builds together, and tests ask for more than the program. A crate with
other features is another crate, and whatever depends on it is compiled again. So what the Makefile builds needs the same
features with the tests' dependencies (as for examples) and without them.
"""
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]


def packages():
    """The packages of the Makefile's builds, as arguments."""
    [line] = re.findall(r"^BUILD := .*", (ROOT / "Makefile").read_text(), re.MULTILINE)
    return re.findall(r"-p \S+", line)


def features(packages, edges):
    """Each crate in the tree of `packages` with its features."""
    command = ["cargo", "tree", "--locked", "--prefix", "none", "-e", edges, "-f", "{p} [{f}]"]
    command += [word for package in packages for word in package.split()]
    tree = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return {tuple(line) for line in re.findall(r"^(\S+ v\S+) .*?(\[[^\]]*\])", tree.replace("(proc-macro) ", ""), re.MULTILINE)}


def main():
    of_program = {crate for crate, _ in features(["-p weirgate"], "normal,build")}
    plain, with_tests = (features(packages(), edges) for edges in ("normal,build", "normal,build,dev"))
    differ = sorted({crate for crate, _ in plain ^ with_tests} & of_program)
    for crate in differ:
        sets = [sorted(found for name, found in side if name == crate) for side in (plain, with_tests)]
        print(f"{crate}: alone it is compiled with {sets[0]}, with the tests {sets[1]}")
    if differ:
        sys.exit("one_build: give tests/support/Cargo.toml the features that are missing")


if __name__ == "__main__":
    main()
