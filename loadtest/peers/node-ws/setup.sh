#!/usr/bin/env bash
# Installs ws; the server is then: node loadtest/peers/node-ws/server.mjs
set -euo pipefail
cd "$(dirname "$0")"
npm ci --no-audit --no-fund
