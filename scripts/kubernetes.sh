#!/usr/bin/env bash
# Makes deploy/kubernetes/NAME.yaml from the Helm chart, for those who do not use Helm.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH="$PWD/.venv/bin:$PATH"
command -v helm >/dev/null || { echo "kubernetes.sh: no helm; scripts/install-test-deps.sh installs it" >&2; exit 1; }
chart=deploy/helm/weirgate
for gateway in levels trades channels events; do
    {
        echo "# Made by scripts/kubernetes.sh from $chart/values-$gateway.yaml; docs/guides/kubernetes.md has the reasons."
        helm template "weirgate-$gateway" "$chart" --skip-tests -f "$chart/values-$gateway.yaml" | sed '/^# Source: /d'
    } >"${1:-deploy/kubernetes}/$gateway.yaml"
done
