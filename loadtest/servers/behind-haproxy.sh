#!/bin/sh
# weirgate levels behind HAProxy, which ends TLS, as a server of `loadtest compare`: behind-haproxy.sh PORT
# HAProxy listens on PORT with TLS_PEM (certificate and key), and connects over a unix socket. NATS_URL as for any server;
# WEIRGATE is the program.
set -eu
port=$1
here=$(cd "$(dirname "$0")" && pwd)
weirgate=${WEIRGATE:-$here/../../target/release/weirgate}
folder=$(mktemp -d)
unset GATEWAY_PORT
children=
end() {
    # shellcheck disable=SC2086
    kill $children 2>/dev/null || true
    wait
    rm -rf "$folder"
    exit 0
}
trap end TERM INT

"$weirgate" levels --listen "unix:$folder/http.sock" --unix-socket-mode 0666 --trusted-proxies unix >"$folder/weirgate" 2>&1 &
children=$!
cat >"$folder/haproxy.cfg" <<CONFIG
global
    maxconn 20000
    nbthread 1
    ssl-default-bind-options ssl-min-ver TLSv1.3
    ssl-default-bind-ciphersuites TLS_AES_128_GCM_SHA256
defaults
    mode http
    option forwardfor
    timeout connect 2s
    timeout client 60s
    timeout server 60s
    timeout tunnel 60s
frontend public
    bind 127.0.0.1:$port ssl crt $TLS_PEM
    default_backend weirgate
backend weirgate
    server one unix@$folder/http.sock
CONFIG
# loadtest waits for HAProxy's port, so HAProxy is started when the instance behind it is there.
for _ in $(seq 500); do
    grep -q "GATEWAY SERVICE" "$folder/weirgate" && break
    sleep 0.02
done
haproxy -db -f "$folder/haproxy.cfg" 2>"$folder/haproxy" &
children="$children $!"
wait
