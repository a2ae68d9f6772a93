#!/usr/bin/env bash
# Builds sockudo from its crate, with its own lockfile (half an hour of two cores); needs Debian's protobuf-compiler.
set -euo pipefail
cd "$(dirname "$0")/../../.."
command -v protoc > /dev/null || { echo "no protoc: apt-get install protobuf-compiler" >&2; exit 1; }
cargo install sockudo --version 5.2.0 --locked --no-default-features --root target/peers/sockudo
