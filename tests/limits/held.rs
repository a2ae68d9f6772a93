//! What is held for all clients together: each `Quota` of the program, with its rule. A test in
//! tests/blackbox/test_held.py compares the table with the metrics of all gateways.

/// One `Quota`.
pub(crate) struct Held {
    /// The label `of` of `weirgate_held`.
    pub(crate) of: &'static str,
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
    /// Idle connections are closed for new ones, and without one these wait.
    EvictingIdle,
}

impl Rule {
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Granting => "granting",
            Self::GivingWay => "giving way",
            Self::Evicting => "evicting, then granting",
            Self::EvictingIdle => "evicting",
        }
    }
}

const ALL: &str = "all";

pub(crate) const HELD: &[Held] = &[
    Held {
        of: "connection_bytes",
        limit: "share `connection-bytes`",
        rule: Rule::Evicting,
        gateways: ALL,
    },
    Held {
        of: "refused_bytes",
        limit: "a sixteenth of the share `connection-bytes`, for refusals and probes",
        rule: Rule::Granting,
        gateways: ALL,
    },
    Held {
        of: "received_bytes",
        limit: "share `unfinished-bytes`",
        rule: Rule::GivingWay,
        gateways: ALL,
    },
    Held {
        of: "http_bytes",
        limit: "share `http-bytes`",
        rule: Rule::GivingWay,
        gateways: ALL,
    },
    Held {
        of: "tls_bytes",
        limit: "--tls-held-bytes-max",
        rule: Rule::GivingWay,
        gateways: ALL,
    },
    Held {
        of: "tls_handshakes",
        limit: "--tls-handshakes-max",
        rule: Rule::GivingWay,
        gateways: "all, with `--tls-port`",
    },
    Held {
        of: "resumed_messages",
        limit: "share `resumed-bytes`, 16 bytes for each message",
        rule: Rule::Granting,
        gateways: ALL,
    },
    Held {
        of: "names",
        limit: "--all-channels-max",
        rule: Rule::Granting,
        gateways: "channels",
    },
    Held {
        of: "patterns",
        limit: "--all-wildcards-max",
        rule: Rule::Granting,
        gateways: "channels",
    },
    Held {
        of: "name_bytes",
        limit: "share `all-channel-name-bytes`",
        rule: Rule::Granting,
        gateways: "channels",
    },
    Held {
        of: "last_values",
        limit: "share `retained-bytes`",
        rule: Rule::Granting,
        gateways: "channels",
    },
    Held {
        of: "waiting_bytes",
        limit: "share `waiting-bytes`",
        rule: Rule::Granting,
        gateways: "events",
    },
    Held {
        of: "broadcast_bytes",
        limit: "share `all-broadcast-bytes`; weirgate ends only requests whose body it is still reading",
        rule: Rule::GivingWay,
        gateways: "events",
    },
    Held {
        of: "answer_bytes",
        limit: "share `answer-bytes`; weirgate ends only calls whose response it is still reading",
        rule: Rule::GivingWay,
        gateways: "events",
    },
    Held {
        of: "orphans",
        limit: "10,000 messages of disconnected devices",
        rule: Rule::Granting,
        gateways: "events",
    },
    Held {
        of: "calls",
        limit: "100 calls to all services; each service has a part of them, such as `calls_lobby` or, for a route, \
                `calls_orders.*`",
        rule: Rule::Granting,
        gateways: "events",
    },
    Held {
        of: "service_connections",
        limit: "[open connections](#connections-to-services) to all services",
        rule: Rule::EvictingIdle,
        gateways: "events",
    },
    Held {
        of: "proxy_bytes",
        limit: "share `proxy-bytes`",
        rule: Rule::Granting,
        gateways: "events",
    },
    Held {
        of: "proxy_connections",
        limit: "--proxy-connections-max",
        rule: Rule::Granting,
        gateways: "events",
    },
];
