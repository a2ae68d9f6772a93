"""A release without a build: versions and dates agree, packages have what they should, signatures are checked, workflows call what is there.

`make release` makes all of it, `make release-test` installs and starts it.
"""
import os
import re
import subprocess
import sys
import tarfile

import pytest
import yaml
from processes import ROOT, system_binary, weirgate_binary
from recipes import run

sys.path[:0] = [str(ROOT / "scripts" / "release"), str(ROOT / "scripts")]
import licences  # noqa: E402
import make  # noqa: E402
import packages  # noqa: E402
import project  # noqa: E402

WORKFLOWS = {path.name: yaml.safe_load(path.read_text()) for path in (ROOT / ".github" / "workflows").glob("*.yml")}


def test_all_files_name_the_same_version_and_date():
    named = project.versions()
    assert len(named) >= 10 and set(named.values()) == {project.version()}
    version, date = project.changed()
    assert f"The newest version is {version}, of {date}." in (ROOT / "docs/reference/versions.md").read_text()
    day = subprocess.run(["date", "-u", "-d", date, "+%a, %d %b %Y"], env={"LC_ALL": "C"}, text=True, check=True, stdout=subprocess.PIPE)
    assert f"  {day.stdout.strip()} 00:00:00 +0000" in (ROOT / "deploy/debian/changelog").read_text()
    assert "\n## Unreleased\n" in (ROOT / "CHANGELOG.md").read_text()


def test_another_version_in_a_file_stops_a_release(monkeypatch):
    monkeypatch.setattr(project, "versions", lambda: {"Cargo.toml": "1.0.0", "Dockerfile": "0.9.0"})
    with pytest.raises(SystemExit, match="0.9.0  Dockerfile"):
        project.version()


def test_an_archive_has_the_same_bytes_each_time(tmp_path):
    (tmp_path / "a").write_text("text")
    for name in ("one.tgz", "two.tgz"):
        project.archive(tmp_path / name, {"x/b": (b"more", 0o755), "x/a": (tmp_path / "a", 0o644)})
        os.utime(tmp_path / "a", (1, 1))
    assert (tmp_path / "one.tgz").read_bytes() == (tmp_path / "two.tgz").read_bytes()
    with tarfile.open(tmp_path / "one.tgz") as tar:
        about = [(entry.name, entry.mode, entry.mtime, entry.uid, entry.uname) for entry in tar]
    assert about == [("x/a", 0o644, project.epoch(), 0, "root"), ("x/b", 0o755, project.epoch(), 0, "root")]


@pytest.fixture(scope="module")
def deb(tmp_path_factory):
    """The Debian package, with a small program of this machine in place of weirgate."""
    folder, patch = tmp_path_factory.mktemp("deb"), pytest.MonkeyPatch()
    done = run([sys.executable, ROOT / "scripts" / "package_files.py", weirgate_binary(), folder / "package"], dict(os.environ))
    assert done == (0, ""), done
    patch.setattr(packages, "TARGET", folder)
    packages.deb("/bin/true", folder / "weirgate.deb", "amd64")
    patch.undo()
    return folder / "weirgate.deb"


def test_the_debian_package_says_what_it_is_and_needs(deb):
    dpkg = system_binary("dpkg-deb", "dpkg")
    fields = dict(re.findall(r"^ ?([A-Z][\w-]*): (.*)$", run([dpkg, "--field", deb], dict(os.environ))[1], re.M))
    libraries, newest = project.glibc("/bin/true")
    assert libraries == ["libc.so.6"] and re.fullmatch(r"2\.\d+", newest)
    assert (fields["Package"], fields["Version"], fields["Architecture"]) == ("weirgate", f"{project.version()}-1", "amd64")
    assert fields["Depends"] == f"libc6 (>= {newest})"
    assert int(fields["Installed-Size"]) > 100


