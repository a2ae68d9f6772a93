#!/usr/bin/env bash
# Protocol conformance of the debug build (TEST_BUILD=release: of that); starts and ends every server that it needs.
#
#   run.sh autobahn [SET...]   Autobahn TestSuite against examples/echo (sets: quick deflate-quick all, see autobahn.sh)
#   run.sh abuse-quick         the part of abuse.py that takes seconds, against examples/echo
#   run.sh abuse-echo          all of abuse.py against examples/echo
#   run.sh abuse-levels        all of abuse.py against `weirgate levels`, with a feed from a real nats-server
#   run.sh tls                 sslyze against `weirgate demo` over TLS; with TLSFUZZER=its checkout its scripts for TLS 1.3 too,
#                              also with certificates of clients
#
# OVER_TLS=1: the same over TLS. Autobahn speaks it; abuse_over_tls.py gives abuse.py sockets that do.
#
# Reports go to target/conformance. Exit 0: as expected. 1: not. 2: could not run.
# Needs the build of `make test`; abuse-levels also scripts/install-test-deps.sh.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
build=$target/${TEST_BUILD:-debug}
echo_binary=${TEST_ECHO_BINARY:-$build/examples/echo}
weirgate=${TEST_BINARY:-$build/weirgate}
out=$target/conformance
python=python3
if [ -x "$root/.venv/bin/python" ]; then python=$root/.venv/bin/python; fi
PATH=$PATH:/usr/sbin
mkdir -p "$out"

fail() { echo "conformance: $*" >&2; exit 2; }
started=()
end_all() { for pid in "${started[@]}"; do kill "$pid" 2>/dev/null || true; wait "$pid" 2>/dev/null || true; done; started=(); }
trap end_all EXIT

free_port() { "$python" "$root/tests/rig/ports.py"; }

# wait_for PORT NAME: until something listens there.
wait_for() {
    for _ in $(seq 100); do
        if (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; then return; fi
        sleep 0.1
    done
    fail "$2 does not listen on port $1"
}

# The limits here are those that the targets name: a violation gets a close frame, an attack costs at
# most 16 MiB, a handshake ends within 12 s, a dead peer within 45 s.
abuse() {
    local suite=("$here/abuse.py")
    if is_over_tls; then suite=("$here/abuse_over_tls.py" "$out/tls/cert.pem"); fi
    "$python" "${suite[@]}" --max-message 1048576 --handshake 12 --heartbeat 45 --drain 5 --mem 16 \
        --per-client 16 --strict "$@"
}

# tls_on [KEY]: the flags for TLS on a port; with a certificate that is made for the run. KEY is for openssl's -newkey.
tls_on() {
    local made=$out/tls key=${1:-ec -pkeyopt ec_paramgen_curve:P-256}
    mkdir -p "$made"
    # shellcheck disable=SC2086
    openssl req -x509 -newkey $key -nodes -days 2 -keyout "$made/key.pem" -out "$made/cert.pem" \
        -subj /CN=localhost -addext subjectAltName=DNS:localhost,IP:127.0.0.1 2>"$made/openssl.log" || fail "openssl: $(cat "$made/openssl.log")"
    echo "--tls-cert $made/cert.pem --tls-key $made/key.pem"
}

is_over_tls() { [ "${OVER_TLS:-}" = 1 ]; }

# serves PORT PLAIN_FLAGS TLS_FLAGS: sets the flags of a server that the suite reaches at the port; PORT in the flags is the port.
serves() {
    if is_over_tls; then flags="${3//PORT/$1} $(tls_on)"; else flags=${2//PORT/$1}; fi
}

need_echo() { [ -x "$echo_binary" ] || fail "no echo server at $echo_binary: run make test once"; }

autobahn() {
    need_echo
    local port tls_port bad=0 set url
    port=$(free_port)
    tls_port=$(free_port)
    url=ws://127.0.0.1:$port/
    local tls=()
    if is_over_tls; then
        read -ra tls <<<"--tls-listen 127.0.0.1:$tls_port $(tls_on)"
        url=wss://127.0.0.1:$tls_port/
    fi
    # Autobahn's largest message has 16 MiB.
    "$echo_binary" --listen "127.0.0.1:$port" --message-bytes-max 16777216 "${tls[@]}" >"$out/echo.log" 2>&1 &
    started+=($!)
    wait_for "$port" "the echo server"
    for set in "$@"; do
        # NON-STRICT: 6.4.3-4 look for bad UTF-8 byte by byte. Cut in silence: 7.1.6 may end so.
        AUTOBAHN_HOME=${AUTOBAHN_HOME:-$target/autobahn} AUTOBAHN_NON_STRICT_MAX=2 AUTOBAHN_SILENT_MAX=1 AUTOBAHN_REQUIRE_DEFLATE=1 \
            "$here/autobahn.sh" "$url" "$set" "$out/autobahn-${set//[^a-z0-9-]/_}" || bad=$?
    done
    end_all
    return "$bad"
}

# The echo server that the suite reaches at a port.
echo_flags() {
    need_echo
    serves "$1" "--listen 127.0.0.1:PORT" "--listen 127.0.0.1:0 --tls-listen 127.0.0.1:PORT"
    flags="$flags --message-bytes-max 1048576"
}

abuse_quick() {
    local port flags
    port=$(free_port)
    echo_flags "$port"
    abuse --ws "ws://127.0.0.1:$port/" --cmd "$echo_binary $flags" --log "$out/echo.log" --echo --stall 2 \
        --only '^(handshake|frame|text|close|length|size|flood|deflate|half-close)' --json "$out/abuse-quick.json"
}

abuse_echo() {
    local port flags
    port=$(free_port)
    echo_flags "$port"
    abuse --ws "ws://127.0.0.1:$port/" --cmd "$echo_binary $flags" --log "$out/echo.log" --echo \
        --stall 0.5 --json "$out/abuse-echo.json"
}

abuse_levels() {
    [ -x "$weirgate" ] || fail "no program at $weirgate: run make test once"
    command -v nats-server >/dev/null || fail "no nats-server: run scripts/install-test-deps.sh"
    "$python" -c 'import nats' 2>/dev/null || fail "no nats-py: run scripts/install-test-deps.sh"
    local port nats_port store rc=0 flags
    port=$(free_port)
    serves "$port" "--port PORT" "--port off --tls-port PORT --tls-handshakes-max 2048"
    nats_port=$(free_port)
    store=$(mktemp -d "${TMPDIR:-/tmp}/weirgate-nats.XXXXXX")
    nats-server -js -a 127.0.0.1 -p "$nats_port" -sd "$store" >"$out/nats.log" 2>&1 &
    started+=($!)
    wait_for "$nats_port" nats-server
    NATS_URL="nats://127.0.0.1:$nats_port" \
        abuse --ws "ws://127.0.0.1:$port/ws/stream" --http "http://127.0.0.1:$port/health" \
        --cmd "$weirgate levels --listen 127.0.0.1 $flags --send-queue-stall-ms 5000 --allowed-origins http://good.example" \
        --origin-bad http://evil.example --origin-ok http://good.example \
        --feed-cmd "exec $python $here/publish.py nats://127.0.0.1:$nats_port" --feed-seconds 20 \
        --log "$out/levels.log" --stall 0.5 --json "$out/abuse-levels.json" || rc=$?
    end_all
    rm -rf "$store"
    return "$rc"
}

# key_of NAME: how openssl makes a key of this name.
key_of() {
    case $1 in
        p256) echo ec -pkeyopt ec_paramgen_curve:P-256 ;;
        rsa) echo rsa:2048 ;;
        *) echo "$1" ;;
    esac
}

