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
mv "$name.json" "$out"
python3 - "$out" <<'PY'
import json, sys

bom = json.load(open(sys.argv[1]))
crates = bom["components"]
unhashed = [crate["name"] for crate in crates if not crate.get("hashes") and crate.get("purl", "").find("file://") < 0]
assert bom["bomFormat"] == "CycloneDX" and len(crates) > 100, "not the whole list"
assert not unhashed, f"without a hash: {unhashed}"
print(f"sbom: {sys.argv[1]}: {bom['metadata']['component']['name']} "
      f"{bom['metadata']['component']['version']}, {len(crates)} crates")
PY
