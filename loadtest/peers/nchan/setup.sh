#!/usr/bin/env bash
# Gets Debian's nchan module for the installed nginx into target/peers/nchan, without installing it.
# The server is then: python3 loadtest/peers/nchan/server.py
set -euo pipefail
cd "$(dirname "$0")/../../.."
command -v nginx >/dev/null || [ -x /usr/sbin/nginx ] || { echo "nginx is missing: apt-get install nginx-light" >&2; exit 1; }
mkdir -p target/peers/nchan
cd target/peers/nchan
apt-get download -q libnginx-mod-nchan
dpkg-deb --extract libnginx-mod-nchan_*.deb .
