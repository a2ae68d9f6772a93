#!/usr/bin/env bash
# Licences, sources, bans and advisories of all dependencies, with cargo-deny and deny.toml.
#
#   deny.sh             where there is no cargo-deny, says so, and nothing is wrong (make lint)
#   deny.sh --install   installs cargo-deny first (make deny)
#
# The advisories need the RustSec database, which is on GitHub. Where it cannot be had, the script says so.
set -euo pipefail
cd "$(dirname "$0")/.."
if ! cargo deny --version >/dev/null 2>&1; then
    if [ "${1:-}" != --install ]; then
        echo "deny: no cargo-deny here, so licences and advisories were not checked (make deny installs it)"
        exit 0
    fi
    cargo install cargo-deny --locked
fi
cargo deny --locked check bans licenses sources
if timeout 120 cargo deny fetch db >/dev/null 2>&1; then
    cargo deny --locked check advisories
else
    echo "deny: the RustSec database cannot be had here, so advisories were not checked"
fi
