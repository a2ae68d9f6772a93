//! The table: every setting of every gateway. Nothing else knows a flag's name, range or default.
//!
//! Rows stand in the order of `--help`, those of one heading together. A setting whose default or
//! env names differ between gateways has a row for each of them.

use super::kind::{Kind, Unit};
use super::setting::Heading::{
    self, Bus, Clients, Connection, Lifecycle, Listening, Logs, Loop, Market, Nats, SendQueue,
    Session,
};
use super::setting::Setting;
use super::setting::Subcommand::{Demo, Health, Levels};

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
const GIB: u64 = 1024 * MIB;
const MINUTE_MS: u64 = 60_000;
const HOUR_MS: u64 = 60 * MINUTE_MS;

/// Every setting: flag, env, default, unit, range, help.
pub static SETTINGS: &[Setting] = &[
    Setting::new(
        Listening,
        "listen",
        Kind::Addr,
        "0.0.0.0",
        "Address to listen on",
    )
    .more("[::] listens on IPv6, and on IPv4 where the system maps it.")
    .on(&[Levels]),
    Setting::new(
        Listening,
        "listen",
        Kind::Addr,
        "127.0.0.1",
        "Address to listen on",
    )
    .more("The demo is for this machine only; 0.0.0.0 shows it to the network.")
    .on(&[Demo]),
    Setting::new(
        Listening,
        "port",
        Kind::Port,
        "8000",
        "Port for WebSocket and HTTP",
    )
    .more("PORT is read when GATEWAY_PORT is not set.")
    .original_env(&["GATEWAY_PORT", "PORT"])
    .on(&[Levels, Demo]),
    Setting::count(
        Listening,
        "listen-backlog",
        (1, 65_535),
        "4096",
        "Connections that may wait to be accepted",
    )
    .more("The system may lower it (net.core.somaxconn)."),
    Setting::new(
        Nats,
        "nats-url",
        Kind::Urls(&["nats", "tls"]),
        "nats://nats:4222",
        "NATS servers, with commas between them",
    )
    .more("nats://USER:PASSWORD@HOST:PORT or nats://TOKEN@HOST:PORT; shown without the secret.")
    .original_env(&["NATS_URL"])
    .on(&[Levels]),
    Setting::new(
        Nats,
        "ephemeral",
        Kind::Switch,
        "false",
        "Use unnamed consumers, so that every replica gets every message",
    )
    .more("Without it, one instance holds the durables gateway_levels and gateway_flow.")
    .on(&[Levels]),
    Setting::new(
        Session,
        "session-length-min",
        Kind::number(Unit::Minutes, (1, 870)),
        "240",
        "Minutes from the open (09:30 New York) at which bars_since_open stops",
    ),
    Setting::count(
        Market,
        "levels",
        (1, 1000),
        "10",
        "Price levels in each message",
    )
    .on(&[Demo]),
    Setting::new(
        Market,
        "rate-hz",
        Kind::number(Unit::Hertz, (1, 10_000)),
        "4",
        "Messages a second",
    )
    .on(&[Demo]),
    Setting::count(
        Market,
        "seed",
        (0, u64::MAX),
        "1",
        "Start of the random numbers: the same seed, the same market",
    )
    .on(&[Demo]),
    Setting::new(
        Logs,
        "log-format",
        Kind::Choice(&["text", "json"]),
        "text",
        "Lines for people, or one JSON object a line; on standard output",
    ),
    Setting::ms(
        Lifecycle,
        "ready-bus-grace-ms",
        (0, 24 * HOUR_MS),
        "30000",
        "How long the bus may be away before /ready says 503",
    ),
    Setting::ms(
        Lifecycle,
        "loop-stall-ms",
        (10, HOUR_MS),
        "2000",
        "Age of the last turn of the loop from which /ready says 503",
    ),
    Setting::ms(
        Lifecycle,
        "drain-delay-ms",
        (0, HOUR_MS),
        "0",
        "At a stop: how long to go on accepting while /ready says 503",
    )
    .more("Time for a load balancer to notice. Then newcomers get 503."),
    Setting::ms(
        Lifecycle,
        "drain-ms",
        (0, HOUR_MS),
        "0",
        "At a stop: spread the closes over this time",
    )
    .more("So that clients do not all come back to the next instance in one moment."),
    Setting::ms(
        Lifecycle,
        "stop-timeout-ms",
        (100, HOUR_MS),
        "5000",
        "At a stop: the longest time for it, --drain-delay-ms and --drain-ms apart",
    )
    .more("What is not closed by then is cut. A second signal cuts at once."),
    Setting::new(
        Clients,
        "allowed-origins",
        Kind::Origins,
        "",
        "Origins that browsers may come from; empty or * for any",
    )
    .more("As browsers write them, with commas between them: https://example.com,http://a:8080."),
    Setting::count(
        Clients,
        "connections-max",
        (0, 10_000_000),
        "0",
        "Connections at once, HTTP included; 0 for no limit",
    )
    .more("The limit on open files counts as well."),
    Setting::ms(
        Clients,
        "handshake-timeout-ms",
        (100, HOUR_MS),
        "10000",
        "From accepting a connection to its whole request head",
    ),
    Setting::bytes(
        Clients,
        "head-bytes-max",
        (256, MIB),
        "16384",
        "Request head; 431 beyond",
    ),
    Setting::count(
        Clients,
        "head-headers-max",
        (8, 1024),
        "100",
        "Header lines in a request head; 431 beyond",
    ),
    Setting::bytes(
        Clients,
        "message-bytes-max",
        (125, 64 * MIB),
        "1048576",
        "One message from a client, inflated; closed with 1009 beyond",
    ),
    Setting::bytes(
        SendQueue,
        "send-queue-soft-bytes",
        (4 * KIB, GIB),
        "262144",
        "Waiting bytes from which a client counts as slow",
    )
    .more(
        "Frames that replace each other are conflated from here: only the newest stays. Others may \
         stay over it for --send-queue-soft-for-ms.",
    ),
    Setting::ms(
        SendQueue,
        "send-queue-soft-for-ms",
        (0, HOUR_MS),
        "10000",
        "How long a client may stay over the soft limit; closed beyond",
    )
    .more("Only where frames cannot be conflated."),
    Setting::bytes(
        SendQueue,
        "send-queue-hard-bytes",
        (4 * KIB, GIB),
        "1048576",
        "Waiting bytes from which a client is closed",
    )
    .more("Only where frames cannot be conflated. One frame of any size fits an empty queue."),
    Setting::ms(
        SendQueue,
        "send-queue-conflate-after-ms",
        (1, HOUR_MS),
        "1000",
        "Age of the oldest waiting frame from which a queue is conflated",
    ),
    Setting::ms(
        SendQueue,
        "send-queue-stall-ms",
        (100, HOUR_MS),
        "30000",
        "A client that takes no byte for this long is closed",
    )
    .more("Less than 10000 also drops clients on very thin lines that are still alive."),
    Setting::bytes(
        SendQueue,
        "frame-bytes-max",
        (MIB, 1024 * GIB),
        "536870912",
        "All frames in memory together; beyond, the largest queues go first",
    )
    .more("A frame counts once, however many clients wait for it."),
    Setting::bytes(
        SendQueue,
        "control-bytes-max",
        (256, MIB),
        "16384",
        "Waiting pongs of one client; it is not read until they are out",
    ),
    Setting::ms(
        Connection,
        "ping-interval-ms",
        (0, HOUR_MS),
        "20000",
        "Time between pings to a client; 0 sends none",
    ),
    Setting::ms(
        Connection,
        "pong-timeout-ms",
        (100, HOUR_MS),
        "20000",
        "From a ping to its pong; closed with 1011 beyond",
    ),
    Setting::ms(
        Connection,
        "close-timeout-ms",
        (10, HOUR_MS),
        "5000",
        "From a close frame to the end of the connection",
    ),
    Setting::count(
        Connection,
        "deflate-level",
        (0, 9),
        "2",
        "Compression for clients that offer permessage-deflate; 0 for none",
    )
    .more("A message is compressed once for all of them. 1 is fastest, 9 is smallest."),
    Setting::bytes(
        Connection,
        "deflate-min-bytes",
        (0, GIB),
        "256",
        "Messages below this many bytes are not compressed",
    ),
    Setting::bytes(
        Connection,
        "tcp-notsent-lowat-bytes",
        (0, GIB),
        "16384",
        "Unsent bytes that the kernel may hold for a client; 0 for its default",
    )
    .more("What waits in the kernel cannot be conflated, so it should be little."),
    Setting::bytes(
        Loop,
        "turn-message-bytes-max",
        (1, GIB),
        "262144",
        "Message bytes of one client, inflated, that are looked at in one turn",
    ),
    Setting::bytes(
        Loop,
        "write-bytes-max",
        (KIB, 16 * MIB),
        "131072",
        "Bytes handed to one client in one write",
    ),
    Setting::bytes(
        Loop,
        "read-bytes-per-turn-max",
        (KIB, 16 * MIB),
        "65536",
        "Bytes read from one client in one turn",
    ),
    Setting::count(
        Loop,
        "accepts-per-turn-max",
        (1, 65_536),
        "256",
        "Connections accepted in one turn",
    ),
    Setting::bytes(
        Loop,
        "turn-publication-bytes-max",
        (KIB, 512 * MIB),
        "131072",
        "Bytes of messages queued for all before they are written out",
    )
    .more("Never more than half of --send-queue-soft-bytes."),
    Setting::count(
        Bus,
        "bus-queue-messages-max",
        (1, 1_048_576),
        "1024",
        "Messages between the bus and the loop; then the bus has to wait",
    ),
    Setting::bytes(
        Bus,
        "bus-message-bytes-max",
        (KIB, GIB),
        "16777216",
        "One message from the bus; larger ones are counted, logged and skipped",
    ),
    Setting::count(
        Bus,
        "json-depth-max",
        (1, 1024),
        "512",
        "Nesting of JSON; deeper messages are refused",
    ),
    Setting::ms(
        Heading::Health,
        "health-timeout-ms",
        (1, MINUTE_MS),
        "2000",
        "How long the answer may take",
    )
    .on(&[Health]),
];
