#!/usr/bin/env bash
# Builds the Debian package, installs it on this machine, reads its manual pages, runs the demo from it, removes and
# purges it, and looks for what is left. lintian looks at the package too where it is installed. Needs Debian or Ubuntu,
# and root (or sudo without a password). PROFILE and NO_BUILD: see scripts/deb.sh.
set -euo pipefail
cd "$(dirname "$0")/.."

die() { printf 'deb-test: %s\n' "$*" >&2; exit 1; }
say() { printf 'deb-test: %s\n' "$*"; }
as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi; }
installed() { dpkg-query -W -f '${Status}' weirgate 2>/dev/null || true; }

command -v dpkg >/dev/null || die "no dpkg: this is for Debian and Ubuntu"
as_root true || die "needs root, or sudo without a password"
[ -z "$(installed)" ] || die "weirgate is installed here already: dpkg -P weirgate"

folder=$(mktemp -d)
demo=
clean_up() {
    [ -z "$demo" ] || kill -KILL "$demo" 2>/dev/null || true
    [ -z "$(installed)" ] || as_root dpkg -P weirgate >/dev/null || true
    rm -rf "$folder"
}
trap clean_up EXIT

scripts/deb.sh "$folder/weirgate.deb" >/dev/null
say "built: $(dpkg-deb -f "$folder/weirgate.deb" Package Version Architecture Depends | paste -sd ' ')"

list=$(dpkg-deb -c "$folder/weirgate.deb")
# Mode and path of files, without the leading dot.
has() { grep -qE "^$1 (root/root|0/0) +[0-9]+ [^ ]+ [^ ]+ \.$2\$" <<<"$list" || die "not in the package: $1 $2"; }
has -rwxr-xr-x /usr/bin/weirgate
for page in weirgate weirgate-{levels,trades,channels,events,demo,health,token,token-inspect}; do
    has -rw-r--r-- "/usr/share/man/man1/$page\.1\.gz"
done
has -rw-r--r-- /usr/share/bash-completion/completions/weirgate
has -rw-r--r-- /usr/share/zsh/vendor-completions/_weirgate
has -rw-r--r-- /usr/share/fish/vendor_completions.d/weirgate.fish
has -rw-r--r-- /usr/lib/systemd/system/weirgate@.service
doc=/usr/share/doc/weirgate
for file in README.md docs/guides/{deploy,levels}.md docs/reference/settings.md deploy/{systemd/proxy.conf,nginx/weirgate.conf}; do
    has -rw-r--r-- "$doc/$file"
done
has -rw-r--r-- "$doc/LICENSE-THIRD-PARTY"
# Its values are secrets: the bus password, the secret of tokens.
has -rw-r----- /etc/default/weirgate
if grep -v ' ./etc/default/weirgate$' <<<"$list" | grep -vE '^[d-]rw[x-]r-[x-]r-[x-] (root/root|0/0) '; then die "files with another owner or mode"; fi
# Two complaints stay: the project has no address of its own.
if command -v lintian >/dev/null; then
    lintian --allow-root --fail-on error --suppress-tags malformed-contact,bogus-mail-host-in-debian-changelog \
        "$folder/weirgate.deb" || die "lintian found errors"
fi

as_root dpkg -i "$folder/weirgate.deb" >/dev/null
[ "$(installed)" = "install ok installed" ] || die "not installed: $(installed)"
mapfile -t files < <(dpkg -L weirgate | while read -r path; do [ -d "$path" ] || echo "$path"; done)
for wanted in /usr/bin/weirgate /etc/default/weirgate /usr/lib/systemd/system/weirgate@.service \
    /usr/share/doc/weirgate/copyright; do
    printf '%s\n' "${files[@]}" | grep -qxF "$wanted" || die "not in the package: $wanted"
done
# Unpacked: systems in containers often leave manual pages and documents out when they install.
dpkg-deb -x "$folder/weirgate.deb" "$folder/unpacked"
if command -v man >/dev/null; then
    for page in "$folder"/unpacked/usr/share/man/man1/*; do
        MANWIDTH=80 man --warnings -l "$page" 2>"$folder/man" | grep -q '^NAME' || die "no manual page: $page"
        [ ! -s "$folder/man" ] || die "$page: $(cat "$folder/man")"
    done
fi
bash -n "$folder/unpacked/usr/share/bash-completion/completions/weirgate"
if command -v systemd-analyze >/dev/null; then
    systemd-analyze verify --man=no weirgate@levels.service || die "the unit is not good"
fi

port=$((20000 + RANDOM % 10000))
bare=(env -i PATH=/usr/bin:/bin GATEWAY_PORT=$port WEIRGATE_GATEWAY=demo)
"${bare[@]}" weirgate >"$folder/log" 2>&1 &
demo=$!
for _ in $(seq 100); do "${bare[@]}" weirgate health 2>/dev/null && break; sleep 0.1; done
"${bare[@]}" weirgate health || die "the demo is not healthy: $(cat "$folder/log")"
kill -TERM "$demo"
wait "$demo" || die "the demo ended with status $?"
demo=
say "the demo ran, was healthy, and ended with 0"

# As an upgrade does, over settings that somebody has changed.
as_root sh -c 'echo "#ours" >>/etc/default/weirgate'
as_root dpkg -i "$folder/weirgate.deb" >/dev/null </dev/null
grep -q "#ours" /etc/default/weirgate || die "an upgrade takes changed settings away"

as_root dpkg -r weirgate >/dev/null
[ ! -e /usr/bin/weirgate ] || die "still there after the removal: /usr/bin/weirgate"
[ -e /etc/default/weirgate ] || die "the removal took the settings away"
as_root dpkg -P weirgate >/dev/null
for path in "${files[@]}" /usr/share/doc/weirgate; do
    [ ! -e "$path" ] || die "still there after the purge: $path"
done
[ -z "$(installed)" ] || die "dpkg still knows it: $(installed)"
say "removed and purged: nothing is left"
