//! What `weirgate top` shows of a state: the lines of facts, the lines of rates, and the tables. Names are those of
//! `/operator/state`; a text with several names has a space between them.

/// A line of facts.
pub(super) struct FactsRow {
    /// Empty: the line continues the one before.
    pub(super) title: &'static str,
    /// An object of the state; empty for the state itself.
    pub(super) object: &'static str,
    /// The members to show; empty for all that are not 0.
    pub(super) members: &'static str,
}

const fn facts_of(title: &'static str, object: &'static str, members: &'static str) -> FactsRow {
    FactsRow {
        title,
        object,
        members,
    }
}

/// The lines of facts.
pub(super) const FACTS: [FactsRow; 16] = [
    facts_of(
        "Bus",
        "bus",
        "connected subscribed away_ms reconnects refused stream_behind stream_behind_ms",
    ),
    facts_of("History", "history", "messages reach_ms wanted_ms why"),
    facts_of(
        "",
        "numbers",
        "bus_last_message_unix_ms bus_messages_bad bus_gaps",
    ),
    facts_of("", "events_bus", "up instances"),
    facts_of("Clients", "numbers", "clients connections connections_max"),
    facts_of(
        "",
        "survey",
        "clients_waiting clients_blocked clients_conflating",
    ),
    facts_of("Slow", "slow", ""),
    facts_of("Latency", "latency", "p50_ms p99_ms p999_ms"),
    facts_of("Late", "", "late_ms late_all_ms"),
    facts_of(
        "TLS",
        "tls",
        "certificate_ends_unix_ms handshakes_full handshakes_resumed handshakes_failed handshakes_open",
    ),
    facts_of(
        "Queues",
        "numbers",
        "messages_waiting send_queue_bytes send_queue_peak_bytes",
    ),
    facts_of("", "numbers", "frame_bytes bus_queue_messages"),
    facts_of(
        "Lost",
        "numbers",
        "messages_conflated messages_shed messages_dropped",
    ),
    facts_of("Ends", "closes", ""),
    facts_of("Names", "names_refused", ""),
    facts_of("Cut off", "", "revoked"),
];

/// A line of rates.
pub(super) struct RatesRow {
    /// Empty: the line continues the one before.
    pub(super) title: &'static str,
    /// Members of the object `numbers`.
    pub(super) counters: &'static str,
}

const fn rates_of(title: &'static str, counters: &'static str) -> RatesRow {
    RatesRow { title, counters }
}

/// The lines of rates.
pub(super) const RATES: [RatesRow; 3] = [
    rates_of("Per s", "bus_messages messages_sent sent_bytes"),
    rates_of(
        "",
        "received_messages connections_accepted connections_ended",
    ),
    rates_of("", "messages_conflated messages_shed messages_dropped"),
];

/// A table of the elements of a list.
pub(super) struct TableRow {
    /// The title, which is also the head of the first column.
    pub(super) title: &'static str,
    /// The object of the state with the list; empty for the state itself.
    pub(super) object: &'static str,
    pub(super) list: &'static str,
    /// The members of an element, one for each column.
    pub(super) columns: &'static str,
}

const fn table_of(
    title: &'static str,
    object: &'static str,
    list: &'static str,
    columns: &'static str,
) -> TableRow {
    TableRow {
        title,
        object,
        list,
        columns,
    }
}

/// The tables.
pub(super) const TABLES: [TableRow; 9] = [
    table_of("Consumers", "bus", "consumers", "name lag away_ms stalled"),
    table_of("Services", "", "services", "name away"),
    table_of(
        "Slow clients",
        "survey",
        "slowest",
        "client user topic path state why queue_bytes oldest_ms queue_messages conflated age_ms tls session",
    ),
    table_of(
        "Topics",
        "survey",
        "busiest_topics",
        "name members recent_messages recent_bytes",
    ),
    table_of(
        "Busy clients",
        "survey",
        "busiest",
        "client user topic path recent_messages messages_out messages_in age_ms tls session",
    ),
    table_of(
        "Ended last",
        "",
        "ends",
        "client user reason refusal code why at_unix_ms age_ms messages_out conflated tls path",
    ),
    REFUSED_NAMES,
    table_of(
        "Cut off",
        "",
        "revoked_newest",
        "user jti address role token",
    ),
    table_of("Limits", "", "limits", "name now max"),
];
/// A table of a process, and also of a search.
const REFUSED_NAMES: TableRow = table_of(
    "Refused names",
    "",
    "refused_names",
    "name client user role reason times at_unix_ms session",
);
/// The tables after the clients that were found.
pub(super) const FOUND_TABLES: [TableRow; 2] = [
    REFUSED_NAMES,
    table_of(
        "Ended last",
        "",
        "ended",
        "client user reason refusal code why at_unix_ms age_ms path",
    ),
];
/// The columns of a client's names.
pub(super) const NAME_COLUMNS: &str = "name from members messages last_ms";
