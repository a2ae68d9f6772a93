#!/usr/bin/env bash
# What is in the binary, as CycloneDX JSON: sbom.sh writes TARGET/weirgate.cdx.json
#
# Every crate that is built into the binary or builds the binary, with version, hash, licence and source; tests are
# left out. Made with cargo-cyclonedx, which is installed where it is missing. The same commit has the same file.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo cyclonedx --version >/dev/null 2>&1 || cargo install cargo-cyclonedx --locked
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
export SOURCE_DATE_EPOCH
out=${CARGO_TARGET_DIR:-target}/weirgate.cdx.json
name=weirgate-sbom.cdx
# The tool writes beside the Cargo.toml of each package of the workspace.
trap 'find . -name "$name.json" -not -path "./target/*" -delete' EXIT
cargo cyclonedx --quiet --format json --spec-version 1.5 --override-filename "$name"
mkdir -p "$(dirname "$out")"
python3 - "$name.json" "$out" <<'PY'
import json, os, sys

made, out = sys.argv[1:]
# Nothing of the folder that it was made in.
text = open(made).read().replace(f"file://{os.getcwd()}", "file:///weirgate")
bom = json.loads(text)
crates = bom["components"]
unhashed = [crate["name"] for crate in crates if not crate.get("hashes") and crate.get("purl", "").find("file://") < 0]
assert bom["bomFormat"] == "CycloneDX" and len(crates) > 100, "not the whole list"
assert not unhashed, f"without a hash: {unhashed}"
open(out, "w").write(text)
print(f"sbom: {out}: {bom['metadata']['component']['name']} "
      f"{bom['metadata']['component']['version']}, {len(crates)} crates")
PY
