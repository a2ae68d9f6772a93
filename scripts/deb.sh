#!/usr/bin/env bash
# Builds the Debian package: deb.sh [FILE]; prints where it is.
#
# The binary is that of scripts/dist.sh; with NO_BUILD=1 it is the one in target/PROFILE. PROFILE is dist unless set.
# Needs Debian or Ubuntu, and cargo-deb.
set -euo pipefail
cd "$(dirname "$0")/.."
profile=${PROFILE:-dist}
folder=${CARGO_TARGET_DIR:-target}/${profile/#dev/debug}

command -v cargo-deb >/dev/null || { echo "deb: no cargo-deb. Run: cargo install cargo-deb --locked" >&2; exit 1; }
[ -n "${NO_BUILD:-}" ] || PROFILE=$profile scripts/dist.sh >&2
scripts/package_files.py "$folder/weirgate"
# As git has the time of the commit: the same files give the same package.
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)}
export SOURCE_DATE_EPOCH
cargo deb --no-build --profile "$profile" --locked --quiet ${1:+--output "$1"}
