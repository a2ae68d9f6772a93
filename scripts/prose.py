#!/usr/bin/env python3
"""Counts pronouns and relative words in the prose of Markdown documents, and of comments.

Usage: prose.py [--max 5.0] FILE...

A text full of "one", "those" and "which" points at things where it could name them, and has to be read twice. The script
prints the words per 100 words of prose for each file, then for all files together. Code is not counted: fenced blocks,
indented blocks, inline code. Link targets, bare URLs and HTML comments are not counted either; link texts are. Of a file
in Rust, JavaScript or TypeScript only the comments count, those of documentation included.
With --max the exit status is 1 if the figure of all files together is higher.
"""
import argparse
import re
import sys

WORDS = {"one", "ones", "who", "what", "whose", "them", "which", "those", "whoever", "whom"}
FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
INLINE = re.compile(r"(`+)(?!`).+?(?<!`)\1(?!`)")
COMMENT = re.compile(r"\s*(?://[/!]?|/?\*+/?(?=\s|$)) ?(.*)")
SOURCES = (".rs", ".js", ".mjs", ".ts")
LEFT_OUT = re.compile(r"<!--.*?-->|\]\([^)\s]*\)|https?://\S+")


def prose_lines(text):
    """Yields the lines of prose, without code, link targets and comments."""
    fence, before = None, "blank"
    for line in text.splitlines():
        if fence:
            closes = FENCE.match(line)
            if closes and closes.group(1).startswith(fence) and not line.strip().strip("`~"):
                fence, before = None, "code"
            continue
        if opens := FENCE.match(line):
            fence = opens.group(1)
            continue
        if not line.strip():
            before = before if before == "code" else "blank"
            continue
        # An indented line is code, unless it continues a paragraph or an item of a list.
        if re.match(r" {4}|\t", line) and before != "text":
            before = "code"
            continue
        before = "blank" if line.startswith("#") else "text"
        yield LEFT_OUT.sub(" ", INLINE.sub(" ", line))


def comments(text):
    """Returns the comments of a source text as Markdown: one line for each line of comment."""
    found = map(COMMENT.match, text.splitlines())
    return "\n".join(line[1] if line else "" for line in found)


def count(text):
    """Returns (pronouns and relative words, words) of a Markdown text."""
    words = [word.lower() for line in prose_lines(text) for word in re.findall(r"[A-Za-z']+", line)]
    return sum(word in WORDS for word in words), len(words)


def per_hundred(hits, words):
    return 100 * hits / max(1, words)


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--max", type=float, metavar="N", help="the highest figure allowed for all files together")
    arguments.add_argument("files", nargs="+", metavar="FILE")
    arguments = arguments.parse_args()
    total_hits = total_words = 0
    for path in arguments.files:
        with open(path, encoding="utf-8") as file:
            text = file.read()
        hits, words = count(comments(text) if path.endswith(SOURCES) else text)
        total_hits, total_words = total_hits + hits, total_words + words
        print(f"{per_hundred(hits, words):5.1f}  {words:6d} words  {path}")
    total = per_hundred(total_hits, total_words)
    print(f"{total:5.1f}  {total_words:6d} words  all")
    if arguments.max is not None and total > arguments.max:
        sys.exit(f"prose: {total:.1f} pronouns and relative words in 100 words; allowed are {arguments.max}")


if __name__ == "__main__":
    main()
