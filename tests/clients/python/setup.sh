#!/usr/bin/env bash
# The packages of requirements.txt in $BUILT/python; made anew when these change.
set -euo pipefail
cd "$(dirname "$0")"
cmp -s requirements.txt "$BUILT/python/installed" || {
    python3 -m venv --clear "$BUILT/python"
    "$BUILT/python/bin/python" -m pip install -q --disable-pip-version-check -r requirements.txt
    cp requirements.txt "$BUILT/python/installed"
}
