#!/usr/bin/env bash
# Builds the version that was released last, for the tests that run it beside the one under test, and prints the folder
# with its program and its clients. tests/previous_version has its commit.
#
# The recipe is the one of a debug build: the sources of that commit, with its Cargo.lock. Cargo takes what the two
# versions have in common from the same target folder, so only the crates that differ are compiled, once for each commit.
# Without the commit in the history, as in an archive of the sources, it ends with status 3.
set -euo pipefail
cd "$(dirname "$0")/.."
commit=$(grep -v '^#' tests/previous_version)
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
folder=$target/previous/$commit
# Several test runners may ask at once: one builds, the others wait.
mkdir -p "$target"
exec 9>"$target/previous.lock"
flock 9
if [ ! -x "$folder/weirgate" ]; then
    if ! git cat-file -e "$commit^{commit}" 2>/dev/null; then
        echo "tests/previous_version names $commit, which is not in this history" >&2
        exit 3
    fi
    rm -rf "$target/previous"
    mkdir -p "$folder/source"
    git archive "$commit" | tar -x -C "$folder/source"
    cp -r "$folder/source/clients" "$folder/clients"
    # Cargo puts the program where that of the version under test is, which is kept and put back.
    current=$target/debug/weirgate
    if [ -e "$current" ]; then ln "$current" "$folder/current"; fi
    put_back() {
        if [ -e "$folder/current" ]; then mv -f "$folder/current" "$current"; else rm -f "$current"; fi
    }
    trap put_back EXIT
    (cd "$folder/source" && CARGO_INCREMENTAL=0 cargo build --locked -p weirgate --bin weirgate --target-dir "$target") >&2
    cp "$current" "$folder/built"
    mv "$folder/built" "$folder/weirgate"
    rm -rf "$folder/source"
fi
echo "$folder"