def test_the_debian_package_has_every_file_with_its_mode_and_sum(deb, tmp_path):
    dpkg = system_binary("dpkg-deb", "dpkg")
    listed = run([dpkg, "--contents", deb], dict(os.environ))[1].splitlines()
    modes = {line.split()[5].removeprefix("./"): (line[:10], line.split()[1]) for line in listed}
    assert modes["usr/bin/weirgate"] == ("-rwxr-xr-x", "root/root")
    # Its values are secrets.
    assert modes["etc/default/weirgate"] == ("-rw-r-----", "root/root")
    for name in ["share/man/man1/weirgate-levels.1.gz", "share/doc/weirgate/copyright", "share/doc/weirgate/changelog.Debian.gz",
                 "share/doc/weirgate/LICENSE-THIRD-PARTY", "share/bash-completion/completions/weirgate", "lib/systemd/system/weirgate@.service"]:
        assert modes[f"usr/{name}"][0] == "-rw-r--r--", name
    assert run([dpkg, "--raw-extract", deb, tmp_path / "all"], dict(os.environ))[0] == 0
    checked = subprocess.run(["md5sum", "--check", "--strict", "--quiet", "DEBIAN/md5sums"], cwd=tmp_path / "all")
    assert checked.returncode == 0
    summed = {line.split("  ")[1] for line in (tmp_path / "all/DEBIAN/md5sums").read_text().splitlines()}
    files = {name for name, (mode, _) in modes.items() if mode[0] == "-"}
    assert files - summed == {"etc/default/weirgate"}, "a file that an operator changes has no sum"
    assert (tmp_path / "all/DEBIAN/conffiles").read_text() == "/etc/default/weirgate\n"


def test_the_licences_of_all_crates_are_in_one_file_the_same_each_time(deb, tmp_path):
    file, changed = tmp_path / "licences", tmp_path / "changed"
    assert run([sys.executable, ROOT / "scripts" / "licences.py", file], dict(os.environ)) == (0, "")
    text = file.read_text()
    assert text == (deb.parent / "package" / packages.THIRD_PARTY).read_text() and str(ROOT) not in text
    assert [packages.unlicensed(target.triple, file) for target in project.TARGETS] == [[]] * len(project.TARGETS)
    # Notices a line that is missing, and a text.
    version, numbers = re.search(r"^slab (\S+): MIT: (\d+)$", text, re.M).groups()
    for old, new in [(f"\nslab {version}:", "\nslob 1.0.0:"), (f"-\n{numbers}: ", "-\n")]:
        assert text.count(old) == 1
        changed.write_text(text.replace(old, new))
        assert packages.unlicensed(project.TARGETS[0].triple, changed) == [f"slab {version}"]


def test_a_file_of_authors_or_a_notice_is_no_text_of_a_licence(tmp_path):
    def crate(name, repository, **files):
        (tmp_path / name).mkdir()
        for file, text in files.items():
            (tmp_path / name / file).write_text(text)
        return {"name": name, "version": "1.0.0", "license": "MIT", "repository": repository, "manifest_path": tmp_path / name / "Cargo.toml"}
    part, whole = crate("part", "r", AUTHORS="ann", NOTICE="by ann"), crate("whole", "r", LICENSE="the text", AUTHORS="bob")
    assert licences.shipped(part, [part, whole]) == {
        "LICENSE of whole 1.0.0": "the text", "AUTHORS of whole 1.0.0": "bob", "AUTHORS of part 1.0.0": "ann", "NOTICE of part 1.0.0": "by ann"}
    assert set(licences.shipped(whole, [part, whole])) == {"LICENSE of whole 1.0.0", "AUTHORS of whole 1.0.0"}
    alone = crate("alone", None, AUTHORS="ann", NOTICE="by ann")
    with pytest.raises(SystemExit, match="alone 1.0.0 ships no text of its licence, MIT"):
        licences.shipped(alone, [alone, whole])


def test_a_root_directory_of_its_own_leaves_the_machine_alone():
    for script in (ROOT / "deploy" / "debian").glob("p*"):
        text = script.read_text()
        assert len(re.findall("^ *systemctl", text, re.M)) == text.count('[ -z "$DPKG_ROOT" ] && [ -d /run/systemd/system ]'), script
        assert not re.search(r"rm .* /etc", text), script


@pytest.fixture
def dist(tmp_path, monkeypatch):
    """A small release folder, made by make.py."""
    monkeypatch.setattr(make, "DIST", tmp_path / "dist")
    monkeypatch.setattr(make, "install", lambda *_: None)
    monkeypatch.delenv("RELEASE_KEY", raising=False)
    (tmp_path / "dist").mkdir()
    (tmp_path / "dist" / "file").write_text("a part")
    assert make.sums() == 1
    return tmp_path / "dist"


