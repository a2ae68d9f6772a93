#!/usr/bin/env bash
# apt-install.sh PACKAGE...: installs the Debian packages that are missing; quick and silent when all are there.
#
# With sudo if we are not root. Where that is not allowed it prints the command that a person has to run, and fails.
set -euo pipefail

say() { printf 'apt-install: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

missing=()
for package in "$@"; do
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
done
[ ${#missing[@]} -gt 0 ] || exit 0

by_hand="sudo apt-get update && sudo apt-get install -y --no-install-recommends ${missing[*]}"
command -v apt-get >/dev/null 2>&1 ||
    die "missing: ${missing[*]}; this is no Debian: install them with your system's tool, then try again"
as_root=()
if [ "$(id -u)" != 0 ]; then
    if command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; then
        as_root=(sudo -n)
    else
        die "missing: ${missing[*]}; no right to install them here. Run: $by_hand"
    fi
fi
say "installing ${missing[*]}"
# The unit of a package would start a server of its own; the tests start theirs.
install_them() {
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get -qq -o DPkg::Lock::Timeout=120 \
        install -y --no-install-recommends "${missing[@]}" >/dev/null
}
install_them 2>/dev/null || {
    "${as_root[@]}" apt-get -qq -o DPkg::Lock::Timeout=120 update >/dev/null || true
    install_them || die "apt-get failed. Run: $by_hand"
}
