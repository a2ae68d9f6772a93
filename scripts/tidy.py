#!/usr/bin/env python3
"""Rules of this repository that no compiler checks: tidy.py; prints what is wrong and where, exit 1 when anything is.

- Nothing left over: unfinished code, debug prints, tests switched off.
- Nothing names a path of somebody's machine.
- Relative links in documents lead somewhere, and so do links to a heading. Each alert has such a link. No table is in two parts.
- A link to a test with the name of the test as its text finds the test there.
- A file of Rust in a document or a comment, as `name.rs`, is there.
- Pages for users have no identifier of the source.
- Only src/wire/json.rs calls a parser of sonic-rs: it recurses without a limit.
- The hub knows no JSON: no brace as a byte and no member of an object stands in src/core.
- A module has its place beside its file, without #[path].
- The table of files in the head of a module names each of its modules, and nothing else.
- The wall clock is read where it is shown or compared with the outside: durations are of the monotonic clock.
- Lockfiles name no download address; shell scripts parse; make's targets have their line of help.
"""
import pathlib
import re
import subprocess
import sys


ROOT = pathlib.Path(__file__).resolve().parents[1]
SOURCE = {".rs", ".py", ".js", ".mjs", ".ts"}
# Split, so that this file does not find itself.
LEFT_OVER = re.compile("|".join([r"\bto" r"do!\(", r"\bunimplemen" r"ted!\(", r"\bdb" r"g!\(", r"#\[igno" r"re", r"\bFIX" r"ME\b", r"\bTO" r"DO\b"]))
MACHINE_PATH = re.compile("|".join([r"(?:^|[^A-Za-z0-9_.}])/(?:wo" r"rk|ro" r"ot|home/[a-z]+)/", r"\.\./sha" r"red\b"]))
# What reads the wall clock, and where: for the process, and for people at a terminal.
WALL_CLOCK = re.compile(r"\b(?:SystemTime|UNIX_EPOCH|CLOCK_REALTIME|ClockId::Realtime\w*|(?:Utc|Local|OffsetDateTime|Timestamp)::now\w*)\b")
READS_WALL_CLOCK = {"src/runtime/lib.rs", "src/server/telemetry/terminal.rs"}
TEST_LINK = re.compile(r"\[`(\w+)`\]\(([^)#\s]+\.(?:rs|py))\)")
LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]*)(?:#([^)\s]*))?\)")
# Each alert names a page of the documents.
ALERTS = "deploy/prometheus/alerts.yml"
RUNBOOK = re.compile(r'runbook_url: "([^"#]+)(?:#([^"]+))?"')

# A row of a table in the head of a module, the module's names in such a row, and the modules that it declares.
HEAD_ROW = re.compile(r"//! \| (.*?) \|")
ROW_NAME = re.compile(r"`(\w+)/?`")
DECLARED = re.compile(r"^(?:pub(?:\([^)]*\))? )?mod (\w+);", re.M)

# Scripts that name files of Rust.
SCRIPTS = re.compile(r"(?:src|loadtest|tests/support|clients/js)/.*\.(?:js|mjs|ts)")
# Made from texts in src: the words are those of their source.
MADE = {"docs/reference/limits.md", "docs/reference/settings.md", "docs/reference/metrics.md"}
NAMED_FILE = re.compile(r"`([\w./-]+\.rs)`")
USER_PAGES = re.compile(r"README\.md|docs/(guides|reference)/.*\.md")
IDENTIFIER = re.compile(r"`(?:src/[^`]*|[a-z_]+\.rs|(?:[A-Z]\w+|[a-z_]+)::\w+[^`]*)`")

# What the product may use of sonic-rs outside of its gate: writing, and looking at what the gate has read.
JSON_GATE = "src/wire/json.rs"
JSON_ALLOWED = {"json", "to_string", "to_string_pretty", "to_vec", "from_value", "Error", "LazyValue", "Value", "Serialize",
                "Deserialize", "JsonContainerTrait", "JsonValueMutTrait", "JsonValueTrait"}
# A brace as a byte or as a text, and a member of an object.
JSON_TEXT = re.compile(r"""b?'[{}]'|"}"|"}"#|\"pos\b|#",\"|\b\w+\\?":[\\"{\[]""")
JSON_USED = re.compile(r"\bsonic_rs(?:::(?:(\w+)|\{([^}]*)\})|\b)")


def tracked():
    """Files of the repository, new ones included, without what is ignored."""
    listed = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT,
                            stdout=subprocess.PIPE, check=True).stdout.decode()
    return [ROOT / name for name in sorted(set(listed.split("\0"))) if name and (ROOT / name).is_file()]


def wrong_in(path, name, text):
    """Yields (line number, what)."""
    lines = text.splitlines()
    for number, line in enumerate(lines, 1):
        if path.suffix in SOURCE and (found := LEFT_OVER.search(line)):
            yield number, f"left over: {found.group()}"
        if path.suffix != ".lock" and (found := MACHINE_PATH.search(line)):
            yield number, f"a path of one machine: {found.group().strip()}"
        if name.startswith("src/") and name not in READS_WALL_CLOCK and (found := WALL_CLOCK.search(line)):
            yield number, f"the wall clock steps: {found.group()} (hub::Now has both clocks)"
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


def wrong_in_hub(sources):
    """Yields (place, what) for each text of JSON in the hub: positions and messages are data there."""
    for name, text in sources.items():
        if name.startswith("src/core/") and name.endswith(".rs") and "/tests" not in name:
            for number, line in enumerate(text.split("#[cfg(test)]")[0].splitlines(), 1):
                if found := JSON_TEXT.search(line):
                    yield f"{name}:{number}", f"the hub knows no JSON: {found.group()}"


