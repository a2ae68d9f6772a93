#!/usr/bin/env python3
"""Makes dist/, all that a release has: make.py [PART...]

Parts, all unless some are named: source, program, js, python, chart, sbom. A part that this machine cannot make is left out, and a
last line says which and why; with RELEASE_STRICT=1 such a line is a failure, and so is a changed file or a missing key.

RELEASE_KEY=FILE signs the list of sums; the public half has to be in deploy/release/signers. Without it a key is made for this one
run and thrown away: its public half is dist/THROW-AWAY-SIGNERS, which nobody should trust. NO_BUILD=1 takes the programs that
are built. PROFILE is dist unless set.
"""
import gzip
import hashlib
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

import packages
from project import (CHART, DIST, NAMESPACE, PROFILE, ROOT, SIGNER, SIGNERS, TARGET, TARGETS, TRY_SIGNERS, Missing, archive, changed, epoch,
                     glibc, host, install, iso, output, run, tools, version)

STRICT = os.environ.get("RELEASE_STRICT") == "1"
left_out = []


def say(text):
    print(f"release: {text}", flush=True)


def attempt(what, make):
    """Makes a part, or notes why it is left out."""
    try:
        make()
    except (Missing, OSError, subprocess.CalledProcessError) as error:
        left_out.append(f"{what}: {error}")
        say(f"left out: {left_out[-1]}")


def build(target):
    """Builds the program of a target."""
    if not os.environ.get("NO_BUILD"):
        install(*target.needs)
        if target.triple != host():
            run(["rustup", "target", "add", target.triple])
        run([ROOT / "scripts" / "dist.sh", *([] if target.triple == host() else [target.triple])])
    if not target.binary.exists():
        raise Missing(f"no {target.binary}")


def program():
    """The program for each target: an archive, and packages. The pages and completions are the same for all."""
    if host() != TARGETS[0].triple:
        raise Missing(f"made on {TARGETS[0].triple}, and this is {host()}")
    build(TARGETS[0])
    run([ROOT / "scripts" / "package_files.py", TARGETS[0].binary, TARGET / "package"])
    pages = {name.removeprefix("usr/"): entry for name, entry in packages.installed(TARGETS[0].binary).items()
             if re.match("usr/share/(?!doc/)", name)}
    archive(DIST / f"weirgate-{version()}-man-completions.tar.gz", {f"weirgate-{version()}/{name}": entry for name, entry in pages.items()})
    for target in TARGETS:
        attempt(target.triple, lambda: packed(target))


def packed(target):
    if target != TARGETS[0]:
        build(target)
    files = {name.removeprefix("usr/"): entry for name, entry in packages.installed(target.binary).items()}
    licences = packages.licences()
    if "musl" in target.triple:
        # rustc links its own copy of musl into the program, and brings no text; Debian's is of a neighbouring version.
        licences["LICENSE-musl"] = pathlib.Path("/usr/share/doc/musl/copyright")
    files |= {f"share/licenses/weirgate/{name}": (path, 0o644) for name, path in licences.items()}
    name = f"weirgate-{version()}-{target.name}"
    archive(DIST / f"{name}.tar.gz", {f"{name}/{path}": entry for path, entry in files.items()})
    needs = glibc(target.binary)[1]
    say(f"{target.triple}: {f'needs glibc {needs}' if needs else 'needs no C library'}, {target.binary.stat().st_size} bytes")
    if target.deb:
        packages.deb(target.binary, DIST / f"weirgate_{version()}-1_{target.deb}.deb", target.deb)
        attempt(f"rpm {target.cpu}", lambda: packages.rpm(target.binary, DIST / f"weirgate-{version()}-1.{target.cpu}.rpm", target.cpu))


def source():
    """The source as the repository has it."""
    tar = subprocess.run(["git", "archive", "--format=tar", f"--prefix=weirgate-{version()}/", "HEAD"], cwd=ROOT, check=True,
                         stdout=subprocess.PIPE).stdout
    (DIST / f"weirgate-{version()}-source.tar.gz").write_bytes(gzip.compress(tar, mtime=0))


