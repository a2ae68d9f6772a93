#!/usr/bin/env bash
# Builds the Debian package: deb.sh [FILE]; prints where it is.
#
# The binary is that of scripts/dist.sh; with NO_BUILD=1 it is the one in target/PROFILE. PROFILE is dist unless set.
# Needs Debian or Ubuntu.
set -euo pipefail
cd "$(dirname "$0")/.."
profile=${PROFILE:-dist}
target=${CARGO_TARGET_DIR:-target}
binary=$target/${profile/#dev/debug}/weirgate

[ -n "${NO_BUILD:-}" ] || PROFILE=$profile scripts/dist.sh >&2
scripts/package_files.py "$binary" "$target/package"
mkdir -p "$target/debian"
scripts/release/packages.py deb "$binary" "${1:-$target/debian}"
