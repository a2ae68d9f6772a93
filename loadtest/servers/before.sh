# shellcheck shell=sh
# Sourced by the servers of `loadtest compare` that stand before weirgate levels. Sets $here, $weirgate (the program) and
# $folder; at the end $children are stopped, and the folder goes.
here=$(cd "$(dirname "$0")" && pwd)
weirgate=${WEIRGATE:-$here/../../target/release/weirgate}
folder=$(mktemp -d)
unset GATEWAY_PORT
children=
end() {
    # shellcheck disable=SC2086
    kill $children 2>/dev/null || true
    wait
    rm -rf "$folder"
    exit 0
}
trap end TERM INT

# before COMMAND…: starts it behind the instance, whose output is $folder/weirgate, and waits. loadtest waits for the port of
# the command, so the instance has to be there first.
before() {
    for _ in $(seq 500); do
        grep -q "GATEWAY SERVICE" "$folder/weirgate" && break
        sleep 0.02
    done
    "$@" &
    children="$children $!"
    wait
}
