#!/usr/bin/env bash
# Builds this peer: target/peers/release/peer-axum
set -euo pipefail
cd "$(dirname "$0")/.."
cargo build --release --locked --target-dir ../../target/peers -p peer-axum
