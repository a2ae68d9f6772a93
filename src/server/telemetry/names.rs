//! Every metric that does not belong to one contract alone: name, kind, labels, help text, and the source of its value.
//! The metrics of a contract are in tables of the same form in the folders of the gateways. The names follow SemVer,
//! because dashboards depend on them.
//!
//! A new number of the event loop needs a field in the counting struct, and a row here.
//!
//! The names follow the rules of Prometheus: base units (seconds, bytes), `_total` on counters only, and labels with
//! few and known values (never a client, symbol or channel).
//!
//! At the end of the file is [`MetricName`], the type of a row.

use std::fmt;

use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Unit;

use super::MetricsReading;
use super::samples::{ByLabel, IfAny, Info, Writer};
use weirgate_runtime::{BusStatus, ConsumerStatus};

/// Makes a constant of each row, and the list of all. In the values of the rows, `$at` is the [`MetricsReading`]. A row that
/// begins with `[pub]` has no value here: gateways give it, so their crate names the constant.
macro_rules! metric_names {
    (|$at:ident| $($([$public:tt])? $id:ident = $kind:ident $name:literal [$($label:literal),*] $help:literal
        $(=> $value:expr)?;)*) => {
        /// The table.
        impl MetricName {
            $(
                metric_names! { @row [$($public)?] $id = Self {
                    name: $name,
                    kind: MetricKind::$kind,
                    labels: &[$($label),*],
                    help: $help,
                    write: metric_names!(@write $at $($value)?),
                }, $help }
            )*

            /// All metrics of this table.
            pub const ALL: &[Self] = &[$(Self::$id),*];
        }
    };
    (@row [] $($row:tt)*) => {
        metric_names! { @row [pub(crate)] $($row)* }
    };
    (@row [$vis:vis] $id:ident = $row:expr, $help:literal) => {
        #[doc = $help]
        $vis const $id: Self = $row;
    };
    (@write $at:ident) => {
        None
    };
    (@write $at:ident $value:expr) => {
        Some(|metric, $at, out| out.write(metric, $value))
    };
}

fn seconds(unix_ms: i64) -> f64 {
    unix_ms as f64 / 1e3
}

