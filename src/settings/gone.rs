//! Settings that went: a start with one of them ends with status 2.

/// A line for each flag: its name, a space, and what took its place.
pub(super) const GONE: &str = "\
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
deflate-min-bytes messages of 256 bytes to 1 MiB are compressed
deflate-max-bytes messages of 256 bytes to 1 MiB are compressed
deflate-window levels and trades share a window, channels and events do not
close-timeout-ms a closed client has 5 s to end the connection
loop-stall-ms /ready is 503 after 2 s without a turn of the loop
bus-queue-messages-max 1024 messages may wait between the bus and the loop
candle-grace-ms a candle takes late trades for 500 ms
candle-pairs-max there are at most 30000 candles
retained-subjects-max a pattern has at most 1000 last values
channel-name-bytes-max a name may have 512 bytes
all-wildcards-max all clients together may hold 1000 different patterns
wildcards-per-ip-max an address gets a pattern only while it holds fewer than are free of 1000
calls-max 100 calls may be in flight
proxy-connections-per-ip-max an address gets a connection only while it holds fewer than are free of --proxy-connections-max
events-bus-waiting-max 1000 pushes may wait for other instances
events-bus-instances-max 64 instances may be on the bus
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
redis-host use REDIS_HOST in the environment, or --redis-url
redis-port use REDIS_PORT in the environment, or --redis-url
node-env use NODE_ENV in the environment";
