#!/usr/bin/env bash
# The cost of one message with few clients: each gateway beside the raw limit and the floor on the same bus, one server at a
# time. pace.sh FOLDER, with the programs in FOLDER; tables and JSON are in target/pace. ROUNDS=3; ROWS='levels trades' measures
# only rows whose name contains one of these words.
#
# Levels are also beside the raw limit on core NATS ("core"), which tells the cost of JetStream from the cost of the gateway.
set -euo pipefail
cd "$(dirname "$0")/.."
programs=$1
out=target/pace
weirgate="$programs/weirgate"
loadtest="$programs/loadtest"
core="core=$loadtest limit --threads 1 --batched --port {port} --nats {nats}"
failed=()

# row NAME ARGUMENTS: measures into $out/NAME, unless ROWS leaves the name out.
row() {
    local name=$1 word wanted=
    shift
    for word in ${ROWS:-$name}; do
        [[ $name == *$word* ]] && wanted=yes
    done
    [ -n "$wanted" ] || return 0
    rm -rf "${out:?}/$name"
    "$loadtest" compare --limits threads --solo --repeat-late 1 --ahead --bytes 300 --settle 0.2 --rounds "${ROUNDS:-3}" \
        --report "$out/$name" "$@" || failed+=("$name")
}

# paced NAME ARGUMENTS: 1, 10 and 100 clients, two seconds at 500 and at 5,000 messages a second.
paced() {
    local name=$1
    shift
    set -- --clients 1,10,100 --wake-up-us 100 "$@"
    row "$name-500" --rate 500 --warm-up 125 --messages 1000 "$@"
    row "$name-5000" --rate 5000 --warm-up 1250 --messages 10000 "$@"
}

mkdir -p "$out"
levels=(--bus jetstream --server "weirgate=$weirgate levels" --server "$core")
paced levels "${levels[@]}"
row levels-saturated --clients 10 --in-flight 256 --warm-up 10000 --messages 100000 "${levels[@]}"
paced channels-nats --gateway channels --bus nats --server "weirgate=$weirgate channels"
paced channels-redis --gateway channels --bus redis --server "weirgate=$weirgate channels"
paced trades-redis --gateway trades --bus redis --server "weirgate=$weirgate trades"

# One table of all rows: the head once.
awk 'FNR > 2 || NR == FNR' "$out"/*/table.md | tee "$out/table.md"
if [ ${#failed[@]} -gt 0 ]; then
    echo "pace: a message was lost, or a server failed: ${failed[*]}" >&2
    exit 1
fi