metric_names! { |at|
    CLIENTS = Gauge "weirgate_clients" []
        "Open WebSocket connections and event streams, from the 101 or 200 until the close."
        => at.turn.hub.open;
    EVENT_STREAM_CLIENTS = Gauge "weirgate_event_stream_clients" []
        "Clients that get an event stream (--event-stream)."
        => at.turn.hub.open_other;
    CLIENTS_PAUSED = Gauge "weirgate_clients_paused" ["reason"]
        "Clients that weirgate does not read from for now; a client counts once for each of its reasons."
        => ByLabel(at.turn.hub.paused_clients());
    CLIENTS_ENDED_UNREAD = Counter "weirgate_clients_ended_unread_total" []
        "Clients that ended while weirgate did not read from them; their unread messages are dropped."
        => at.turn.hub.ended_unread;
    CONNECTIONS = Gauge "weirgate_connections" ["phase"]
        "Connections by phase."
        => ByLabel(at.turn.connections());
    CONNECTIONS_MAX = Gauge "weirgate_connections_max" []
        "Limit of open connections, from --connections-max, the limit on open files and memory."
        => at.turn.shell.connections_max;
    CONNECTIONS_ACCEPTED = Counter "weirgate_connections_accepted_total" []
        "Connections accepted, each once."
        => at.turn.hub.accepted;
    CONNECTIONS_RETURNED = Counter "weirgate_connections_returned_total" []
        "Connections of plain HTTP that later requested a WebSocket or an event stream."
        => at.turn.hub.returned;
    CLIENT_CONNECTIONS = Counter "weirgate_client_connections_total" ["outcome"]
        "Request heads handled by the event loop."
        => ByLabel(at.turn.outcomes());
    CLIENT_CLOSES = Counter "weirgate_client_closes_total" ["reason"]
        "Connections that have ended; one that became plain HTTP does not count."
        => ByLabel(at.turn.closes());
    ADDRESSES = Gauge "weirgate_addresses" []
        "Client addresses with open or recent connections; counted only if connections are limited by address."
        => at.turn.shell.addresses;
    BUS_MESSAGES = Counter "weirgate_bus_messages_total" ["subject"]
        "Messages taken from the bus."
        => at.subjects(|subject| subject.messages);
    BUS_MESSAGES_BAD = Counter "weirgate_bus_messages_bad_total" ["subject"]
        "Messages from the bus that weirgate cannot use; they are logged and not sent to clients."
        => at.subjects(|subject| subject.messages_bad);
    BUS_MESSAGES_OLD = Counter "weirgate_bus_messages_old_total" ["subject"]
        "Messages from the bus that are skipped because a newer one of the same stream arrived before."
        => at.subjects(|subject| subject.messages_old);
    BUS_MESSAGES_IGNORED = Counter "weirgate_bus_messages_ignored_total" []
        "Messages from the bus on a subject that has no relay."
        => at.turn.feed.messages_ignored;
    BUS_GAPS = Counter "weirgate_bus_gaps_total" []
        "Times that messages were, or may have been, lost between the bus and weirgate."
        => at.turn.feed.gaps;
    BUS_LAST_MESSAGE = Gauge "weirgate_bus_last_message_timestamp_seconds" []
        "Unix time of the newest good message; absent before the first."
        => at.turn.feed.last_message_unix_ms.map(seconds);
    FEED_LAST_MESSAGE = Gauge "weirgate_feed_last_message_timestamp_seconds" ["subject"]
        "Unix time of the newest good message of the subject; absent before the first."
        => ByLabel(at.turn.feed.subjects.iter().filter_map(|one| {
            Some((one.subject.as_str(), seconds(one.last_message?.unix_ms())))
        }));
    FEED_QUIET_AFTER = Gauge "weirgate_feed_quiet_after_seconds" ["subject"]
        "Silence after which a subject counts as quiet: ten times its usual interval, at least 5 s; absent before its \
         tenth message."
        => ByLabel(at.turn.feed.subjects.iter().filter_map(|one| {
            Some((one.subject.as_str(), one.quiet_after_us()? as f64 / 1e6))
        }));
    TOPICS_QUIET = Gauge "weirgate_topics_quiet" []
        "Quiet topics among those that have clients and usually a message a second; counted at a request for metrics \
         or the operator's page, and absent before the first."
        => IfAny(at.surveyed.as_ref().map(|surveyed| surveyed.survey.topics_quiet));
    BUS_QUEUE_MESSAGES = Gauge "weirgate_bus_queue_messages" []
        "Messages read from the bus that wait for the event loop."
        => at.turn.shell.bus_queue_messages;
    BUS_QUEUE_MESSAGES_MAX = Gauge "weirgate_bus_queue_messages_max" []
        "Limit of weirgate_bus_queue_messages; at the limit weirgate stops reading from the bus."
        => at.turn.shell.bus_queue_messages_max;
    BUS_QUEUE_BYTES = Gauge "weirgate_bus_queue_bytes" []
        "Bytes of the messages read from the bus that wait for the event loop."
        => at.turn.shell.bus_queue_bytes;
    BUS_QUEUE_BYTES_MAX = Gauge "weirgate_bus_queue_bytes_max" []
        "Limit of weirgate_bus_queue_bytes (a share of --memory-max)."
        => at.turn.shell.bus_queue_bytes_max;
    FRAMES_SENT = Counter "weirgate_frames_sent_total" []
        "Messages that the kernel has taken completely, counted once per client."
        => at.turn.hub.messages_sent;
    BYTES_SENT = Counter "weirgate_bytes_sent_total" []
        "Bytes taken by the kernel for WebSocket clients."
        => at.turn.hub.bytes_sent;
    MESSAGES_QUEUED = Counter "weirgate_messages_queued_total" []
        "Messages for clients, counted once per client; each is then sent, conflated, shed or dropped, or still waits."
        => at.turn.hub.messages_queued;
    MESSAGES_CONFLATED = Counter "weirgate_messages_conflated_total" []
        "Queued messages replaced by a newer one of the same key, because the client was slow or had asked for fewer."
        => at.turn.hub.messages_conflated;
    MESSAGES_SHED = Counter "weirgate_messages_shed_total" []
        "Messages not sent to a client because of a rate limit, or because --frame-bytes-max has no room for their encoding."
        => at.turn.hub.messages_shed;
    MESSAGES_DROPPED = Counter "weirgate_messages_dropped_total" []
        "Queued messages lost because the connection ended first."
        => at.turn.hub.messages_dropped;
    MESSAGES_WAITING = Gauge "weirgate_messages_waiting" []
        "Messages in all send queues now."
        => at.turn.hub.messages_waiting;
    SEND_QUEUE_BYTES = Gauge "weirgate_send_queue_bytes" []
        "Bytes in all send queues; a frame counts once for each queue."
        => at.turn.hub.send_queue_bytes;
    SEND_QUEUE_PEAK = Gauge "weirgate_send_queue_peak_bytes" []
        "Largest send queue of one client in the last 10 to 20 seconds."
        => at.turn.hub.send_queue_peak_bytes;
    FRAME_BYTES_ALIVE = Gauge "weirgate_frame_bytes_alive" []
        "Memory of all encoded messages (frames), each counted once however many clients wait for it, and of send \
         queues with more than 16 frames."
        => at.turn.shell.frame_bytes_alive;
    FRAME_BYTES_MAX = Gauge "weirgate_frame_bytes_max" []
        "Limit of weirgate_frame_bytes_alive (--frame-bytes-max); over the limit slow clients are dropped."
        => at.turn.shell.frame_bytes_max;
    INFLATE_WINDOW_BYTES = Gauge "weirgate_inflate_window_bytes" []
        "Bytes of text that is kept because the next compressed messages from clients may refer to it."
        => at.turn.shell.inflate_window_bytes;
    INFLATE_WINDOW_BYTES_GRANTED = Gauge "weirgate_inflate_window_bytes_granted" []
        "Bytes reserved for clients whose compressed messages may refer to earlier ones: the whole window of each."
        => at.turn.shell.inflate_window_bytes_granted;
    INFLATE_WINDOWS_REFUSED = Counter "weirgate_inflate_windows_refused_total" []
        "Clients whose compressed messages may not refer to earlier ones, because the share inflate-window-bytes is \
         used up."
        => at.turn.shell.inflate_windows_refused;
    WRITES_SHORT = Counter "weirgate_writes_short_total" []
        "Writes that the kernel did not take completely, because the client is slow."
        => at.turn.hub.writes_short;
    SLOW_CLIENTS = Gauge "weirgate_slow_clients" ["why"]
        "Clients in whose send queue messages waited for half of the last second."
        => ByLabel(at.turn.hub.slow.by_cause());
    SLOW_CLIENT_SECONDS = Counter "weirgate_slow_client_seconds_total" ["why"]
        "Sum over all clients of the time for which each was slow."
        => ByLabel(at.turn.hub.slow.seconds());
    TCP_INFO_CALLS = Counter "weirgate_tcp_info_calls_total" []
        "Calls of getsockopt(TCP_INFO) for slow clients, one a second for each."
        => at.turn.hub.slow.calls;
    SEND_ERRORS = Counter "weirgate_send_errors_total" ["kind"]
        "Writes that failed and ended the connection."
        => ByLabel(at.turn.send_errors());
    ACCEPT_ERRORS = Counter "weirgate_accept_errors_total" []
        "Failed accepts, for example without free file descriptors."
        => at.turn.shell.accept_errors;
    TLS_HANDSHAKES = Counter "weirgate_tls_handshakes_total" ["outcome"]
        "TLS handshakes that have ended.";
    TLS_HANDSHAKES_OPEN = Gauge "weirgate_tls_handshakes_open" ["state"]
        "Connections whose TLS handshake has not ended.";
    HELD = Gauge "weirgate_held" ["of"]
        "Bytes, or other units such as names or calls, that are held for all clients together.";
    HELD_MAX = Gauge "weirgate_held_max" ["of"]
        "Limit of weirgate_held.";
    HELD_REFUSED = Counter "weirgate_held_refused_total" ["of"]
        "Requests refused because the client's address already held more than was free.";
    HELD_EVICTED = Counter "weirgate_held_gave_way_total" ["of"]
        "Holders, such as clients or requests, that weirgate ended because weirgate_held was over its limit.";
    TLS_HELD_BYTES = Gauge "weirgate_tls_held_bytes" []
        "Bytes that TLS holds for all clients."
        => at.held("tls_bytes").unwrap_or_default();
    TLS_CERTIFICATE_EXPIRY = Gauge "weirgate_tls_certificate_expiry_timestamp_seconds" []
        "Unix time when the first certificate expires.";
    DEFLATE_ENCODINGS = Counter "weirgate_deflate_encodings_total" ["kind"]
        "Messages encoded for permessage-deflate, counted once for all clients that share the result; kind: chained \
         (refers to an earlier message), alone (refers to none), stored (not compressed)."
        => ByLabel(at.turn.deflate_encodings());
    RECEIVED_MESSAGES = Counter "weirgate_received_messages_total" []
        "WebSocket messages from clients."
        => at.turn.hub.received_messages;
    RECEIVED_BYTES = Counter "weirgate_received_bytes_total" []
        "Bytes read from clients."
        => at.turn.hub.received_bytes;
    LOOP_TURNS = Counter "weirgate_loop_turns_total" []
        "Turns of the event loop."
        => at.durations().turns.counts().count();
    LOOP_LAST_TURN = Gauge "weirgate_loop_last_turn_timestamp_seconds" []
        "Unix time of the end of the event loop's last turn; a turn ends at least every 500 ms."
        => seconds(at.turn.turn_ended_unix_ms);
    LOOP_TURN_DURATION = Histogram "weirgate_loop_turn_duration_seconds" []
        "Time of one turn of the event loop, without its wait for events."
        => at.durations().turns.counts();
    LOOP_BUDGETS_SPENT = Counter "weirgate_loop_budgets_spent_total" ["budget"]
        "Times that one kind of work used up its time budget in a turn of the event loop; the rest of the work waited \
         for the next turn."
        => ByLabel(at.turn.times.spent());
    SPIN = Counter "weirgate_spin_seconds_total" ["thread"]
        "Time that a thread polled without sleeping (--spin-us)."
        => ByLabel(at.spins().map(|(thread, spin)| (thread, spin.spun_us as f64 / 1e6)));
    WAKE_UPS_SAVED = Counter "weirgate_wake_ups_saved_total" ["thread"]
        "Times that a thread found work while it polled, so that no system call had to wake it (--spin-us)."
        => ByLabel(at.spins().map(|(thread, spin)| (thread, spin.found)));
    LATE_SECONDS = Counter "weirgate_late_seconds_total" []
        "Lateness of the event loop: the sum of the longest delay in each quarter of a second, if it is 20 ms or more."
        => at.turn.times.late_us as f64 / 1e6;
    BEHIND = Gauge "weirgate_behind" []
        "1 while the event loop is too slow to write every message to every client, so that clients get only the \
         newest states."
        => u64::from(at.turn.hub.overload.is_behind);
    BEHIND_SECONDS = Counter "weirgate_behind_seconds_total" []
        "Time for which weirgate_behind was 1."
        => at.turn.hub.overload.behind_us as f64 / 1e6;
    PONG_SECONDS = Histogram "weirgate_pong_seconds" []
        "Time from when the kernel took a ping until the pong arrived from the client's program."
        => at.durations().pongs.counts();
    STAGE_DURATION = Histogram "weirgate_stage_duration_seconds" ["stage"]
        "Time that a message takes in each stage of its path from the bus to the clients."
        => ByLabel(at.stages());
    CAUGHT_UP = Gauge "weirgate_caught_up" []
        "1 once weirgate has read the messages that the bus had kept before the start."
        => at.telemetry.event_loop.caught_up();
    DRAINING = Gauge "weirgate_draining" []
        "1 after the first stop signal."
        => at.telemetry.event_loop.draining();
    BUS_CONNECTED = Gauge "weirgate_bus_connected" []
        "1 while the bus responds."
        => IfAny(at.bus().map(BusStatus::connected));
    BUS_SUBSCRIBED = Gauge "weirgate_bus_subscribed" []
        "1 while the bus has confirmed every subscription of weirgate."
        => IfAny(at.bus().map(BusStatus::subscribed));
    BUS_RECONNECTS = Counter "weirgate_bus_reconnects_total" []
        "Reconnections to the bus."
        => IfAny(at.bus().map(BusStatus::reconnects));
    BUS_REFUSED = Counter "weirgate_bus_subscriptions_refused_total" []
        "Subscriptions refused by the permissions of the bus."
        => IfAny(at.bus().map(BusStatus::refused));
    BUS_LOOK_BACKS_LIMITED = Counter "weirgate_bus_look_backs_limited_total" []
        "Searches for the last good message of a subject that were given up after 200 bad messages."
        => IfAny(at.bus().map(BusStatus::look_backs_limited));
    BUS_RETAINED_LIMITED = Counter "weirgate_bus_retained_limited_total" []
        "Names of which not all last values or newest messages are sent, because a limit was reached or an answer could not be read."
        => IfAny(at.bus().map(BusStatus::retained_limited));
    BUS_RETAINED_REFUSED = Counter "weirgate_bus_retained_refused_total" []
        "Names whose last values (--retained) JetStream refused, or did not send within 5 s."
        => IfAny(at.bus().map(BusStatus::retained_refused));
    CONSUMER_LAG = Gauge "weirgate_consumer_lag_messages" ["consumer"]
        "Messages in the stream that the bus has not yet delivered to a consumer; absent while unknown."
        => IfAny(at.consumers(ConsumerStatus::lag));
    CONSUMER_SILENT = Gauge "weirgate_consumer_silent" ["consumer"]
        "1 while the connection to NATS is good but JetStream does not answer questions about a consumer."
        => IfAny(at.consumers(|consumer| Some(consumer.is_silent().into())));
    CONSUMER_AWAY = Gauge "weirgate_consumer_away" ["consumer"]
        "1 while the connection to NATS is good but a consumer cannot be set up."
        => IfAny(at.consumers(|consumer| Some(consumer.is_away().into())));
    CONSUMER_SETUPS_FAILED = Counter "weirgate_consumer_setups_failed_total" ["consumer"]
        "Failed attempts to set up a consumer while the connection to NATS was good."
        => IfAny(at.consumers(|consumer| Some(consumer.setups_failed())));
    CONSUMER_STALLED = Gauge "weirgate_consumer_stalled" ["consumer"]
        "1 while a consumer has messages but the bus delivers none for 5 s, or refuses its acknowledgements."
        => IfAny(at.consumers(|consumer| Some(consumer.stall().is_some().into())));
    [pub] SUBSCRIBED_NAMES = Gauge "weirgate_subscribed_names" ["kind"]
        "Different names and patterns that clients are subscribed to; a name of several clients counts once.";
    HISTORY_MESSAGES = Gauge "weirgate_history_messages" []
        "Messages kept for clients that resume (--history-ms)."
        => IfAny(at.turn.hub.history.map(|history| history.messages));
    HISTORY_BYTES = Gauge "weirgate_history_bytes" []
        "Memory of the messages kept for clients that resume."
        => IfAny(at.turn.hub.history.map(|history| history.bytes));
    HISTORY_BYTES_MAX = Gauge "weirgate_history_bytes_max" []
        "Limit of weirgate_history_bytes (--history-bytes-max)."
        => IfAny(at.turn.hub.history.map(|history| history.bytes_max));
    HISTORY_SINCE = Gauge "weirgate_history_since_timestamp_seconds" []
        "Unix time since which the history has every message (--history-ms); absent before the first position."
        => IfAny(at.turn.hub.history.and_then(|history| history.since_unix_us).map(|us| us as f64 / 1e6));
    HISTORY_WANTED = Gauge "weirgate_history_wanted_seconds" []
        "How long messages are kept for clients that resume, as long as they fit into memory (--history-ms)."
        => IfAny(at.turn.hub.history.map(|history| history.keep_us as f64 / 1e6));
    NAMES_REFUSED = Counter "weirgate_names_refused_total" ["reason"]
        "Names that clients asked to subscribe to and were refused, or later lost."
        => ByLabel(at.turn.hub.names_refused());
    RESUMES = Counter "weirgate_resumes_total" ["outcome"]
        "Names that clients asked to resume: recovered, or why not."
        => ByLabel(at.turn.resumes());
    POSITIONS_SHARED = Gauge "weirgate_positions_shared" []
        "1 while a client can resume on another instance too: with --stream, or while the marks that instances publish on --history-channel arrive."
        => IfAny(at.turn.hub.history.and_then(|_| at.bus()).map(BusStatus::positions_shared));
    STREAM_BEHIND_MESSAGES = Gauge "weirgate_stream_behind_messages" []
        "Messages of --stream that weirgate has not read; absent if the server does not say, and while the bus is away."
        // Messages; the other number is milliseconds.
        => IfAny(at.bus().and_then(BusStatus::stream_behind).and_then(|behind| behind.0));
    STREAM_BEHIND_SECONDS = Gauge "weirgate_stream_behind_seconds" []
        "How far weirgate is behind --stream: the difference between the times at which the stream stored its newest \
         message and the last one that weirgate has read, or the time for which unread messages have waited, if that \
         is longer; absent while the bus is away."
        => IfAny(at.bus().and_then(BusStatus::stream_behind).map(|(_, ms)| ms as f64 / 1e3));
    [pub] RETAINED_BYTES = Gauge "weirgate_retained_bytes" []
        "Bytes of last values (--retained) that wait in send queues or are requested from JetStream.";
    [pub] UPSTREAM_CALLS_IN_FLIGHT = Gauge "weirgate_upstream_calls_in_flight" ["service"]
        "Calls to services that have no response yet.";
    [pub] SERVICE_AWAY = Gauge "weirgate_service_away" ["service"]
        "1 after a service did not answer a request, until it answers one.";
    [pub] PUSHES = Counter "weirgate_pushes_total" []
        "Events that services pushed to devices; an event counts once, however many devices get it.";
    [pub] EVENT_WAITING_BYTES = Gauge "weirgate_event_waiting_bytes" []
        "Memory of messages without a response, from connected and disconnected devices.";
    [pub] EVENTS_BUS_UP = Gauge "weirgate_events_bus_up" []
        "1 while the bus between instances (--events-bus) carries what this instance publishes.";
    [pub] EVENTS_BUS_INSTANCES = Gauge "weirgate_events_bus_instances" []
        "Instances on the bus between instances (--events-bus), this one included.";
    [pub] PROXY_REQUESTS_IN_FLIGHT = Gauge "weirgate_proxy_requests_in_flight" ["service"]
        "Requests to the proxy that have not ended.";
    RELOADS = Counter "weirgate_reloads_total" ["what", "outcome"]
        "Times that files of settings were read again; outcome: changed, unchanged, failed.";
    RELOADS_FAILING = Gauge "weirgate_reloads_failing" ["what"]
        "1 while the files of a part (such as keys or roles) cannot be read; what was read before stays in force.";
    SURVEYS = Counter "weirgate_surveys_total" []
        "Walks over all clients and topics that collect numbers for the operator's page and the metrics."
        => at.telemetry.surveys.made();
    LOG_LINES_LEFT_OUT = Counter "weirgate_log_lines_left_out_total" []
        "Log lines left out because standard output was not read, or could not be written (a full disk)."
        => at.log_lines_left_out;
    BUILD = Info "weirgate_build_info" ["version", "commit", "gateway", "features"]
        "The running program."
        => Info(at.build_labels());
    PROCESS_CPU = Counter "process_cpu_seconds_total" []
        "User and system CPU time spent, in seconds."
        => at.process.cpu_seconds;
    PROCESS_RESIDENT_MEMORY = Gauge "process_resident_memory_bytes" []
        "Resident memory size in bytes."
        => at.process.resident_bytes;
    PROCESS_OPEN_FDS = Gauge "process_open_fds" []
        "Open file descriptors."
        => at.process.open_fds;
    PROCESS_MAX_FDS = Gauge "process_max_fds" []
        "Limit of open file descriptors of the process."
        => at.process.max_fds;
    PROCESS_START_TIME = Gauge "process_start_time_seconds" []
        "Start of the process, Unix time in seconds."
        => at.process.start_time_seconds;
    PROCESSES = Gauge "weirgate_processes" ["state"]
        "Processes that serve clients, by state (--processes).";
    PROCESS_RESTARTS = Counter "weirgate_process_restarts_total" []
        "Processes that have ended and were started again.";
    PROCESS_ROLLS = Counter "weirgate_process_rolls_total" []
        "Times that all processes were replaced (SIGUSR2).";
}