def js():
    """The JavaScript client, as npm packs it."""
    (DIST / "npm").mkdir()
    output(["npm", "pack", "--silent", "--offline", "--pack-destination", DIST / "npm"], cwd=ROOT / "clients" / "js")


def python():
    """The Python client: a wheel, and its source."""
    run([tools() / "python", "-m", "build", "--no-isolation", "--outdir", DIST / "python", ROOT / "clients" / "python"],
        env={**os.environ, "SOURCE_DATE_EPOCH": str(epoch())})


def chart():
    """The Helm chart, and the index of a folder that can be served as a repository of charts."""
    run([tools() / "helm", "lint", "--strict", CHART])
    files = {f"weirgate/{path.relative_to(CHART)}": (path, 0o644) for path in CHART.rglob("*") if path.is_file()}
    archive(DIST / "helm" / f"weirgate-{version()}.tgz", files)
    run([tools() / "helm", "repo", "index", DIST / "helm"])
    index = DIST / "helm" / "index.yaml"
    index.write_text(re.sub(r'((?:created|generated): )"[^"]+"', rf'\1"{iso(epoch())}"', index.read_text()))


def sbom():
    """What is built into the program."""
    run([ROOT / "scripts" / "sbom.sh"])
    shutil.copy(TARGET / "weirgate.cdx.json", DIST / f"weirgate-{version()}.cdx.json")


def sums():
    """The sums of all files."""
    files = sorted(path for path in DIST.rglob("*") if path.is_file() and path.name != TRY_SIGNERS)
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(DIST)}\n" for path in files]
    (DIST / "SHA256SUMS").write_text("".join(lines))
    return len(lines)


def sign():
    """Signs the list of sums with the key of releases, or with one that is thrown away."""
    install("openssh-client")
    with tempfile.TemporaryDirectory() as folder:
        key, signers = os.environ.get("RELEASE_KEY"), SIGNERS
        if not key:
            if STRICT:
                raise Missing("no RELEASE_KEY")
            key, signers = pathlib.Path(folder) / "key", DIST / TRY_SIGNERS
            run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "thrown away", "-f", key])
            public = " ".join(key.with_suffix(".pub").read_text().split()[:2])
            signers.write_text(f'# For a try. The key of releases is in the repository.\n{SIGNER} namespaces="{NAMESPACE}" {public}\n')
            say("no RELEASE_KEY: signed with a key that is thrown away. This is a try, and no release")
        run(["ssh-keygen", "-q", "-Y", "sign", "-f", pathlib.Path(key).absolute(), "-n", NAMESPACE, DIST / "SHA256SUMS"])
    verify(signers)


def verify(signers, text=None):
    """Checks the signature of the sums, or of another text in their place."""
    checked = subprocess.run(["ssh-keygen", "-Y", "verify", "-f", signers, "-I", SIGNER, "-n", NAMESPACE, "-s", DIST / "SHA256SUMS.sig"],
                             input=text or (DIST / "SHA256SUMS").read_bytes(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if checked.returncode:
        raise Missing(f"the signature is not that of a key in {signers}: {checked.stdout.decode().strip()}")


PARTS = {"source": source, "program": program, "js": js, "python": python, "chart": chart, "sbom": sbom}


def main():
    wanted = sys.argv[1:] or list(PARTS)
    if unknown := set(wanted) - set(PARTS):
        sys.exit(f"release: no part {unknown}; parts are {' '.join(PARTS)}")
    say(f"weirgate {version()} of {changed()[1]}, profile {PROFILE}")
    if output(["git", "status", "--porcelain"]):
        say("of files that are not committed")
        if STRICT:
            sys.exit("release: commit first")
    shutil.rmtree(DIST, ignore_errors=True)
    DIST.mkdir()
    for name in wanted:
        attempt(name, PARTS[name])
    count = sums()
    attempt("signature", sign)
    say(f"{count} files in {DIST}")
    for line in left_out:
        say(f"left out: {line}")
    sys.exit(bool(STRICT and left_out))


if __name__ == "__main__":
    main()
