//! The settings of earlier versions that weirgate no longer has. Each is an error that says what replaces the setting.

use super::env::PREFIX;

/// Returns what replaced a removed setting. `name` is the flag with its dashes, or the name in the environment.
pub(super) fn replacement_of(name: &str) -> Option<&'static str> {
    let flag = name.trim_start_matches("--").trim_start_matches(PREFIX);
    let flag = flag.to_ascii_lowercase().replace('_', "-");
    let mut all = REMOVED.lines().filter_map(|line| line.split_once(' '));
    all.find(|(removed, _)| *removed == flag)
        .map(|(_, instead)| instead)
}

/// A line for each removed flag: its name, a space, and what replaces it.
const REMOVED: &str = "\
admin-tail use weirgate tail
listen-backlog the backlog is 4096, which net.core.somaxconn may lower
upstream-answer-bytes-max a response to a call may have 64 MiB
connection-burst-per-ip a burst is 20 connections, with --connection-rate-per-ip
control-bytes-max 4 KiB of pongs may wait for a client
turn-message-bytes-max the budgets of a turn are constants
turn-all-message-bytes-max the budgets of a turn are constants
turn-publication-bytes-max the budgets of a turn are constants
read-bytes-per-turn-max the budgets of a turn are constants
accepts-per-turn-max the budgets of a turn are constants
write-bytes-max the budgets of a turn are constants
health-timeout-ms weirgate health waits 2 s
head-headers-max a request head may have 100 header lines
json-depth-max JSON may nest 512 levels
event-stream-sends-max a request may have 32 parameters send
deflate-min-bytes messages of 256 bytes to 1 MiB are compressed, and of 64 bytes after similar ones
deflate-max-bytes messages of 256 bytes to 1 MiB are compressed
deflate-window messages refer to earlier ones of the connection
close-timeout-ms a closed client has 5 s to end the connection
loop-stall-ms /ready is 503 after 2 s without a turn of the loop
bus-queue-messages-max 1024 messages may wait between the bus and the loop
candle-grace-ms a candle takes late trades for 500 ms
candle-pairs-max there are at most 30000 candles
retained-subjects-max a pattern has at most 1000 last values
channel-name-bytes-max a name may have 512 bytes
wildcards-per-ip-max an address gets a pattern only while it holds fewer than are free of --all-wildcards-max
calls-max 100 calls may be in flight
proxy-connections-per-ip-max an address gets a connection only while it holds fewer than are free of --proxy-connections-max
events-bus-waiting-max 1000 pushes may wait for other instances
events-bus-instances-max 1024 instances may be on the bus
look-back-messages-max at most 200 messages of a subject are fetched
unfinished-bytes-max a fixed share of --memory-max; --check shows the shares
inflate-windows-bytes-max a fixed share of --memory-max; --check shows the shares
bus-queue-bytes-max a fixed share of --memory-max; --check shows the shares
broadcast-bytes-max a fixed share of --memory-max; --check shows the shares
all-channel-name-bytes-max a fixed share of --memory-max; --check shows the shares
events-bus-sentinels use --redis-sentinels
events-bus-sentinel-master use --redis-sentinel-master
events-bus-tls-name use --redis-tls-name
events-bus-cert use --nats-cert
events-bus-key use --nats-key
events-bus-creds use --nats-creds
events-bus-nkey use --nats-nkey
events-bus-ca use --redis-ca-file or --nats-ca, for the kind of --events-bus
retained-bytes-max a fixed share of --memory-max; --check shows the shares
waiting-bytes-max a fixed share of --memory-max; --check shows the shares
renewals-per-second-max all clients together may send 500 new tokens a second
orphans-max 10000 messages of devices that have gone may wait
revoked-max 10000 users, tokens and addresses may be refused
tls-handshakes-per-ip-max an address gets a handshake only while it holds fewer than are free of --tls-handshakes-max
redis-host use REDIS_HOST in the environment, or --redis-url
redis-port use REDIS_PORT in the environment, or --redis-url
node-env use NODE_ENV in the environment
internal-auth-token use INTERNAL_AUTH_TOKEN in the environment
rate-limit-rps use RATE_LIMIT_RPS in the environment
rate-limit-burst use RATE_LIMIT_BURST in the environment
wildcards-max use MAX_WILDCARD_SUBSCRIPTIONS in the environment
default-role use DEFAULT_ROLE in the environment
gateway-api-key use GATEWAY_API_KEY in the environment
jwt-secret use JWT_SECRET in the environment
jwt-secret-before use JWT_SECRET_BEFORE in the environment";
