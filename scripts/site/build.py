#!/usr/bin/env python3
"""Makes target/site from the documents (make docs installs what it needs).

The pages keep their places, so links between them stay as they are. A linked file of another kind, such as a source file
or a recipe, gets a page with its text. A link that leads nowhere ends the program with status 1.
"""
import pathlib
import re
import shutil
import subprocess
import sys

import yaml

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
TARGET = ROOT / "target"
SOURCE = TARGET / "site-source"
# Beside everything in docs/.
PAGES = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "PERF.md", "SECURITY.md", "CHANGELOG.md", "clients/js/README.md",
         "clients/python/README.md", "loadtest/peers/README.md"]
PICTURES = {".png", ".svg", ".webp"}
LANGUAGES = {".rs": "rust", ".py": "python", ".js": "javascript", ".mjs": "javascript", ".ts": "typescript", ".yaml": "yaml",
             ".yml": "yaml", ".toml": "toml", ".sh": "bash", ".html": "html", ".json": "json", ".jsx": "jsx"}
# Of the pages: what makes their tables fit, and the mark.
OWN = ["tables.css", "tables.js", "mark.svg"]
SETTINGS = (HERE / "mkdocs.yml").read_text()
DESCRIPTION = re.search(r"^site_description: (.*)$", SETTINGS, re.M)[1]
FENCE = re.compile(r"^(```.*?^```|    .*?$)", re.M | re.S)
LINK = re.compile(r"(\]\()([^)\s#]+)(#[^)]*)?(\))")
PICTURE = re.compile(r'(?:src|srcset)="(docs/images/[^"]+)"')


class Pages:
    """The files of the site: those that were asked for, and those that a link of them names."""

    def __init__(self):
        self.done, self.dead = set(), []

    def page(self, path):
        """Copies a document, with its links turned to what the site has."""
        if path in self.done:
            return
        self.done.add(path)
        text = path.read_text()
        if path == ROOT / "README.md":
            # The name of the page is that of the site: the browser's tab would show the name twice.
            text = f"---\ntitle: {DESCRIPTION}\n---\n{text}"
        for picture in PICTURE.findall(text):
            self.copy(path.parent / picture)
        parts = FENCE.split(text)
        # Every second part is code, where nothing is a link.
        parts[::2] = [LINK.sub(lambda link: self.link(path, link), part) for part in parts[::2]]
        self.write(path, "".join(parts))

    def link(self, page, link):
        begin, target, anchor, end = link.groups()
        if re.match(r"[a-z]+:", target):
            return link.group()
        path = (page.parent / target).resolve()
        if not path.exists():
            self.dead.append(f"{page.relative_to(ROOT)}: {target}")
        elif path.is_dir():
            # A folder is no page: its README, or nothing to follow.
            if (path / "README.md").exists():
                self.page(path / "README.md")
                return f"{begin}{target.rstrip('/')}/README.md{anchor or ''}{end}"
            return "]"
        elif any(part.startswith(".") for part in path.relative_to(ROOT).parts):
            # No page can be in a hidden folder.
            return "]"
        elif path.suffix == ".md":
            self.page(path)
        elif path.suffix in PICTURES:
            self.copy(path)
        else:
            self.code(path)
            return f"{begin}{target}.md{end}"
        return link.group()

    def copy(self, path):
        there = SOURCE / path.relative_to(ROOT)
        there.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, there)

    def code(self, path):
        """A page with the text of a file; the search leaves it out."""
        if path in self.done:
            return
        self.done.add(path)
        name = path.relative_to(ROOT)
        language = LANGUAGES.get(path.suffix, "text")
        page = f"---\nsearch:\n  exclude: true\n---\n# {name}\n\n````{language}\n{path.read_text()}\n````\n"
        self.write(path.with_name(path.name + ".md"), page)

    def write(self, path, text):
        there = SOURCE / path.relative_to(ROOT)
        there.parent.mkdir(parents=True, exist_ok=True)
        there.write_text(text)


def listed():
    """Yields the lines of docs/README.md, then those of the list for contributors as a last section, each with its folder."""
    docs = ROOT / "docs"
    for line in (docs / "README.md").read_text().splitlines():
        yield line, docs
    for line in (docs / "contributing" / "README.md").read_text().splitlines():
        yield "#" * line.startswith("#") + line, docs / "contributing"


def navigation():
    """The order of the lists of documents: headings, and the links in the first cell of each row, by the titles of the pages."""
    nav, group, section = [{"weirgate": "README.md"}], None, None
    for line, folder in listed():
        level, _, name = line.partition(" ")
        if level == "##":
            group = section = []
            nav.append({name: group})
        elif level == "###":
            section = []
            group.append({name: section})
        elif line.startswith("| [") and section is not None:
            for target in re.findall(r"\]\(([^)]+)\)", line.split(" | ")[0]):
                path = (folder / target).resolve()
                title = re.search(r"^# (.+)$", path.read_text(), re.M)[1].replace("`", "")
                section.append({title: str(path.relative_to(ROOT))})
    # What has no list of pages is a part of docs/README.md.
    return [{name: pages or "docs/README.md"} for group in nav for name, pages in group.items()]


def build():
    shutil.rmtree(SOURCE, ignore_errors=True)
    pages = Pages()
    for path in [*(ROOT / page for page in PAGES), *sorted((ROOT / "docs").rglob("*.md"))]:
        pages.page(path)
    for _, target, _, _ in LINK.findall((ROOT / "llms.txt").read_text()):
        if not (ROOT / target).exists():
            pages.dead.append(f"llms.txt: {target}")
    if pages.dead:
        sys.exit("site: links that lead nowhere:\n" + "\n".join(pages.dead))
    for name in OWN:
        shutil.copyfile(HERE / name, SOURCE / name)
    settings = SETTINGS + yaml.safe_dump({"nav": navigation()}, allow_unicode=True)
    # Its folders are beside it.
    (TARGET / "mkdocs.yml").write_text(settings)
    done = subprocess.run([sys.executable, "-m", "zensical", "build", "--clean", "--strict", "-f", "mkdocs.yml"], cwd=TARGET)
    if done.returncode:
        sys.exit(done.returncode)
    shutil.copyfile(ROOT / "llms.txt", TARGET / "site" / "llms.txt")
    print(f"site: {len(pages.done)} pages in target/site. The search works over HTTP only: run")
    print("    python3 -m http.server -d target/site -b 127.0.0.1 8008\nand open http://127.0.0.1:8008/")


if __name__ == "__main__":
    build()
