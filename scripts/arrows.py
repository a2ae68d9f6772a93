#!/usr/bin/env python3
"""Compares the arrows between the top-level modules of src with the table in docs/contributing/arrows.md.

Usage: arrows.py [--print]

An arrow leads from a module to every module that the first one names: `use crate::hub::Now` in src/feeds/ is the arrow
feeds -> hub. Tests do not count: modules under `#[cfg(test)]`, files called tests.rs or *_tests.rs. The table
has the header `| from | to | for |` and a row for each arrow. Exit status 1 if an arrow is not in the
table, a row of the table has no arrow, an arrow is forbidden, modules need each other in a circle, or a pure module names
an impure part of `base`. --print writes the
table that the source asks for, with the reasons of the present table; forbidden arrows and circles are reported beside it.
"""
import functools
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
DOCUMENT = "docs/contributing/arrows.md"
HEADER = "| from | to | for |"
# The pure core names nothing but the pure core, and of `base` only what is pure.
PURE = {"admission", "auth", "feeds", "gateways", "hub", "wire"}
PURE_IN_BASE = {"LogBudget", "LogLine", "Now", "SplitMix64", "allocated_bytes"}
# What starts the program; nothing below names it.
TOP = {"main", "commands", "kinds", "run"}
# The hub knows no contract, the two sides of a contract meet in the hub, and only the top puts all parts together.
FORBIDDEN = {
    ("hub", "feeds"), ("hub", "gateways"), ("feeds", "gateways"), ("gateways", "feeds"),
    ("wire", "hub"), ("wire", "feeds"), ("wire", "gateways"), ("auth", "hub"), ("auth", "feeds"), ("auth", "gateways"),
    ("auth", "admission"), ("admission", "auth"), ("admission", "hub"), ("admission", "gateways"),
    ("reactor", "feeds"), ("reactor", "gateways"), ("reactor", "sources"), ("sources", "reactor"), ("sources", "gateways"),
    ("http", "reactor"), ("http", "sources"), ("telemetry", "reactor"), ("telemetry", "sources"), ("telemetry", "http"),
}
TOKEN = re.compile(
    r"""(?P<comment>//[^\n]*|/\*.*?\*/)|(?P<raw>b?r(?P<hashes>\#*)".*?"(?P=hashes))|(?P<text>b?"(?:\\.|[^"\\])*")"""
    r"""|(?P<char>b?'(?:\\[^']*|[^'\\])')""", re.S | re.X)
TEST = re.compile(r"#\[cfg\((?:all\()?test\b[^\]]*\]\s*(?:#\[[^\]]*\]\s*)*(?:pub(?:\([^)]*\))?\s+)?(mod\s+(\w+)\s*([{;])|\w)")


def without_comments_and_texts(text):
    """Returns the code alone: comments and the contents of literals would look like paths and braces."""
    return TOKEN.sub(lambda found: " " if found["comment"] else '""', text)


def impure(code):
    """Returns what the code names of `base` that a pure module may not use."""
    named = re.findall(r"\bcrate::base::(\w+|\{[^}]*\})", code)
    return set(re.findall(r"\w+", " ".join(named))) - PURE_IN_BASE


def end_of_item(code, start):
    """Returns where the item that begins at `start` ends: behind its block, or behind its semicolon."""
    depth = 0
    for at in range(start, len(code)):
        if code[at] == "{":
            depth += 1
        elif code[at] == "}":
            depth -= 1
            if depth == 0:
                return at + 1
        elif code[at] == ";" and depth == 0:
            return at + 1
    return len(code)


def without_tests(code):
    """Returns (code without items under #[cfg(test)], names of modules under #[cfg(test)] in files of their own)."""
    kept, files, at = [], [], 0
    while found := TEST.search(code, at):
        kept.append(code[at:found.start()])
        if found[3] == ";":
            files.append(found[2])
        at = end_of_item(code, found.start(1))
    return "".join([*kept, code[at:]]), files


def module_path(path):
    """Returns the path of the module in a file of src: src/hub/core.rs is ["hub", "core"]."""
    parts = list(path.relative_to(ROOT / "src").with_suffix("").parts)
    return parts[:-1] if parts[-1] in ("mod", "lib") else parts


def named(code, module, modules):
    """Yields the top-level modules that the code of `module` names."""
    # `crate::{hub::Now, wire}` and `crate::hub`; in the binary the crate has its own name.
    root = "weirgate" if module == ["main"] else "crate"
    for found in re.finditer(rf"\b{root}::(?:(\w+)|\{{)", code):
        if found[1]:
            yield found[1]
        else:
            block = code[found.end():end_of_item(code, found.end() - 1) - 1]
            depth = 0
            for part in re.finditer(r"[{}]|(?:^|(?<=,)|(?<=\{))\s*(\w+)", block):
                depth += {"{": 1, "}": -1}.get(part[0], 0)
                if depth == 0 and part[1]:
                    yield part[1]
    # `super::super::hub` from a module of the second depth.
    for found in re.finditer(r"(?<![\w:])((?:super::)+)(\w+)", code):
        if len(found[1]) // len("super::") == len(module) and found[2] in modules:
            yield found[2]


