#!/usr/bin/env python3
"""Writes the licences of what is linked into the program: licences.py FILE

First a list of all crates of TRIPLES with version, licence and the numbers of its texts, then the texts, each once, as the crates
ship them, and at the end what the compiler says of its standard library. One text for all machines, since their crates differ by
one or two. The same Cargo.lock and compiler give the same bytes. Needs the sources of the crates, which cargo fetches where they are missing.
"""
import html
import json
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
# What releases and images are built for.
TRIPLES = ["x86_64-unknown-linux-gnu", "x86_64-unknown-linux-musl", "aarch64-unknown-linux-gnu", "aarch64-unknown-linux-musl"]
# The texts in a crate, also of code that it has from others, in folders further down.
LICENCE = re.compile(r"(un)?licen[cs]e|copying|copyright", re.I)
# They go with a licence, and are none. AUTHORS: some texts point there for the names.
BESIDE = re.compile(r"notice|authors", re.I)
CODE = {".rs", ".c", ".h", ".py", ".go", ".sh"}
HEAD = """Licences of what is linked into weirgate

weirgate itself is under MIT or Apache-2.0, at your option. Below are the crates of others in it, or that made code of it, each with
its licence and the numbers of its texts. The texts follow, then what the Rust standard library says of itself.
"""


def cargo(*words):
    # Nothing of a wait for another cargo.
    return subprocess.run(["cargo", "--quiet", *words], cwd=ROOT, stdout=subprocess.PIPE, check=True, text=True).stdout


def crates():
    """(the crates of others that the program depends on, those and all others of the workspace), as `cargo metadata` has them."""
    metadata = json.loads(cargo("metadata", "--locked", "--format-version", "1", *(f"--filter-platform={triple}" for triple in TRIPLES)))
    # The metadata has the tests' crates too.
    tree = cargo("tree", "--locked", "-p", "weirgate", "-e", "normal", "--prefix", "none", *(f"--target={triple}" for triple in TRIPLES))
    linked = {tuple(line.split()[:2]) for line in tree.splitlines() if line}
    others = sorted((crate for crate in metadata["packages"] if crate["source"]), key=lambda crate: (crate["name"], crate["version"]))
    return [crate for crate in others if (crate["name"], f"v{crate['version']}") in linked], others


def texts(crate, name):
    """The files of a crate whose names begin like `name`: {where: text}."""
    folder = pathlib.Path(crate["manifest_path"]).parent
    found = sorted(path for path in folder.rglob("*") if name.match(path.name) and path.suffix not in CODE and path.is_file())
    of_crate = f"of {crate['name']} {crate['version']}"
    return {f"{path.relative_to(folder).as_posix()} {of_crate}": path.read_text(encoding="utf-8") for path in found}


def shipped(crate, others):
    """The licence files of a crate, or those of a crate of the same repository, because some authors leave them out of a part; and what
    either has beside them."""
    same = [other for other in others if crate["repository"] and other["repository"] == crate["repository"]]
    for each in [crate, *same]:
        if found := texts(each, LICENCE):
            return {**found, **texts(each, BESIDE), **texts(crate, BESIDE)}
    sys.exit(f"licences: {crate['name']} {crate['version']} ships no text of its licence, {crate['license']}, and neither does its repository")


def of_library():
    """What the compiler says of the standard library and the crates in it, which is HTML."""
    sysroot = subprocess.run(["rustc", "--print", "sysroot"], cwd=ROOT, stdout=subprocess.PIPE, check=True, text=True).stdout.strip()
    page = pathlib.Path(sysroot) / "share" / "doc" / "rust" / "COPYRIGHT-library.html"
    if not page.exists():
        sys.exit(f"licences: no {page}: a compiler that rustup installs has it")
    body = page.read_text(encoding="utf-8").split("<body>")[1]
    text = html.unescape(re.sub(r"</?[a-z][^>]*>", "", body))
    return re.sub(r"\n\s*\n", "\n\n", text).strip()


def main():
    wanted, others = crates()
    # By the words of a text: {words: (number, text, where it is)}.
    numbered, lines = {}, []
    for crate in wanted:
        numbers = set()
        for where, text in shipped(crate, others).items():
            number, _, places = numbered.setdefault(" ".join(text.split()), (len(numbered) + 1, text, []))
            numbers.add(number)
            if where not in places:
                places.append(where)
        lines.append(f"{crate['name']} {crate['version']}: {crate['license']}: {', '.join(map(str, sorted(numbers)))}")
    parts = [HEAD, *lines]
    for number, text, places in numbered.values():
        parts += ["", "-" * 100, f"{number}: {', '.join(places)}", "", "\n".join(line.rstrip() for line in text.strip("\n").splitlines())]
    parts += ["", "-" * 100, of_library(), ""]
    file = pathlib.Path(sys.argv[1])
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(parts), encoding="utf-8")


if __name__ == "__main__":
    main()