def wrong_in_json(sources):
    """Yields (place, what) for each use of a parser of sonic-rs in src, outside of its gate and of tests."""
    for name, text in sources.items():
        if not name.startswith("src/") or not name.endswith(".rs") or name == JSON_GATE or "/tests" in name:
            continue
        text = text.split("#[cfg(test)]")[0]
        for used in JSON_USED.finditer(text):
            names = [used[1]] if used[1] else re.split(r"[,\s]+", (used[2] or "*").strip(", \n"))
            for wrong in sorted(set(names) - JSON_ALLOWED):
                line = text.count("\n", 0, used.start()) + 1
                yield f"{name}:{line}", f"sonic_rs::{wrong} recurses without a limit: {JSON_GATE} is the gate for JSON from outside"


def headings(path):
    """Returns the anchors of a document. Of headings with one name only the first has one: GitHub and the site number
    the others in different ways."""
    anchors, fenced = set(), False
    for line in path.read_text(encoding="utf-8").splitlines():
        fenced ^= line.startswith("```")
        if not fenced and (found := re.match(r"#+ (.*)", line)):
            text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", found[1]).lower().strip()
            anchors.add(re.sub(r"[^\w\- ]", "", text).replace(" ", "-"))
    return anchors


def where_it_ends(target, link, anchor):
    """Returns what is wrong with a link to `target`; None if nothing is."""
    if not target.exists():
        return f"leads nowhere: {link}"
    if anchor and target.suffix == ".md" and anchor not in headings(target):
        return f"no such heading: {link}#{anchor}"
    return None


def wrong_in_alerts(text):
    """Yields (line number, what) of alerts without a page of the documents."""
    waiting = None
    for number, line in enumerate([*text.splitlines(), "- alert: (the end)"], 1):
        if "- alert: " in line:
            if waiting:
                yield waiting, "an alert without a runbook_url"
            waiting = number
        elif found := RUNBOOK.search(line):
            waiting = None
            if dead := where_it_ends(ROOT / found[1], found[1], found[2]):
                yield number, dead


def wrong_in_document(path, name, text):
    """Yields (line number, what) of a Markdown document."""
    lines, fenced = [], False
    for line in text.splitlines():
        fenced ^= line.startswith("```")
        lines.append("" if fenced else line)
    # A link may begin in one line and end in the next.
    whole = "\n".join(lines)
    for found in LINK.finditer(whole):
        link, anchor = found.groups()
        if re.match(r"[a-z]+:", link):
            continue
        if dead := where_it_ends(path.parent / link if link else path, link, anchor):
            yield whole.count("\n", 0, found.start()) + 1, dead
    for number in range(1, len(lines) - 2):
        before, line, after, below = lines[number - 1:number + 3]
        if before.startswith("|") and not line and after.startswith("|") and not below.startswith("| ---"):
            yield number + 1, "an empty line in a table"
    for number, line in enumerate(lines, 1):
        for test, file in TEST_LINK.findall(line):
            target = path.parent / file
            if target.is_file() and not re.search(rf"\b(?:fn|def) {test}\(", target.read_text(encoding="utf-8")):
                yield number, f"no test {test} in {file}"
        if USER_PAGES.fullmatch(name) and name not in MADE and (found := IDENTIFIER.search(line)):
            yield number, f"an identifier of the source in a page for users: {found.group()}"


def wrong_in_modules(sources):
    """Yields (place, what) of modules with #[path]."""
    for name, text in sources.items():
        for number, line in enumerate(text.splitlines(), 1):
            if line.strip().startswith("#[path"):
                yield f"{name}:{number}", "#[path]: a module has its place beside its file"


def wrong_in_tables(sources):
    """Yields (file, what) for each module that the table in a head lacks, and each name there that is no module."""
    for name, text in sources.items():
        first, *rows = HEAD_ROW.findall(text) or [""]
        if first in {"file", "module"}:
            named = {module for row in rows for module in ROW_NAME.findall(row)} - {"mod", "lib", pathlib.PurePosixPath(name).stem}
            declared = set(DECLARED.findall(text)) - {"tests"}
            for module in sorted(declared - named):
                yield name, f"the table in the head lacks {module}"
            for module in sorted(named - declared):
                yield name, f"no module {module}, which the table in the head names"


def wrong_in_named_files(texts):
    """Yields (place, what) of files that a document or a comment names and that are not there; NAME is any name."""
    all_ends = {end for path in tracked() if path.suffix == ".rs" for end in ends_of(path.relative_to(ROOT).parts)}
    for name, text in texts.items():
        for number, line in enumerate(text.splitlines(), 1):
            if name.endswith(".rs") and "//" not in line:
                continue
            for file in NAMED_FILE.findall(line):
                if "NAME" not in file and tuple(pathlib.PurePosixPath(file).parts) not in all_ends:
                    yield f"{name}:{number}", f"no file {file}"


def ends_of(parts):
    return [parts[at:] for at in range(len(parts))]


def main():
    wrong = 0
    documents, sources = {}, {}
    for path in tracked():
        name = path.relative_to(ROOT).as_posix()
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        found = list(wrong_in(path, name, text))
        if path.suffix == ".md":
            documents[name] = text
            found += wrong_in_document(path, name, text)
        if name == ALERTS:
            found += wrong_in_alerts(text)
        if path.suffix == ".rs" or SCRIPTS.fullmatch(name):
            sources[name] = text
        for number, what in found:
            print(f"{name}:{number}: {what}")
            wrong += 1
    for place, what in [*wrong_in_modules(sources), *wrong_in_json(sources), *wrong_in_hub(sources),
                        *wrong_in_tables(sources),
                        *wrong_in_named_files(documents | sources)]:
        print(f"{place}: {what}")
        wrong += 1
    if wrong:
        sys.exit(f"tidy: {wrong} to fix")


main()