@functools.cache
def sources():
    """Returns (path, code) of every file of src, without comments and tests."""
    src = ROOT / "src"
    files = {path: without_comments_and_texts(path.read_text()) for path in sorted(src.rglob("*.rs"))}
    tests = set()
    for path, code in files.items():
        folder = path.parent if path.name in ("mod.rs", "lib.rs", "main.rs") else path.with_suffix("")
        for name in without_tests(code)[1]:
            tests |= {folder / f"{name}.rs", folder / name}
    found = []
    for path, code in files.items():
        if path.name == "lib.rs" or path.stem == "tests" or path.stem.endswith("_tests"):
            continue
        if any(test == path or test in path.parents for test in tests) or "tests" in path.parts:
            continue
        found.append((path, without_tests(code)[0]))
    return found


def arrows():
    """Returns {(from, to): [files]} of the source."""
    modules = {path.stem if path.is_file() else path.name for path in (ROOT / "src").iterdir()} - {"lib"}
    found = {}
    for path, code in sources():
        module = module_path(path)
        for name in named(code, module, modules):
            if name in modules and name != module[0]:
                found.setdefault((module[0], name), []).append(path.relative_to(ROOT).as_posix())
    return found


def table(text):
    """Returns {(from, to): (line number, reason)} of the table in a document, or None if there is none."""
    lines = text.splitlines()
    if HEADER not in lines:
        return None
    rows = {}
    start = lines.index(HEADER)
    for number, line in enumerate(lines[start + 2:], start + 3):
        if not line.startswith("|"):
            break
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) != 3:
            sys.exit(f"{DOCUMENT}:{number}: a row of three cells")
        rows[cells[0].strip("`"), cells[1].strip("`")] = (number, cells[2])
    return rows


def is_forbidden(arrow):
    """Returns whether no reason allows this arrow."""
    start, end = arrow
    return arrow in FORBIDDEN or (start in PURE and end not in PURE | {"base"}) or start == "base" or (end in TOP and start not in TOP)


def circles(found):
    """Returns the groups of modules that reach each other, each as a sorted list."""
    reach = {start: {end for begin, end in found if begin == start} for start, _ in found}
    changed = True
    while changed:
        changed = False
        for ends in reach.values():
            further = set().union(*(reach.get(end, set()) for end in ends)) - ends
            ends |= further
            changed = changed or bool(further)
    groups = {tuple(sorted(m for m in reach if m in reach[n] and n in reach[m])) for n in reach if n in reach[n]}
    return sorted(map(list, groups))


def wrong():
    """Yields (file:line, fault) of the table and the source; nothing while there is no table."""
    rows = table((ROOT / DOCUMENT).read_text())
    if rows is None:
        return
    found = arrows()
    for pure in sorted(PURE - {end for arrow in found for end in arrow}):
        yield "scripts/arrows.py:1", f"PURE names a module without arrows: {pure}"
    for arrow, files in sorted(found.items()):
        if is_forbidden(arrow):
            yield files[0], "a forbidden arrow: {} -> {}".format(*arrow)
        elif arrow not in rows:
            yield files[0], f"an arrow that {DOCUMENT} does not list: {arrow[0]} -> {arrow[1]}"
    for path, code in sources():
        if PURE.intersection(module_path(path)[:1]) and (names := impure(code)):
            yield path.relative_to(ROOT).as_posix(), f"a pure module names of base: {', '.join(sorted(names))}"
    for circle in circles(found):
        yield "src", "modules that need each other: {}".format(", ".join(circle))
    for arrow, (number, reason) in rows.items():
        if arrow not in found:
            yield f"{DOCUMENT}:{number}", "no such arrow in src: {} -> {}".format(*arrow)
        if not reason:
            yield f"{DOCUMENT}:{number}", "an arrow without a reason: {} -> {}".format(*arrow)


def main():
    if sys.argv[1:] == ["--print"]:
        rows = table((ROOT / DOCUMENT).read_text()) or {}
        print(HEADER, "| --- | --- | --- |", sep="\n")
        for arrow in sorted(arrows()):
            print("| `{}` | `{}` | {} |".format(*arrow, rows.get(arrow, (0, ""))[1]))
        for arrow in filter(is_forbidden, sorted(arrows())):
            print("forbidden: {} -> {}".format(*arrow), file=sys.stderr)
        for circle in circles(arrows()):
            print("a circle:", ", ".join(circle), file=sys.stderr)
        return
    if sys.argv[1:]:
        sys.exit(__doc__)
    faults = list(wrong())
    for place, fault in faults:
        print(f"{place}: {fault}")
    if faults:
        sys.exit(f"arrows: {len(faults)} to fix")


if __name__ == "__main__":
    main()
