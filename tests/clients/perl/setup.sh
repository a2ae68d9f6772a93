#!/usr/bin/env bash
# Debian's Mojolicious.
set -euo pipefail
"$(dirname "$0")/../../../scripts/apt-install.sh" perl libmojolicious-perl