# client_certificate NAME: NAME.pem and NAME.key in $out/tls, of the authority ca.pem there.
client_certificate() {
    local made=$out/tls
    printf 'basicConstraints=CA:FALSE\nextendedKeyUsage=clientAuth\n' >"$made/extensions"
    # shellcheck disable=SC2046
    openssl req -newkey $(key_of "$1") -nodes -keyout "$made/$1.key" -out "$made/$1.csr" -subj "/CN=$1" 2>"$made/openssl.log" &&
        openssl x509 -req -in "$made/$1.csr" -CA "$made/ca.pem" -CAkey "$made/ca.key" -CAcreateserial -days 2 \
            -extfile "$made/extensions" -out "$made/$1.pem" 2>>"$made/openssl.log" || fail "openssl: $(cat "$made/openssl.log")"
}

# tls_demo NAME KEY [FLAG...]: a demo over TLS with a certificate of this key; adds NAME=PORT to `servers`.
tls_demo() {
    local port tls name=$1 key=$2
    shift 2
    port=$(free_port)
    read -ra tls <<<"$(tls_on "$(key_of "$key")")"
    mkdir -p "$out/tls/$name"
    cp "${tls[1]}" "${tls[3]}" "$out/tls/$name"
    "$weirgate" demo --listen 127.0.0.1 --port off --tls-port "$port" --tls-handshakes-max 2048 \
        --tls-cert "$out/tls/$name/cert.pem" --tls-key "$out/tls/$name/key.pem" "$@" >"$out/tls-$name.log" 2>&1 &
    started+=($!)
    wait_for "$port" weirgate
    servers+=("$name=$port")
}

# Most scripts expect an RSA certificate.
tls_suite() {
    [ -x "$weirgate" ] || fail "no program at $weirgate: run make test once"
    local tools=$target/tls-tools made=$out/tls rc=0 key servers=()
    if ! "$tools/bin/python" -c 'import sslyze, tlslite' 2>/dev/null; then
        python3 -m venv "$tools" && "$tools/bin/pip" install -q -r "$here/tls-requirements.txt" || fail "pip install -r $here/tls-requirements.txt"
    fi
    mkdir -p "$made"
    openssl req -x509 -newkey rsa:2048 -nodes -days 2 -keyout "$made/ca.key" -out "$made/ca.pem" -subj /CN=clients 2>"$made/openssl.log" ||
        fail "openssl: $(cat "$made/openssl.log")"
    for key in rsa p256 ed25519; do
        client_certificate "$key"
        tls_demo "$key" "$key"
    done
    tls_demo mutual rsa --tls-client-ca "$made/ca.pem"
    "$tools/bin/python" "$here/tls.py" "$out/tls-suite" "$made" "${servers[@]}" ${TLSFUZZER:+"$TLSFUZZER"} || rc=$?
    end_all
    return "$rc"
}

case ${1:-} in
    autobahn) shift; [ $# -gt 0 ] || set -- quick deflate-quick; autobahn "$@" ;;
    abuse-quick) abuse_quick ;;
    abuse-echo) abuse_echo ;;
    abuse-levels) abuse_levels ;;
    tls) tls_suite ;;
    *) sed -n '2,/^set -/p' "$0" | sed '$d'; exit 2 ;;
esac
