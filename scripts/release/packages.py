#!/usr/bin/env python3
"""The files of an installation, and the packages of it: packages.py deb BINARY FILE|FOLDER

The list of files is `[package.metadata.deb]` of Cargo.toml, for the Debian package, the rpm and the archives alike. What is made
(manual pages, completions, documents, licences) has to be in target/package: scripts/package_files.py makes it.
"""
import gzip
import hashlib
import os
import pathlib
import re
import shutil
import sys
import tempfile
import tomllib

from project import ROOT, TARGET, epoch, glibc, install, output, run, version

MADE = "target/package/"
THIRD_PARTY = "LICENSE-THIRD-PARTY"
# What glibc's libraries are called, and that of the compiler.
OF_GLIBC = {"libc.so.6", "libm.so.6", "ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1"}
OF_GCC = "libgcc_s.so.1"


def metadata():
    """The package in Cargo.toml: (description, settings of the packages)."""
    package = tomllib.loads((ROOT / "Cargo.toml").read_text(encoding="utf-8"))["package"]
    return package["description"], package["metadata"]["deb"]


def installed(binary):
    """The files of an installation: {path without the leading slash: (file, mode)}."""
    files = {}
    for source, target, mode in metadata()[1]["assets"]:
        made = source.removeprefix(MADE)
        if source.endswith("/weirgate") and made == source:
            found = {"weirgate": pathlib.Path(binary)}
        elif "*" in made:
            # What is above the first star stays behind.
            above = TARGET / "package" / made.split("*")[0]
            found = {path.relative_to(above): path for path in (TARGET / "package").glob(made) if path.is_file()}
        else:
            path = TARGET / "package" / made if made != source else ROOT / source
            found = {path.name: path}
        if not found:
            raise SystemExit(f"packages: there is no {source}: run scripts/package_files.py")
        for name, path in found.items():
            files[f"{target}{name}" if target.endswith("/") else target] = (path, int(mode, 8))
    return files


def licences():
    """The licence texts of an installation by name: weirgate's own, and those of what is linked into the program."""
    return {"LICENSE-MIT": ROOT / "LICENSE-MIT", "LICENSE-APACHE": ROOT / "LICENSE-APACHE", THIRD_PARTY: TARGET / "package" / THIRD_PARTY}


def unlicensed(triple, file):
    """The crates that the program has on a kind of machine, and whose licence and texts are not in the file."""
    tree = output(["cargo", "tree", "--locked", "-p", "weirgate", "-e", "normal", "--prefix", "none", "--target", triple])
    # A line of a crate of the workspace has its folder.
    crates = {f"{line.split()[0]} {line.split()[1].removeprefix('v')}" for line in tree.splitlines() if line and str(ROOT) not in line}
    text = file.read_text(encoding="utf-8")
    numbers = {crate: set(listed.split(", ")) for crate, listed in re.findall(r"^(\S+ \S+): .+: (\d[\d, ]*)$", text, re.M)}
    there = set(re.findall(r"^-+\n(\d+): ", text, re.M))
    return sorted(crate for crate in crates if not numbers.get(crate, {"none"}) <= there)


def laid(files, root):
    """Writes the files below a folder, with the time of the commit."""
    for name, (source, mode) in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(source if isinstance(source, bytes) else source.read_bytes())
        path.chmod(mode)
    for folder, _, names in os.walk(root, topdown=False):
        os.chmod(folder, 0o755)
        for name in [*names, "."]:
            os.utime(os.path.join(folder, name), (epoch(), epoch()))


def depends(binary):
    """What Debian's packages of the shared libraries are called."""
    libraries, newest = glibc(binary)
    unknown = set(libraries) - OF_GLIBC - {OF_GCC}
    if unknown:
        raise SystemExit(f"packages: no Debian package is known for {unknown}")
    return [f"libc6 (>= {newest})"] + ["libgcc-s1 (>= 4.2)"] * (OF_GCC in libraries)


