"""Reads a Dockerfile and a .dockerignore, as far as necessary to know the program of an image without an engine."""
import fnmatch
import json
import shlex


class Stage:
    """A FROM line and the lines of this stage."""

    def __init__(self, base, stages):
        self.base = stages.get(base)
        self.image = base
        self.lines = []

    def own(self, word):
        """The arguments of this stage's instructions called `word`, in order."""
        return [rest for w, rest in self.lines if w == word]

    def every(self, word):
        """All values of `word`, those of the base stages first."""
        return (self.base.every(word) if self.base else []) + self.own(word)

    def last(self, word, default=None):
        found = self.every(word)
        return found[-1] if found else default

    def argv(self, word):
        """An ENTRYPOINT or CMD in its exec form."""
        text = self.last(word)
        return json.loads(text) if text else []

    def healthcheck(self):
        return json.loads(self.last("HEALTHCHECK").partition("CMD ")[2])

    def env(self):
        return dict(pair.split("=", 1) for line in self.every("ENV") for pair in shlex.split(line))

    def copies(self):
        """(from, sources, destination) of each COPY line of this stage; `from` is None for the context."""
        for line in self.own("COPY"):
            words = line.split()
            origin = words.pop(0).removeprefix("--from=") if words[0].startswith("--from=") else None
            yield origin, words[:-1], words[-1]


def stages(dockerfile):
    """The stages by name, in order; a build without --target makes the last."""
    lines = [line for line in dockerfile.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    found, current = {}, None
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        word, _, rest = line.strip().partition(" ")
        if word == "FROM":
            image, _, name = rest.partition(" AS ")
            current = found[name or str(len(found))] = Stage(image, found)
        elif current is not None:
            current.lines.append((word, rest.strip()))
    return found


def in_context(path, dockerignore):
    """Whether a file of the repository reaches the build: the last match of the file or a parent folder decides."""
    parts = path.split("/")
    above = ["/".join(parts[:n]) for n in range(1, len(parts) + 1)]
    kept = True
    for line in dockerignore.splitlines():
        pattern = line.strip()
        if not pattern or pattern.startswith("#"):
            continue
        back, pattern = pattern.startswith("!"), pattern.lstrip("!").strip("/")
        anywhere = pattern.removeprefix("**/")
        names = parts if pattern.startswith("**/") else above
        if any(fnmatch.fnmatchcase(name, anywhere) for name in names):
            kept = back
    return kept
