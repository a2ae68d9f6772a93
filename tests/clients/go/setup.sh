#!/usr/bin/env bash
# Debian's Go packages, and the clients in $BUILT/go.
set -euo pipefail
cd "$(dirname "$0")"
../../../scripts/apt-install.sh golang-go golang-github-gorilla-websocket-dev golang-nhooyr-websocket-dev golang-golang-x-net-dev
export GO111MODULE=off GOPATH=/usr/share/gocode GOCACHE=$BUILT/go/cache
for client in gorilla nhooyr xnet; do
    go build -o "$BUILT/go/$client" line.go $client.go
done
