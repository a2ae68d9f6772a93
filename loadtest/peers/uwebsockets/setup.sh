#!/usr/bin/env bash
# Builds target/peers/uwebsockets from a checkout of uWebSockets with its submodule uSockets:
#
#     git clone --recurse-submodules <uWebSockets> ~/uWebSockets
#     loadtest/peers/uwebsockets/setup.sh ~/uWebSockets
#
# Needs a C and a C++20 compiler and OpenSSL (Debian packages g++ and libssl-dev). zlib is not built in.
set -euo pipefail
checkout=$(realpath "${1:?usage: setup.sh CHECKOUT}")
cd "$(dirname "$0")/../../.."
mkdir -p target/peers/uwebsockets-objects
cd target/peers/uwebsockets-objects
for file in "$checkout"/uSockets/src/{bsd,context,loop,quic,socket,udp}.c "$checkout"/uSockets/src/{eventing,crypto}/*.c; do
    gcc -O3 -DLIBUS_USE_OPENSSL -I"$checkout/uSockets/src" -c "$file"
done
g++ -std=c++20 -O3 -DLIBUS_USE_OPENSSL -I"$checkout/uSockets/src" -c "$checkout/uSockets/src/crypto/sni_tree.cpp"
g++ -std=c++20 -O3 -DLIBUS_USE_OPENSSL -DUWS_NO_ZLIB -I"$checkout/uSockets/src" -I"$checkout/src" \
    ../../../loadtest/peers/uwebsockets/server.cpp ./*.o -lssl -lcrypto -lpthread -o ../uwebsockets
