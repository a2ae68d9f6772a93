//! What is held for all clients together: each `Quota` of the program, with its rule. A test in
//! tests/blackbox/test_held.py compares the table with the metrics of all gateways.

/// One `Quota`.
pub(crate) struct Held {
    /// The label `of` of `weirgate_held`.
    pub(crate) of: &'static str,
    pub(crate) what: &'static str,
    /// A flag, or the row of a constant.
    pub(crate) limit: &'static str,
    pub(crate) rule: Rule,
    pub(crate) gateways: &'static str,
}

#[derive(Clone, Copy)]
pub(crate) enum Rule {
    Granting,
    GivingWay,
    /// Connections of plain HTTP without a request give way, and then granting.
    Evicting,
}

impl Rule {
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Granting => "granting",
            Self::GivingWay => "giving way",
            Self::Evicting => "evicting, then granting",
        }
    }
}

const ALL: &str = "all";

pub(crate) const HELD: &[Held] = &[
    Held {
        of: "connection_bytes",
        what: "memory of [connections](#connections-and-memory)",
        limit: "share `connection-bytes`",
        rule: Rule::Evicting,
        gateways: ALL,
    },
    Held {
        of: "refused_bytes",
        what: "memory of connections that get a refusal or the answer to a probe for want of room",
        limit: "a sixteenth of the share `connection-bytes`",
        rule: Rule::Granting,
        gateways: ALL,
    },
    Held {
        of: "received_bytes",
        what: "unfinished heads and messages, what was read before a pause, and untaken pongs",
        limit: "share `unfinished-bytes`",
        rule: Rule::GivingWay,
        gateways: ALL,
    },
    Held {
        of: "http_bytes",
        what: "plain HTTP: requests read before they are used, answers that wait to be written",
        limit: "share `http-bytes`",
        rule: Rule::GivingWay,
        gateways: ALL,
    },
    Held {
        of: "tls_bytes",
        what: "unfinished handshakes and records, and records that the kernel does not take",
        limit: "--tls-held-bytes-max",
        rule: Rule::GivingWay,
        gateways: ALL,
    },
    Held {
        of: "tls_handshakes",
        what: "handshakes of TLS under way",
        limit: "--tls-handshakes-max",
        rule: Rule::GivingWay,
        gateways: "all, with `--tls-port`",
    },
    Held {
        of: "resumed_messages",
        what: "missed messages that wait for clients that came back",
        limit: "share `resumed-bytes`, 16 bytes each",
        rule: Rule::Granting,
        gateways: ALL,
    },
    Held {
        of: "names",
        what: "names that clients hold, patterns among them",
        limit: "--all-channels-max",
        rule: Rule::Granting,
        gateways: "channels",
    },
    Held {
        of: "patterns",
        what: "patterns that clients hold",
        limit: "1,000",
        rule: Rule::Granting,
        gateways: "channels",
    },
    Held {
        of: "name_bytes",
        what: "memory of these names: 640 bytes and the text for each, 96 bytes for each client with a name; answers \
               that wait for the bus",
        limit: "share `all-channel-name-bytes`",
        rule: Rule::Granting,
        gateways: "channels",
    },
    Held {
        of: "last_values",
        what: "bytes of last values that wait for clients (`--retained`)",
        limit: "share `retained-bytes`",
        rule: Rule::Granting,
        gateways: "channels",
    },
    Held {
        of: "waiting_bytes",
        what: "memory of messages of devices that wait or are being answered",
        limit: "share `waiting-bytes`",
        rule: Rule::Granting,
        gateways: "events",
    },
    Held {
        of: "broadcast_bytes",
        what: "bodies of broadcasts; only those that are still read give way",
        limit: "share `all-broadcast-bytes`",
        rule: Rule::GivingWay,
        gateways: "events",
    },
    Held {
        of: "answer_bytes",
        what: "responses to calls; only those that are still read give way",
        limit: "share `answer-bytes`",
        rule: Rule::GivingWay,
        gateways: "events",
    },
    Held {
        of: "orphans",
        what: "messages of devices that have gone",
        limit: "10,000",
        rule: Rule::Granting,
        gateways: "events",
    },
    Held {
        of: "calls",
        what: "calls to services under way; `calls_lobby`, `calls_measurement`, `calls_simulation` and `calls_orders.*` of a route: the part of a service",
        limit: "100",
        rule: Rule::Granting,
        gateways: "events",
    },
    Held {
        of: "proxy_bytes",
        what: "buffers of the proxy's connections, 200 KiB each",
        limit: "share `proxy-bytes`",
        rule: Rule::Granting,
        gateways: "events",
    },
    Held {
        of: "proxy_connections",
        what: "connections to a service for the proxy",
        limit: "--proxy-connections-max",
        rule: Rule::Granting,
        gateways: "events",
    },
];
