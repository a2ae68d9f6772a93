#!/usr/bin/env python3
"""Makes what a package has beside the binary and the recipes: package_files.py BINARY [FOLDER]

FOLDER is target/package unless named; what it held before is removed. In it:

- man/: a manual page for weirgate and for each command, from `weirgate man`
- completions/: bash/weirgate, zsh/_weirgate and fish/weirgate.fish, from `weirgate completions`
- doc/: the documents for users with their pictures, recipes and examples. Links among them stay; a link to a file for
  contributors becomes its text, because that file is not in the package
- LICENSE-THIRD-PARTY: licences of what is linked into the binary, from scripts/licences.py

Ends with status 1 if a link leads nowhere in the repository.
"""
import pathlib
import re
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
# Documents and what their readers use; a folder stands for all that is in it.
DOC = ["README.md", "CHANGELOG.md", "SECURITY.md", "docs/README.md", "docs/glossary.md", "docs/guides", "docs/images",
       "docs/reference", "deploy/channels", "deploy/channels-nats", "deploy/compose.channels-nats.yaml", "deploy/compose.channels.yaml", "deploy/compose.demo.yaml",
       "deploy/compose.events.yaml", "deploy/compose.levels.yaml", "deploy/compose.trades.yaml", "deploy/grafana", "deploy/haproxy", "deploy/helm", "deploy/kubernetes", "deploy/nginx",
       "deploy/prometheus", "deploy/systemd", "examples/events_service.py", "examples/feed.py"]
COMPLETIONS = {"bash": "weirgate", "zsh": "_weirgate", "fish": "weirgate.fish"}
FENCE = re.compile(r"^(```.*?^```|    .*?$)", re.M | re.S)
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s#]*)(#[^)\s]*)?\)")


def documents():
    """Returns the paths of all files of DOC, relative to the repository."""
    listed = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *DOC], cwd=ROOT,
                            stdout=subprocess.PIPE)
    if listed.returncode == 0:
        names = [name for name in listed.stdout.decode().split("\0") if name]
    else:
        # A source archive: nothing is in it that is not a file of the repository.
        found = [path for one in DOC for path in ([ROOT / one] if (ROOT / one).is_file() else (ROOT / one).rglob("*"))]
        names = [path.relative_to(ROOT).as_posix() for path in found]
    return sorted({name for name in names if (ROOT / name).is_file()})


def with_links(name, text, inside):
    """Returns the document with links to files of the package alone; adds dead links to the second value."""
    dead = []

    def link(found):
        picture, words, target, _ = found.groups()
        if not target or re.match(r"[a-z]+:", target):
            return found.group()
        path = (ROOT / name).parent.joinpath(target).resolve()
        if not path.exists():
            dead.append(f"{name}: {target}")
        if path.is_relative_to(ROOT):
            there = path.relative_to(ROOT).as_posix()
            if there in inside or any(one.startswith(there.rstrip("/") + "/") for one in inside):
                return found.group()
        return "" if picture else words

    parts = FENCE.split(text)
    # Every second part is code, where nothing is a link.
    parts[::2] = [LINK.sub(link, part) for part in parts[::2]]
    return "".join(parts), dead


def write_documents(folder):
    inside, dead = set(documents()), []
    for name in sorted(inside):
        there = folder / name
        there.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".md"):
            text, of_page = with_links(name, (ROOT / name).read_text(encoding="utf-8"), inside)
            there.write_text(text, encoding="utf-8")
            dead += of_page
        else:
            shutil.copyfile(ROOT / name, there)
    if dead:
        sys.exit("package_files: links that lead nowhere:\n" + "\n".join(dead))


def main():
    binary = pathlib.Path(sys.argv[1]).resolve()
    folder = pathlib.Path(sys.argv[2]) if len(sys.argv) > 2 else ROOT / "target" / "package"
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([binary, "man", "--dir", folder / "man"], check=True)
    for shell, name in COMPLETIONS.items():
        there = folder / "completions" / shell / name
        there.parent.mkdir(parents=True)
        there.write_bytes(subprocess.run([binary, "completions", shell], stdout=subprocess.PIPE, check=True).stdout)
    write_documents(folder / "doc")
    subprocess.run([ROOT / "scripts" / "licences.py", folder / "LICENSE-THIRD-PARTY"], check=True)


if __name__ == "__main__":
    main()
