#!/bin/sh
# weirgate levels behind one nginx worker, as a server of `loadtest compare`: behind-nginx.sh tcp|unix PORT
# nginx listens on PORT with deploy/nginx/weirgate.conf, over TLS if TLS_CERT and TLS_KEY are set. NATS_URL as for any server;
# WEIRGATE is the program.
set -eu
way=$1 port=$2
. "$(dirname "$0")/before.sh"

case $way in
tcp)
    # loadtest has looked for one port; this one is below its range.
    backend=127.0.0.1:$((port - 12000))
    "$weirgate" levels --listen 127.0.0.1 --port "${backend##*:}" >"$folder/weirgate" 2>&1 &
    ;;
unix)
    backend=unix:$folder/http.sock
    # A worker of an nginx that root starts is another user.
    chmod 755 "$folder"
    "$weirgate" levels --listen "$backend" --unix-socket-mode 0666 --trusted-proxies unix >"$folder/weirgate" 2>&1 &
    ;;
*)
    echo "$0: tcp or unix, not $way" >&2
    exit 2
    ;;
esac
children=$!

listen="listen 127.0.0.1:$port backlog=4096;"
if [ -n "${TLS_CERT:-}" ]; then
    listen="listen 127.0.0.1:$port ssl backlog=4096; ssl_certificate $TLS_CERT; ssl_certificate_key $TLS_KEY; ssl_protocols TLSv1.3;"
    listen="$listen ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256;"
fi
{
    # The head of loadtest deploy, with a worker that is a process of its own, and /ready for loadtest.
    sed -e "s|{dir}|$folder|" -e '/{site}/,$d' "$here/../src/deploy/nginx.conf"
    sed -e "s|server 127.0.0.1:8000 |server $backend |" -e "s|listen 80;|$listen|" \
        -e '/location = .ready/d' "$here/../../deploy/nginx/weirgate.conf"
    echo "}"
} >"$folder/nginx.conf"
before nginx -p "$folder" -c "$folder/nginx.conf"