/// The kind of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricKind {
    /// Only grows while the process lives.
    Counter,
    /// Goes up and down.
    Gauge,
    /// A distribution in fixed buckets.
    Histogram,
    /// Labels with the value 1.
    Info,
}

/// A metric as written to pages.
#[derive(Clone, Copy, Debug)]
pub struct MetricName {
    /// The full name, as in queries (histograms: without `_bucket`, `_sum`, `_count`).
    pub name: &'static str,
    /// Counter, gauge or histogram: the `# TYPE` line.
    pub kind: MetricKind,
    /// Label names, in the order of writing.
    pub labels: &'static [&'static str],
    /// One sentence for people.
    pub help: &'static str,
    /// Writes the metric; `None` if the values come from a gateway ([`super::GatewayMetric`]).
    pub(super) write: Option<Write>,
}

/// Writes a metric with the values of a reading.
pub(super) type Write = fn(&MetricName, &MetricsReading<'_>, &mut Writer<'_>) -> fmt::Result;

impl MetricName {
    /// A metric whose values come from a gateway.
    pub const fn of_gateway(
        kind: MetricKind,
        name: &'static str,
        labels: &'static [&'static str],
        help: &'static str,
    ) -> Self {
        Self {
            name,
            kind,
            labels,
            help,
            write: None,
        }
    }

    /// Returns the name without the suffixes of the kind and the unit, and the unit: the encoder appends both suffixes.
    pub(super) fn stem(&self) -> (&'static str, Option<Unit>) {
        let family = match self.kind {
            MetricKind::Counter => self.name.strip_suffix("_total"),
            MetricKind::Info => self.name.strip_suffix("_info"),
            MetricKind::Gauge | MetricKind::Histogram => None,
        }
        .unwrap_or(self.name);
        if let Some(stem) = family.strip_suffix("_seconds") {
            (stem, Some(Unit::Seconds))
        } else if let Some(stem) = family.strip_suffix("_bytes") {
            (stem, Some(Unit::Bytes))
        } else {
            (family, None)
        }
    }

    /// Returns the kind in the encoder's terms.
    pub(super) fn metric_type(&self) -> MetricType {
        match self.kind {
            MetricKind::Counter => MetricType::Counter,
            MetricKind::Gauge => MetricType::Gauge,
            MetricKind::Histogram => MetricType::Histogram,
            MetricKind::Info => MetricType::Info,
        }
    }
}
