#!/usr/bin/env bash
# Debian's Mojolicious, and its TLS.
set -euo pipefail
"$(dirname "$0")/../../../scripts/apt-install.sh" perl libmojolicious-perl libio-socket-ssl-perl