def deb(binary, path, architecture):
    """Makes the Debian package."""
    description, about = metadata()
    files = installed(binary)
    zipped = {f"{name}.gz": (gzip.compress(source.read_bytes(), mtime=0), mode)
              for name, (source, mode) in files.items() if "/man/" in name}
    files = {name: entry for name, entry in files.items() if "/man/" not in name} | zipped
    doc = "usr/share/doc/weirgate/"
    files[doc + "copyright"] = (ROOT / about["license-file"][0], 0o644)
    files[doc + THIRD_PARTY] = (licences()[THIRD_PARTY], 0o644)
    files[doc + "changelog.Debian.gz"] = (gzip.compress((ROOT / about["changelog"]).read_bytes(), mtime=0), 0o644)
    data = {name: source if isinstance(source, bytes) else source.read_bytes() for name, (source, _) in files.items()}
    sums = "".join(f"{hashlib.md5(data[name]).hexdigest()}  {name}\n" for name in sorted(data) if f"/{name}" not in about["conf-files"])
    control = {
        "Package": "weirgate", "Version": f"{version()}-1", "Architecture": architecture, "Maintainer": about["maintainer"],
        "Installed-Size": str(sum(len(each) // 1024 + 1 for each in data.values())), "Depends": ", ".join(depends(binary)),
        "Recommends": about["recommends"], "Section": about["section"], "Priority": about["priority"],
        "Description": "\n ".join([description, *about["extended-description"].strip().splitlines()]),
    }
    steps = {script.name: (script, 0o755) for script in (ROOT / about["maintainer-scripts"]).glob("p*")}
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder) / "weirgate"
        control_files = {
            "control": ("".join(f"{key}: {value}\n" for key, value in control.items()).encode(), 0o644),
            "md5sums": (sums.encode(), 0o644), "conffiles": ("".join(f"{name}\n" for name in about["conf-files"]).encode(), 0o644), **steps,
        }
        laid(files | {f"DEBIAN/{name}": entry for name, entry in control_files.items()}, root)
        run(["dpkg-deb", "--root-owner-group", "-Zxz", "--build", root, path], env={**os.environ, "SOURCE_DATE_EPOCH": str(epoch())})


SPEC = """
Name: weirgate
Version: {version}
Release: 1
Summary: {description}
License: MIT OR Apache-2.0
Recommends: ca-certificates
%description
{about}
%global debug_package %{{nil}}
%global __os_install_post %{{nil}}
%global _build_id_links none
%install
cp -a {tree}/. %{{buildroot}}/
# As with the Debian package: nothing is started, and running instances go on with the program they have.
%post
[ ! -d /run/systemd/system ] || systemctl daemon-reload || :
%preun
[ "$1" != 0 ] || [ ! -d /run/systemd/system ] || systemctl stop 'weirgate@*.service' || :
%postun
[ ! -d /run/systemd/system ] || systemctl daemon-reload || :
%files
{files}
"""


def rpm(binary, path, cpu):
    """Makes the package for Fedora, openSUSE and others with rpm."""
    install("rpm")
    description, about = metadata()
    # Debian has a folder of its own for completions of zsh.
    files = {name.replace("zsh/vendor-completions", "zsh/site-functions"): entry for name, entry in installed(binary).items()}
    # Not among the documents: systems in containers often leave those out.
    files |= {f"usr/share/licenses/weirgate/{name}": (path, 0o644) for name, path in licences().items()}

    def kind(name, mode):
        kinds = {"etc/": "%config(noreplace) ", "usr/share/doc/": "%doc ", "usr/share/licenses/": "%license "}
        marked = next((mark for start, mark in kinds.items() if name.startswith(start)), "")
        return f"{marked}%attr({mode:o},root,root) /{name}"

    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        laid(files, folder / "tree")
        spec = folder / "weirgate.spec"
        spec.write_text(SPEC.format(
            version=version(), description=description, about=about["extended-description"].replace("\n.\n", "\n\n"),
            tree=folder / "tree", files="\n".join(kind(name, mode) for name, (_, mode) in sorted(files.items()))))
        settings = {"_topdir": folder / "build", "_buildhost": "localhost", "use_source_date_epoch_as_buildtime": 1,
                    "clamp_mtime_to_source_date_epoch": 1, "_binary_payload": "w9.xzdio"}
        defines = [word for name, value in settings.items() for word in ("--define", f"{name} {value}")]
        run(["rpmbuild", "-bb", "--quiet", "--target", f"{cpu}-linux", *defines, spec],
            env={**os.environ, "SOURCE_DATE_EPOCH": str(epoch()), "LC_ALL": "C"})
        [made] = (folder / "build" / "RPMS").glob("*/*.rpm")
        shutil.move(made, path)


def main():
    if sys.argv[1:2] != ["deb"] or len(sys.argv) != 4:
        sys.exit(__doc__.splitlines()[0])
    binary, path = map(pathlib.Path, sys.argv[2:])
    architecture = output(["dpkg", "--print-architecture"]).strip()
    if path.is_dir():
        path /= f"weirgate_{version()}-1_{architecture}.deb"
    deb(binary.absolute(), path.absolute(), architecture)
    print(path)


if __name__ == "__main__":
    main()
