#!/usr/bin/env bash
# Installs what the tests need and cargo does not bring; quick and silent when all of it is there.
#
# nats-server, redis-server, nginx, HAProxy, Caddy, Apache, Varnish, strace, ip, systemd-analyze, ssh-keygen, zsh, fish, mandoc and Chromium, a Python
# environment in .venv, Node packages in tests/node.
# Debian packages come through apt-get (sudo where we are not root). Where that is not allowed it prints the
# command that a person has to run, and fails: nothing is skipped.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf 'install-test-deps: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

# Names of Debian packages that are missing.
missing=()

# need COMMAND PACKAGE: notes the package unless the command is there.
need() { command -v "$1" >/dev/null 2>&1 || [ -x "/usr/sbin/$1" ] || missing+=("$2"); }

need nats-server nats-server
need redis-server redis-server
need nginx nginx-light
[ -e /usr/lib/nginx/modules/ngx_stream_module.so ] || missing+=(libnginx-mod-stream)
need haproxy haproxy
need caddy caddy
need apache2 apache2-bin
need varnishd varnish
need systemd-analyze systemd
need python3 python3
need node nodejs
need npm npm
need curl curl
need strace strace
need ip iproute2
need ssh-keygen openssh-client
need readelf binutils
need chromium chromium
need zsh zsh
need fish fish
need mandoc mandoc
if command -v python3 >/dev/null 2>&1 && ! [ -x .venv/bin/python ]; then
    # Debian's python3 comes without the part that makes environments.
    python3 -c 'import ensurepip, venv' >/dev/null 2>&1 || missing+=(python3-venv)
elif ! command -v python3 >/dev/null 2>&1; then
    missing+=(python3-venv)
fi

if [ ${#missing[@]} -gt 0 ]; then
    scripts/apt-install.sh "${missing[@]}"
fi

# The stamps hold what was installed, so that a second run does nothing.
stamp_of() { sha256sum "$@" | sha256sum | cut -d' ' -f1; }

want=$(stamp_of tests/requirements.txt)
if [ ! -x .venv/bin/python ] || [ "$(cat .venv/installed 2>/dev/null)" != "$want" ]; then
    say "Python packages into .venv"
    [ -x .venv/bin/python ] || python3 -m venv .venv
    .venv/bin/python -m pip install -q --disable-pip-version-check -r tests/requirements.txt ||
        die "pip failed. Run: .venv/bin/python -m pip install -r tests/requirements.txt"
    printf '%s\n' "$want" >.venv/installed
fi

want=$(stamp_of tests/node/package.json tests/node/package-lock.json)
if [ "$(cat tests/node/node_modules/.installed 2>/dev/null)" != "$want" ]; then
    say "Node packages into tests/node/node_modules"
    (cd tests/node && npm ci --no-audit --no-fund --loglevel=error >/dev/null) ||
        die "npm failed. Run: cd tests/node && npm ci"
    printf '%s\n' "$want" >tests/node/node_modules/.installed
fi
