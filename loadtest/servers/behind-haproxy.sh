#!/bin/sh
# weirgate levels behind HAProxy, which ends TLS, as a server of `loadtest compare`: behind-haproxy.sh PORT
# HAProxy listens on PORT with TLS_PEM (certificate and key), and connects over a unix socket. NATS_URL as for any server;
# WEIRGATE is the program.
set -eu
port=$1
. "$(dirname "$0")/before.sh"

"$weirgate" levels --listen "unix:$folder/http.sock" --unix-socket-mode 0666 --trusted-proxies unix >"$folder/weirgate" 2>&1 &
children=$!
cat >"$folder/haproxy.cfg" <<CONFIG
global
    maxconn 9000
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
before haproxy -db -f "$folder/haproxy.cfg"
