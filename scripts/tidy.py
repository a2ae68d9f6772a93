#!/usr/bin/env python3
"""Rules of this repository that no compiler checks: tidy.py; prints what is wrong and where, exit 1 when anything is.

- A source file of ours has at most 500 lines: a person reads it in one sitting.
- Nothing left over: unfinished code, debug prints, tests switched off.
- Nothing names a path of somebody's machine.
- Relative links in documents lead somewhere, and so do links to a heading. Each alert has such a link.
- A link to a test with the name of the test as its text finds the test there.
- A file of Rust in a document or a comment, as `name.rs`, is there.
- Documents name things (scripts/prose.py), use the words of docs/glossary.md, and pages for users no identifier of the source.
- Only src/wire/json.rs calls a parser of sonic-rs: it recurses without a limit.
- The hub knows no JSON: no brace as a byte and no member of an object stands in src/hub.
- A doc comment says more than that there is something; a test module has its place beside its file, without #[path].
- The arrows between the modules of src are those in docs/contributing/arrows.md (scripts/arrows.py).
- Each fault of tests/mutations/mutations.toml stands exactly once in its file.
- The wall clock is read where it is shown or compared with the outside: durations are of the monotonic clock.
- Lockfiles name no download address; shell scripts parse; make's targets have their line of help.
"""
import pathlib
import re
import subprocess
import sys
import tomllib

import arrows
import prose

ROOT = pathlib.Path(__file__).resolve().parents[1]
LINES_MAX = 500
SOURCE = {".rs", ".py", ".js", ".mjs", ".ts"}
# Split, so that this file does not find itself.
LEFT_OVER = re.compile("|".join([r"\bto" r"do!\(", r"\bunimplemen" r"ted!\(", r"\bdb" r"g!\(", r"#\[igno" r"re", r"\bFIX" r"ME\b", r"\bTO" r"DO\b"]))
MACHINE_PATH = re.compile("|".join([r"(?:^|[^A-Za-z0-9_.}])/(?:wo" r"rk|ro" r"ot|home/[a-z]+)/", r"\.\./sha" r"red\b"]))
# What reads the wall clock, and where: for the process, and for people at a terminal.
WALL_CLOCK = re.compile(r"\b(?:SystemTime|UNIX_EPOCH|CLOCK_REALTIME|ClockId::Realtime\w*|(?:Utc|Local|OffsetDateTime|Timestamp)::now\w*)\b")
READS_WALL_CLOCK = {"src/base/mod.rs", "src/telemetry/terminal.rs"}
TEST_LINK = re.compile(r"\[`(\w+)`\]\(([^)#\s]+\.(?:rs|py))\)")
LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]*)(?:#([^)\s]*))?\)")
MUTATIONS = "tests/mutations/mutations.toml"
# Each alert names a page of the documents.
ALERTS = "deploy/prometheus/alerts.yml"
RUNBOOK = re.compile(r'runbook_url: "([^"#]+)(?:#([^"]+))?"')

# Pronouns and relative words per 100 words: in these documents together, and in each of them.
PROSE_MAX, PROSE_PAGE_MAX = 1.6, 3.0
# The same of comments: in src, and in the rest of these folders. The limits only fall.
COMMENTS_MAX = {"src": 1.2, "others": 1.0}
COMMENTED = re.compile(r"(?:src|loadtest|tests/support|clients/js)/.*\.(?:rs|js|mjs|ts)")
PROSE_FILES = re.compile(r"(README|ARCHITECTURE|CHANGELOG)\.md|docs/.*\.md|clients/[a-z]+/README\.md")
# Made from texts in src: the figure of a page and the words are those of their source.
MADE = {"docs/reference/limits.md", "docs/reference/settings.md", "docs/reference/metrics.md"}
# Words that the glossary has another word for, and verbs that the field has another verb for.
NOT_SAID = {
    r"newcomers?": "new client",
    r"wish(?:es|ed)?": "request",
    r"whoever|whomever": "the noun",
    r"(?:go|goes|went|going) over": "overrides, or exceeds",
    r"beyond it": "over the limit",
    r"(?:is|are|was|were) (?:told|owed)": "gets, or receives",
    r"let in": "accepted, or logged in",
    r"mend(?:s|ed)?": "fix",
    r"deaf": "not subscribed",
    r"stands": "is",
    r"house": "the noun",
    r"(?<=\S )(?<!load )balancers?": "load balancer",
    r"durables": "durable consumers",
    r"unnamed consumers?": "ephemeral consumer",
}
NOT_SAID = [(re.compile(rf"\b(?:{word})\b" if not word.startswith("(?<") else rf"{word}\b", re.I), said)
            for word, said in NOT_SAID.items()]
SAYS_SO_ITSELF = {"docs/glossary.md", "CHANGELOG.md"} | MADE
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

# Doc comments that say nothing, whole.
FILLER = re.compile(r"\s*///? (?:" + "|".join([
    r"It(?: \w+){1,2}\.", r"What can be set\.", r"(?:See|As) (?:the module|above|below|there|here)\b.*",
    r"(?:Which|Whose|Why|Where|Who|Whom|How|What|When)(?: one)?\.", r"What (?:it|they|that|this) \w+\.",
    r"(?:Where|Whose|Why|Who|Whom|How|When) (?:it|that|they|this)\b(?: \w+){0,3}\.",
    r"(?:Theirs|Ours|Nobody's|Nothing|Nobody|The same|Not this one|That|Those|This|These|Them)\.",
    r"Does (?:it|so|that|this)\b.*", r"Nothing ever does\.",
]) + r")")


def tracked():
    """Files of the repository, new ones included, without what is ignored."""
    listed = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT,
                            stdout=subprocess.PIPE, check=True).stdout.decode()
    return [ROOT / name for name in sorted(set(listed.split("\0"))) if name and (ROOT / name).is_file()]


