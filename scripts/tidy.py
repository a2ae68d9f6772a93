#!/usr/bin/env python3
"""Rules of this repository that no compiler checks: tidy.py; prints what is wrong and where, exit 1 when anything is.

- A source file of ours has at most 500 lines: a person reads it in one sitting.
- Nothing left over: unfinished code, debug prints, tests switched off.
- Nothing names a path of somebody's machine.
- Relative links in documents lead somewhere.
- Lockfiles name no download address; shell scripts parse; make's targets have their line of help.
"""
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
LINES_MAX = 500
# Taken over whole from their authors, and replaced whole.
TAKEN_OVER = {
    "tests/conformance/abuse.py", "tests/conformance/autobahn.sh",
    "tests/contracts/check_levels.py", "tests/contracts/check_levels_behaviour.py", "tests/contracts/check_transcripts.py",
    "tests/contracts/check_events.py",
}
SOURCE = {".rs", ".py", ".js", ".mjs", ".ts"}
# Split, so that this file does not find itself.
LEFT_OVER = re.compile("|".join([r"\bto" r"do!\(", r"\bunimplemen" r"ted!\(", r"\bdb" r"g!\(", r"#\[igno" r"re", r"\bFIX" r"ME\b", r"\bTO" r"DO\b"]))
MACHINE_PATH = re.compile("|".join([r"(?:^|[^A-Za-z0-9_.}])/(?:wo" r"rk|ro" r"ot|home/[a-z]+)/", r"\.\./sha" r"red\b"]))
LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)(?:#[^)]*)?\)")


def tracked():
    """Files of the repository, new ones included, without what is ignored."""
    listed = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT,
                            stdout=subprocess.PIPE, check=True).stdout.decode()
    return [ROOT / name for name in sorted(set(listed.split("\0"))) if name and (ROOT / name).is_file()]


def wrong_in(path, name, text):
    """Yields (line number, what)."""
    lines = text.splitlines()
    if path.suffix in SOURCE and name not in TAKEN_OVER and len(lines) > LINES_MAX:
        yield len(lines), f"over {LINES_MAX} lines"
    for number, line in enumerate(lines, 1):
        if path.suffix in SOURCE and name not in TAKEN_OVER and (found := LEFT_OVER.search(line)):
            yield number, f"left over: {found.group()}"
        if path.suffix != ".lock" and (found := MACHINE_PATH.search(line)):
            yield number, f"a path of one machine: {found.group().strip()}"
        if path.suffix == ".md":
            for link in LINK.findall(line):
                if not re.match(r"[a-z]+:", link) and not (path.parent / link).exists():
                    yield number, f"leads nowhere: {link}"
    if path.name == "package-lock.json" and '"resolved"' in text:
        yield 1, "names download addresses: npm install with omit-lockfile-registry-resolved=true"
    if text.startswith(("#!/bin/bash", "#!/usr/bin/env bash")):
        checked = subprocess.run(["bash", "-n", path], stderr=subprocess.PIPE, text=True)
        if checked.returncode:
            yield 1, checked.stderr.strip()
    if name == "Makefile":
        public = re.search(r"^\.PHONY: (.*)$", text, re.M).group(1).split()
        for target in set(public) - {"deps", "build", "pytest"}:
            if not re.search(rf"^{target}:.*## \S", text, re.M):
                yield 1, f"make {target} has no line of help"


def main():
    wrong = 0
    for path in tracked():
        name = path.relative_to(ROOT).as_posix()
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        for number, what in wrong_in(path, name, text):
            print(f"{name}:{number}: {what}")
            wrong += 1
    if wrong:
        sys.exit(f"tidy: {wrong} to mend")


main()
