#!/bin/sh
# weirgate levels as COUNT processes on one port, as a server of `loadtest compare`: shared-port.sh COUNT PORT
# NATS_URL as for any server; WEIRGATE is the program.
set -eu
count=$1 port=$2
weirgate=${WEIRGATE:-$(cd "$(dirname "$0")" && pwd)/../../target/release/weirgate}
children=
end() {
    # shellcheck disable=SC2086
    kill $children 2>/dev/null || true
    wait
    exit 0
}
trap end TERM INT

for _ in $(seq "$count"); do
    "$weirgate" levels --port "$port" --reuse-port --ephemeral &
    children="$children $!"
done
wait