def test_a_try_is_signed_with_a_key_that_is_no_key_of_releases(dist):
    system_binary("ssh-keygen", "openssh-client")
    make.sign()
    signers = dist / project.TRY_SIGNERS
    make.verify(signers)
    assert "file\n" in (dist / "SHA256SUMS").read_text() and not list(dist.glob("key*"))
    for text, by in [(b"changed", signers), (None, project.SIGNERS)]:
        with pytest.raises(project.Missing, match="the signature is not that of a key"):
            make.verify(by, text)


def test_a_release_is_signed_with_the_key_whose_public_half_is_in_the_repository(dist, tmp_path, monkeypatch):
    key = tmp_path / "key"
    subprocess.run([system_binary("ssh-keygen", "openssh-client"), "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    monkeypatch.setenv("RELEASE_KEY", str(key))
    with pytest.raises(project.Missing, match="the signature is not that of a key"):
        make.sign()
    signers = tmp_path / "signers"
    signers.write_text(project.SIGNERS.read_text() + f'releases namespaces="weirgate-release" {key.with_suffix(".pub").read_text()}')
    monkeypatch.setattr(make, "SIGNERS", signers)
    (dist / "SHA256SUMS.sig").unlink()
    make.sign()
    assert not (dist / project.TRY_SIGNERS).exists()


def test_the_repository_has_public_keys_alone():
    lines = [line for line in project.SIGNERS.read_text().splitlines() if not line.startswith("#")]
    assert lines and all(re.fullmatch(r'releases namespaces="weirgate-release" ssh-ed25519 [A-Za-z0-9+/=]+', line) for line in lines)
    # Split, so that this file does not find itself.
    found = subprocess.run(["git", "grep", "-l", "BEGIN OPENSSH " "PRIVATE KEY"], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert found.stdout == ""


@pytest.mark.parametrize("strict", [True, False])
def test_what_cannot_be_made_is_named_and_fails_a_strict_release(dist, monkeypatch, capsys, strict):
    def missing():
        raise project.Missing("no compiler for it")
    monkeypatch.setattr(make, "PARTS", {"program": missing})
    monkeypatch.setattr(make, "STRICT", strict)
    monkeypatch.setattr(make, "left_out", [])
    monkeypatch.setattr(make, "output", lambda *_: "")
    monkeypatch.setattr(make, "version", lambda: "1.2.3")
    monkeypatch.setattr(sys, "argv", ["make.py"])
    with pytest.raises(SystemExit) as ended:
        make.main()
    said = capsys.readouterr().out.splitlines()
    assert ended.value.code == strict
    assert "release: left out: program: no compiler for it" in said[-2 if strict else -1:]


def steps(name):
    """(job, its steps) of a workflow with a single job."""
    [job] = WORKFLOWS[name]["jobs"].values()
    return job, job["steps"]


def test_the_workflows_run_what_there_is():
    assert set(WORKFLOWS) == {"ci.yml", "release.yml"}
    said = {name: "\n".join(step.get("run", "") for step in steps(name)[1]) for name in WORKFLOWS}
    assert "bash .ci/run" in said["ci.yml"] and (ROOT / ".ci" / "run").is_file()
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    called = re.findall(r"^(?:\w+=\S+ )*make (.+)$", said["release.yml"].replace("\n  ", "\n"), re.M)
    assert called == ["release", "release-test"] and set(called) <= targets
    job, _ = steps("release.yml")
    assert job["env"]["RELEASE_STRICT"] == "1", "a part that is missing fails the workflow"
    assert WORKFLOWS["release.yml"][True]["push"]["tags"] == ["v*"], "`on` is a truth of YAML 1.1"
    rust = re.search(r"^ARG RUST=(\S+)", (ROOT / "Dockerfile").read_text(), re.M).group(1)
    for name, workflow in WORKFLOWS.items():
        job, all_steps = steps(name)
        assert job["container"] == f"rust:{rust}-bookworm", "the compiler of the images"
        assert workflow["permissions"] == {"contents": "read"} and job["timeout-minutes"] <= 180
        # A key is in the environment of the step that signs, and nowhere else.
        holders = [step for step in all_steps if "secrets." in str(step)]
        assert len(holders) == (name == "release.yml")
        for step in all_steps:
            assert ("run" in step) != ("uses" in step)
            assert "${{" not in step.get("run", ""), "an expression in a script is a way in"
            assert "uses" not in step or re.fullmatch(r"actions/[a-z-]+@v\d+", step["uses"])