def wrong_in(path, name, text):
    """Yields (line number, what)."""
    lines = text.splitlines()
    if path.suffix in SOURCE and len(lines) > LINES_MAX:
        yield len(lines), f"over {LINES_MAX} lines"
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
        if name.startswith("src/hub/") and name.endswith(".rs") and "/tests" not in name:
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
    """Returns the anchors of a document as GitHub makes them."""
    anchors, fenced = set(), False
    for line in path.read_text(encoding="utf-8").splitlines():
        fenced ^= line.startswith("```")
        if not fenced and (found := re.match(r"#+ (.*)", line)):
            text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", found[1]).lower().strip()
            anchor = base = re.sub(r"[^\w\- ]", "", text).replace(" ", "-")
            more = 0
            while anchor in anchors:
                more += 1
                anchor = f"{base}-{more}"
            anchors.add(anchor)
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
    fenced = False
    for number, line in enumerate(text.splitlines(), 1):
        fenced ^= line.startswith("```")
        if fenced:
            continue
        for test, file in TEST_LINK.findall(line):
            target = path.parent / file
            if target.is_file() and not re.search(rf"\b(?:fn|def) {test}\(", target.read_text(encoding="utf-8")):
                yield number, f"no test {test} in {file}"
        for link, anchor in LINK.findall(line):
            if re.match(r"[a-z]+:", link):
                continue
            if dead := where_it_ends(path.parent / link if link else path, link, anchor):
                yield number, dead
        if name.startswith("docs/") or "/" not in name:
            if name not in SAYS_SO_ITSELF:
                for words, said in NOT_SAID:
                    if found := words.search(prose.INLINE.sub(" ", line)):
                        yield number, f"not said here: {found.group()} ({said})"
        if USER_PAGES.fullmatch(name) and name not in MADE and (found := IDENTIFIER.search(line)):
            yield number, f"an identifier of the source in a page for users: {found.group()}"


def wrong_in_prose(documents):
    """Yields (name, what) where documents point at things in place of naming them."""
    total_hits = total_words = 0
    for name, text in documents.items():
        if not PROSE_FILES.fullmatch(name):
            continue
        hits, words = prose.count(text)
        total_hits, total_words = total_hits + hits, total_words + words
        figure = prose.per_hundred(hits, words)
        if name not in MADE and figure > PROSE_PAGE_MAX:
            yield name, f"{figure:.1f} pronouns and relative words in 100 words; allowed are {PROSE_PAGE_MAX}"
    total = prose.per_hundred(total_hits, total_words)
    if total > PROSE_MAX:
        yield "docs", f"{total:.1f} pronouns and relative words in 100 words of all; allowed are {PROSE_MAX}"


def wrong_in_comments(sources):
    """Yields (place, what) of comments that point at things, of doc comments without content, and of modules with #[path]."""
    counted = {group: [0, 0] for group in COMMENTS_MAX}
    for name, text in sources.items():
        if COMMENTED.fullmatch(name):
            group = counted["src" if name.startswith("src/") else "others"]
            comments = prose.comments(text)
            for at, number in enumerate(prose.count(comments)):
                group[at] += number
            for number, line in enumerate(comments.splitlines(), 1):
                for words, said in NOT_SAID:
                    if found := words.search(prose.INLINE.sub(" ", line)):
                        yield f"{name}:{number}", f"not said here: {found.group()} ({said})"
    for group, most in COMMENTS_MAX.items():
        if (figure := prose.per_hundred(*counted[group])) > most + 0.05:
            yield f"comments of {group}", f"{figure:.1f} pronouns and relative words in 100 words; allowed are {most}"
    for name, text in sources.items():
        lines = text.splitlines()
        if name.startswith("src/"):
            for number, line in enumerate(lines, 1):
                alone = not any(lines[at].strip().startswith("///") for at in (number - 2, number) if 0 <= at < len(lines))
                if alone and FILLER.fullmatch(line):
                    yield f"{name}:{number}", "a doc comment that says nothing"
        for number, line in enumerate(lines, 1):
            if line.strip().startswith("#[path"):
                yield f"{name}:{number}", "#[path]: a module has its place beside its file"


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


def wrong_in_mutations():
    """Yields (place, what) of faults that could not be planted."""
    for fault in tomllib.loads((ROOT / MUTATIONS).read_text())["mutation"]:
        file = ROOT / fault["file"]
        if not file.is_file() or file.read_text().count(fault["find"]) != 1:
            yield f"{MUTATIONS}: {fault['name']}", f"not exactly once in {fault['file']}"


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
        if path.suffix == ".rs" or COMMENTED.fullmatch(name):
            sources[name] = text
        for number, what in found:
            print(f"{name}:{number}: {what}")
            wrong += 1
    for place, what in [*wrong_in_prose(documents), *wrong_in_comments(sources), *wrong_in_json(sources), *wrong_in_hub(sources), *wrong_in_named_files(documents | sources),
                        *wrong_in_mutations(), *arrows.wrong()]:
        print(f"{place}: {what}")
        wrong += 1
    if wrong:
        sys.exit(f"tidy: {wrong} to fix")


main()
