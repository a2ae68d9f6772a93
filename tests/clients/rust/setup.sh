#!/usr/bin/env bash
# The clients in $BUILT/rust/release.
set -euo pipefail
cd "$(dirname "$0")"
cargo build --release --locked --quiet --target-dir "$BUILT/rust"
