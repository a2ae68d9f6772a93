#!/usr/bin/env python3
"""Finds knots in src: files that reach each other, so that none can be read alone.

Usage: knots.py [--print]

An arrow leads from a file to each file whose items the first one names, through `use` or by a path; a name that a face
(`mod.rs`) hands on leads to the file that has it. A knot is a group of files that reach each other. Exit status 1 if a knot
has more than KNOT_MAX files, or if more than LARGE_MAX knots have more than LARGE files. The limits only fall. --print
shows each knot with its arrows.
"""
import re
import sys

import arrows

KNOT_MAX, LARGE, LARGE_MAX = 8, 5, 1
USE = re.compile(r"(?:^|\n)\s*(pub(?:\([^)]*\))?\s+)?use\s+([^;]+);")


def unfolded(path):
    """Yields the single paths of `a::{b, c::{d, e}}`, without `as` names."""
    head, brace, rest = path.partition("{")
    if not brace:
        yield re.sub(r"\s+as\s+\w+", "", path).replace(" ", "").replace("\n", "")
        return
    depth, part = 0, ""
    for char in rest.rstrip()[:-1] + ",":
        if char == "," and depth == 0:
            if part.strip():
                yield from unfolded(head.strip() + part.strip())
            part = ""
            continue
        depth += (char == "{") - (char == "}")
        part += char


def absolute(here, path, modules):
    """Returns a path from the crate's root on as a list, or None if the path leads out of the crate."""
    parts = path.split("::")
    if parts[0] == "crate":
        return parts[1:]
    if parts[0] == "self":
        return [*here, *parts[1:]]
    above = list(here)
    while parts[0] == "super":
        above, parts = above[:-1], parts[1:]
    if above != list(here) or (*here, parts[0]) in modules:
        return [*above, *parts]
    return None


def graph():
    """Returns {module: modules that it names}; a module is a tuple of names."""
    code = {tuple(arrows.module_path(path)): text for path, text in arrows.sources()}
    handed_on = {}
    for here, text in code.items():
        for public, path in USE.findall(text):
            for one in unfolded(path) if public else ():
                if target := absolute(here, one, code):
                    handed_on[*here, target[-1]] = target

    def owner(parts, depth=0):
        for end in range(len(parts), 0, -1):
            module = tuple(parts[:end])
            if module in code:
                further = handed_on.get((*module, *parts[end:end + 1]))
                return (further and depth < 6 and owner(further, depth + 1)) or module
        return None

    reached = {}
    for here, text in code.items():
        named = [one for public, path in USE.findall(text) if not public for one in unfolded(path)]
        named += [found + "::_" for found in re.findall(r"\bcrate::[a-z_0-9:]+(?=::\w)", text)]
        owners = (owner(target) for one in named if (target := absolute(here, one, code)))
        reached[here] = {module for module in owners if module and module != here}
    return reached


def main():
    reached = graph()
    # arrows.circles takes pairs, and finds who reaches whom.
    knots = arrows.circles({("::".join(start), "::".join(end)) for start, ends in reached.items() for end in ends})
    knots.sort(key=len, reverse=True)
    if sys.argv[1:] == ["--print"]:
        for knot in knots:
            print(f"{len(knot)} files:")
            for module in knot:
                ends = sorted(end for end in map("::".join, reached[tuple(module.split("::"))]) if end in knot)
                print(f"  {module} -> {', '.join(ends)}")
        return
    if sys.argv[1:]:
        sys.exit(__doc__)
    if len(knots[0]) > KNOT_MAX:
        sys.exit(f"knots: {len(knots[0])} files reach each other, at most {KNOT_MAX} may: {' '.join(knots[0])}")
    if sum(len(knot) > LARGE for knot in knots) > LARGE_MAX:
        sys.exit(f"knots: more than {LARGE_MAX} have more than {LARGE} files: {[len(knot) for knot in knots]}")


if __name__ == "__main__":
    main()
