#!/usr/bin/env bash
# The binary that is shipped, the same bytes in whatever folder it is built: dist.sh [TRIPLE]
#
# Prints the sha256 of TARGET/PROFILE/weirgate; with a TRIPLE, as aarch64-unknown-linux-gnu, of TARGET/TRIPLE/PROFILE/weirgate.
# PROFILE is dist unless set. The compiler (rustc -vV), the C compiler and the linker have to be the same ones;
# docs/guides/deploy.md says what is fixed here and why.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
cargo_home=${CARGO_HOME:-$HOME/.cargo}
profile=${PROFILE:-dist}
triple=${1:-}
# What another kind of processor is linked with; rustc links musl by itself.
[ "$triple" != aarch64-unknown-linux-gnu ] || export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc

# No path of this machine is in panic messages, debug information or the C parts (ring).
maps=("$root=/weirgate" "$cargo_home=/cargo")
flags=() cflags=()
for map in "${maps[@]}"; do
    flags+=("--remap-path-prefix=$map")
    cflags+=("-ffile-prefix-map=$map")
done
# Encoded, so that a folder may have a space in its name.
CARGO_ENCODED_RUSTFLAGS=$(IFS=$'\x1f'; echo "${flags[*]}")
export CARGO_ENCODED_RUSTFLAGS CFLAGS="${cflags[*]}"
# Nothing takes the time of the build, its language or its zone; a tool that asks gets that of the commit.
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)}
export SOURCE_DATE_EPOCH CARGO_INCREMENTAL=0 LC_ALL=C TZ=UTC ZERO_AR_DATE=1
unset RUSTFLAGS RUSTC_WRAPPER RUSTC_WORKSPACE_WRAPPER

cargo build --profile "$profile" --locked --package weirgate --bin weirgate ${triple:+--target "$triple"}
cd "${CARGO_TARGET_DIR:-target}/${triple:+$triple/}$profile"
sha256sum weirgate
