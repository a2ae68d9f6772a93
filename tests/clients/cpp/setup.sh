#!/usr/bin/env bash
# Debian's libraries in C and C++, and the clients in $BUILT/cpp.
set -euo pipefail
cd "$(dirname "$0")"
../../../scripts/apt-install.sh g++ make pkg-config libwebsockets-dev libsoup-3.0-dev libboost-dev libwebsocketpp-dev zlib1g-dev gnutls-bin
mkdir -p "$BUILT/cpp"
build() {
    local client=$1
    shift
    [ "$BUILT/cpp/$client" -nt "$client.cpp" ] && [ "$BUILT/cpp/$client" -nt line.h ] ||
        g++ -O1 -pthread -o "$BUILT/cpp/$client" "$client.cpp" "$@"
}
build libwebsockets $(pkg-config --cflags --libs libwebsockets)
build libsoup $(pkg-config --cflags --libs libsoup-3.0)
build beast
build websocketpp -lz
