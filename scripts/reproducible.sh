#!/usr/bin/env bash
# Builds the last commit twice with scripts/dist.sh and compares the bytes: reproducible.sh
#
# The two builds differ in folder, folder of dependencies and umask, and come one after the other.
# Exit 0: the same binary. 1: another one; both stay where the last line says.
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mktemp -d "${TMPDIR:-/tmp}/weirgate-reproducible.XXXXXX")
# Both are of the commit that is the last one now, whatever is committed meanwhile.
commit=$(git rev-parse HEAD)
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct "$commit")
export SOURCE_DATE_EPOCH
unset CARGO_TARGET_DIR
cargo_home=${CARGO_HOME:-$HOME/.cargo}
[ -z "$(git status --porcelain)" ] || echo "reproducible: of the last commit; what is not committed is left out"

# The dependencies are there, so that the second build does not fetch them into its own folder.
cargo fetch --quiet --locked

# build FOLDER UMASK: the sum of the binary on the last line.
build() {
    mkdir -p "$1/source"
    git archive "$commit" | tar -x -C "$1/source"
    (umask "$2" && CARGO_NET_OFFLINE=true "$1/source/scripts/dist.sh")
}

one=$work/one two="$work/the-second-has-another-length"
build "$one" 022
mkdir -p "$two/home"
ln -s "$cargo_home/registry" "$two/home/registry"
CARGO_HOME="$two/home" build "$two" 077

profile=${PROFILE:-dist}
first=$one/source/target/$profile/weirgate second=$two/source/target/$profile/weirgate
if cmp "$first" "$second"; then
    if strings -a "$first" 2>/dev/null | grep -F -e "$work" -e "$cargo_home"; then
        echo "reproducible: a path of this machine is in the binary: $first" >&2
        exit 1
    fi
    echo "reproducible: both are $(sha256sum <"$first" | cut -d' ' -f1), $(stat -c %s "$first") bytes, profile $profile"
    rm -rf "$work"
else
    echo "reproducible: the two differ; they are in $work" >&2
    exit 1
fi
