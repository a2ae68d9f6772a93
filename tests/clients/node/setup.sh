#!/usr/bin/env bash
# setup.sh CLIENT...: the packages of package-lock.json, and Debian's browsers if they are among the clients.
set -euo pipefail
cd "$(dirname "$0")"
for client in "$@"; do
    case $client in
        chromium) ../../../scripts/apt-install.sh chromium ;;
        firefox) ../../../scripts/apt-install.sh firefox-esr ;;
    esac
done
cmp -s package-lock.json node_modules/.installed || {
    npm ci --no-audit --no-fund --loglevel=error
    cp package-lock.json node_modules/.installed
}
