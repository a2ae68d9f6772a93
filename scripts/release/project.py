"""What the scripts of a release share: the version and its date, the targets, tools, and archives of the same bytes each time."""
import dataclasses
import functools
import gzip
import io
import json
import os
import pathlib
import re
import shutil
import subprocess
import tarfile
import time
import tomllib

ROOT = pathlib.Path(__file__).resolve().parents[2]
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target").absolute()
DIST = pathlib.Path(os.environ.get("DIST") or ROOT / "dist").absolute()
TOOLS = TARGET / "release-tools"
PROFILE = os.environ.get("PROFILE") or "dist"
# Public keys of releases, in the repository; a signature is made for this purpose under this name.
SIGNERS = ROOT / "deploy" / "release" / "signers"
NAMESPACE, SIGNER = "weirgate-release", "releases"
# The public key of a try, in the release folder itself.
TRY_SIGNERS = "THROW-AWAY-SIGNERS"
CHART = ROOT / "deploy" / "helm" / "weirgate"


class Missing(Exception):
    """A part cannot be made on this machine; the text says why."""


@dataclasses.dataclass(frozen=True)
class Target:
    """A kind of machine that a release is built for. `deb` is Debian's name of its processor, of a target with packages."""

    triple: str
    deb: str | None
    # Debian packages to build for it, and to run its programs here.
    needs: tuple[str, ...] = ()
    runner: tuple[str, ...] = ()

    @property
    def cpu(self):
        return self.triple.split("-")[0]

    @property
    def name(self):
        """As in the names of files: x86_64-linux-musl."""
        return self.triple.replace("-unknown", "")

    @property
    def binary(self):
        """Where scripts/dist.sh puts the program."""
        return TARGET / ("" if self.triple == host() else self.triple) / PROFILE.replace("dev", "debug") / "weirgate"


TARGETS = [
    Target("x86_64-unknown-linux-gnu", "amd64"),
    Target("x86_64-unknown-linux-musl", None, ("musl-tools",)),
    Target("aarch64-unknown-linux-gnu", "arm64", ("gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross", "qemu-user"),
           ("qemu-aarch64", "-L", "/usr/aarch64-linux-gnu")),
]


@functools.cache
def host():
    """The triple of this machine."""
    return re.search(r"^host: (\S+)", output(["rustc", "-vV"]), re.M).group(1)


def run(command, **more):
    """Runs a command of the release; its output is shown where it fails."""
    done = subprocess.run([str(word) for word in command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True, errors="replace", **{"cwd": ROOT, **more})
    if done.returncode:
        raise Missing(f"{command[0]} ended with {done.returncode}: {done.stdout[-3000:].strip()}")
    return done.stdout


def output(command, **more):
    """What a command prints on standard output."""
    return subprocess.run([str(word) for word in command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=True, text=True,
                          **{"cwd": ROOT, **more}).stdout


def install(*packages):
    """Installs Debian packages that are missing."""
    run([ROOT / "scripts" / "apt-install.sh", *packages])


def tools():
    """The folder of the Python tools of a release, installed where they are missing."""
    wanted, stamp = ROOT / "scripts" / "release" / "requirements.txt", TOOLS / "stamp"
    if not stamp.exists() or stamp.read_text() != wanted.read_text():
        shutil.rmtree(TOOLS, ignore_errors=True)
        run(["python3", "-m", "venv", TOOLS])
        run([TOOLS / "bin" / "pip", "install", "-q", "--disable-pip-version-check", "-r", wanted])
        stamp.write_text(wanted.read_text())
    return TOOLS / "bin"


@functools.cache
def epoch():
    """The time of everything in a release: that of the commit, seconds."""
    if given := os.environ.get("SOURCE_DATE_EPOCH"):
        return int(given)
    try:
        return int(output(["git", "log", "-1", "--format=%ct"], stderr=subprocess.DEVNULL))
    except (OSError, subprocess.CalledProcessError):
        return 0


def versions():
    """The version as each file that names it has it."""
    def found(name, pattern):
        text = (ROOT / name).read_text(encoding="utf-8")
        return {f"{name}{f' ({n})' if n else ''}": value for n, value in enumerate(re.findall(pattern, text, re.M))} or {name: None}

    return {
        "Cargo.toml": tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]["package"]["version"],
        "clients/js/package.json": json.loads((ROOT / "clients/js/package.json").read_text())["version"],
        **found("clients/python/src/weirgate/__init__.py", r'^__version__ = "(.+)"'),
        **found("deploy/helm/weirgate/Chart.yaml", r'^(?:version|appVersion): "?([^"\n]+)"?'),
        **found("Dockerfile", r'image\.version="(.+?)"'),
        "deploy/debian/changelog": re.match(r"weirgate \((.+)-1\)", (ROOT / "deploy/debian/changelog").read_text()).group(1),
        "CHANGELOG.md": changed()[0],
        "docs/reference/versions.md": found("docs/reference/versions.md", r"^The newest version is (\S+), of")["docs/reference/versions.md"],
    }


def changed():
    """(version, date) of the newest version in the list of changes."""
    return re.search(r"^## (\d+\.\d+\.\d+\S*) \((\d{4}-\d\d-\d\d)\)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M).groups()


def version():
    """The version that is released. All files have to name the same."""
    named = versions()
    if len(set(named.values())) != 1:
        raise SystemExit("release: the files name different versions:\n" + "\n".join(f"  {value}  {name}" for name, value in named.items()))
    return named["Cargo.toml"]


def glibc(binary):
    """(names of the shared libraries, the newest version of glibc that is asked for) of a program for any processor."""
    text = output(["readelf", "--wide", "--dynamic", "--version-info", binary])
    asked = [tuple(map(int, found.split("."))) for found in re.findall(r"Name: GLIBC_([\d.]+)", text)]
    return re.findall(r"\(NEEDED\).*\[(.+)\]", text), ".".join(map(str, max(asked, default=())))


def archive(path, files):
    """Writes a tar.gz of {name in it: (file or bytes, mode)}: sorted, of root, with the time of the commit."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, (source, mode) in sorted(files.items()):
            data = source if isinstance(source, bytes) else pathlib.Path(source).read_bytes()
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode, entry.mtime = len(data), mode, epoch()
            entry.uname = entry.gname = "root"
            tar.addfile(entry, io.BytesIO(data))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(packed.getvalue(), mtime=0))


def iso(seconds):
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
