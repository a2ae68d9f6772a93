//! Every metric in one place: its name, kind, labels and help text, and where its value stands. Names
//! follow SemVer: a dashboard depends on them.
//!
//! A new number of the event loop is a field of what counts it, and a row here.
//!
//! Prometheus naming rules hold: base units (seconds, bytes), `_total` on counters only, labels
//! with few and known values (never a client, symbol or channel).

use std::fmt;

use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Unit;

use super::samples::{ByLabel, IfAny, Info, Writer};
use super::{BusStatus, Reading};

/// What a metric counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows while the process lives.
    Counter,
    /// Goes up and down.
    Gauge,
    /// A distribution in fixed buckets.
    Histogram,
    /// Labels with the value 1.
    Info,
}

/// One metric as it is written out.
#[derive(Clone, Copy, Debug)]
pub struct MetricName {
    /// The full name, as a query uses it (histograms: without `_bucket`, `_sum`, `_count`).
    pub name: &'static str,
    /// What it counts.
    pub kind: Kind,
    /// Label names, in the order in which they are written.
    pub labels: &'static [&'static str],
    /// One sentence for people.
    pub help: &'static str,
    /// Writes the metric; `None`: a gateway has it ([`super::GatewayMetric`]).
    pub(super) write: Option<Write>,
}

/// Writes one metric from what is known at one moment.
pub(super) type Write = fn(&MetricName, &Reading<'_>, &mut Writer<'_>) -> fmt::Result;

impl MetricName {
    /// The family's name without its unit and its kind's suffix, and the unit: the encoder puts
    /// both back.
    pub(super) fn stem(&self) -> (&'static str, Option<Unit>) {
        let family = match self.kind {
            Kind::Counter => self.name.strip_suffix("_total"),
            Kind::Info => self.name.strip_suffix("_info"),
            Kind::Gauge | Kind::Histogram => None,
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

    /// The kind in the encoder's terms.
    pub(super) fn metric_type(&self) -> MetricType {
        match self.kind {
            Kind::Counter => MetricType::Counter,
            Kind::Gauge => MetricType::Gauge,
            Kind::Histogram => MetricType::Histogram,
            Kind::Info => MetricType::Info,
        }
    }
}

/// `$at` is the name by which the values of the rows call the [`Reading`].
macro_rules! metric_names {
    (|$at:ident| $($id:ident = $kind:ident $name:literal [$($label:literal),*] $help:literal
        $(=> $value:expr)?;)*) => {
        $(
            #[doc = $help]
            pub const $id: MetricName = MetricName {
                name: $name,
                kind: Kind::$kind,
                labels: &[$($label),*],
                help: $help,
                write: metric_names!(@write $at $($value)?),
            };
        )*

        /// All metrics, in the order in which they are written.
        pub const ALL: &[MetricName] = &[$($id),*];
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
        "WebSocket connections that are open: from their 101 until the close is answered."
        => at.turn.hub.open;
    CONNECTIONS = Gauge "weirgate_connections" ["phase"]
        "Connections by phase: request head, open WebSocket, closing, plain HTTP."
        => ByLabel(at.turn.connections());
    CONNECTIONS_MAX = Gauge "weirgate_connections_max" []
        "Connections allowed at once: --connections-max, and what the limit on open files has room for."
        => at.turn.shell.connections_max;
    CONNECTIONS_ACCEPTED = Counter "weirgate_connections_accepted_total" []
        "Connections accepted, each once."
        => at.turn.hub.accepted;
    CONNECTIONS_RETURNED = Counter "weirgate_connections_returned_total" []
        "Connections that served plain HTTP, then asked for a WebSocket."
        => at.turn.hub.returned;
    CLIENT_CONNECTIONS = Counter "weirgate_client_connections_total" ["outcome"]
        "Request heads that the event loop decided on, by what they led to."
        => ByLabel(at.turn.outcomes());
    CLIENT_CLOSES = Counter "weirgate_client_closes_total" ["reason"]
        "Connections that ended here, by reason; those handed to HTTP apart."
        => ByLabel(at.turn.closes());
    ADDRESSES = Gauge "weirgate_addresses" []
        "Addresses that have connections or had some lately, where they are limited by address."
        => at.turn.shell.addresses;
    BUS_MESSAGES = Counter "weirgate_bus_messages_total" ["subject"]
        "Messages taken from the bus."
        => at.subjects(|subject| subject.messages);
    BUS_MESSAGES_BAD = Counter "weirgate_bus_messages_bad_total" ["subject"]
        "Messages refused: logged and skipped, nothing sent to clients."
        => at.subjects(|subject| subject.messages_bad);
    BUS_MESSAGES_OLD = Counter "weirgate_bus_messages_old_total" ["subject"]
        "Messages not taken because a newer one of the same stream was there already."
        => at.subjects(|subject| subject.messages_old);
    BUS_MESSAGES_IGNORED = Counter "weirgate_bus_messages_ignored_total" []
        "Messages of subjects that are not relayed."
        => at.turn.feed.messages_ignored;
    BUS_GAPS = Counter "weirgate_bus_gaps_total" []
        "Losses that the bus told of."
        => at.turn.feed.gaps;
    BUS_LAST_MESSAGE = Gauge "weirgate_bus_last_message_timestamp_seconds" []
        "Unix time of the newest good message; absent before the first."
        => at.turn.feed.last_message_unix_ms.map(seconds);
    BUS_QUEUE_MESSAGES = Gauge "weirgate_bus_queue_messages" []
        "Messages between the bus and the event loop; when it is full, the bus waits."
        => at.turn.shell.bus_queue_messages;
    BUS_QUEUE_MESSAGES_MAX = Gauge "weirgate_bus_queue_messages_max" []
        "Room between the bus and the event loop (--bus-queue-messages-max)."
        => at.turn.shell.bus_queue_messages_max;
    BUS_QUEUE_BYTES = Gauge "weirgate_bus_queue_bytes" []
        "Bytes of messages between the bus and the event loop; when there is no more room, the bus waits."
        => at.turn.shell.bus_queue_bytes;
    BUS_QUEUE_BYTES_MAX = Gauge "weirgate_bus_queue_bytes_max" []
        "Room for bytes between the bus and the event loop (--bus-queue-bytes-max)."
        => at.turn.shell.bus_queue_bytes_max;
    PUBLICATIONS = Counter "weirgate_publications_total" []
        "Publications made from the bus's messages, quiet ones included."
        => at.turn.hub.publications;
    FRAMES_SENT = Counter "weirgate_frames_sent_total" []
        "Frames that the kernel took whole, counted once per client."
        => at.turn.hub.messages_sent;
    BYTES_SENT = Counter "weirgate_bytes_sent_total" []
        "Bytes that the kernel took for WebSocket clients."
        => at.turn.hub.bytes_sent;
    MESSAGES_QUEUED = Counter "weirgate_messages_queued_total" []
        "Messages for a client, counted once per client; each is sent, conflated, shed, dropped or still waits."
        => at.turn.hub.messages_queued;
    MESSAGES_CONFLATED = Counter "weirgate_messages_conflated_total" []
        "Queued messages replaced by a newer one of the same key because their client was slow."
        => at.turn.hub.messages_conflated;
    MESSAGES_SHED = Counter "weirgate_messages_shed_total" []
        "Messages kept from a client by a rate that it asked for or was given."
        => at.turn.hub.messages_shed;
    MESSAGES_DROPPED = Counter "weirgate_messages_dropped_total" []
        "Queued messages lost because their connection ended first."
        => at.turn.hub.messages_dropped;
    MESSAGES_WAITING = Gauge "weirgate_messages_waiting" []
        "Messages in all send queues now."
        => at.turn.hub.messages_waiting;
    SEND_QUEUE_BYTES = Gauge "weirgate_send_queue_bytes" []
        "Bytes in all send queues; a frame counts once for each queue that holds it."
        => at.turn.hub.send_queue_bytes;
    SEND_QUEUE_PEAK = Gauge "weirgate_send_queue_peak_bytes" []
        "Largest send queue of one client in the last 10 to 20 seconds."
        => at.turn.hub.send_queue_peak_bytes;
    FRAME_BYTES_ALIVE = Gauge "weirgate_frame_bytes_alive" []
        "Memory of all frames in bytes; a frame counts once, however many queues hold it."
        => at.turn.shell.frame_bytes_alive;
    FRAME_BYTES_MAX = Gauge "weirgate_frame_bytes_max" []
        "Memory allowed for all frames (--frame-bytes-max); over it the client with the largest queue goes."
        => at.turn.shell.frame_bytes_max;
    WRITES = Counter "weirgate_writes_total" []
        "Writes to the sockets of clients."
        => at.turn.hub.writes;
    WRITES_SHORT = Counter "weirgate_writes_short_total" []
        "Writes of which the kernel took a part or nothing, because the client is slow."
        => at.turn.hub.writes_short;
    SEND_ERRORS = Counter "weirgate_send_errors_total" ["kind"]
        "Writes to a socket that failed for good, by kind."
        => ByLabel(at.turn.send_errors());
    ACCEPT_ERRORS = Counter "weirgate_accept_errors_total" []
        "Connections that could not be accepted, for want of descriptors for example."
        => at.turn.shell.accept_errors;
    DEFLATED_FRAMES = Counter "weirgate_deflated_frames_total" []
        "Frames compressed; each at most once, for all clients."
        => at.turn.hub.frames_deflated;
    RECEIVED_MESSAGES = Counter "weirgate_received_messages_total" []
        "WebSocket messages from clients."
        => at.turn.hub.received_messages;
    RECEIVED_BYTES = Counter "weirgate_received_bytes_total" []
        "Bytes read from clients."
        => at.turn.hub.received_bytes;
    LOOP_TURNS = Counter "weirgate_loop_turns_total" []
        "Turns of the event loop."
        => at.turn.times.turns.count();
    LOOP_LAST_TURN = Gauge "weirgate_loop_last_turn_timestamp_seconds" []
        "Unix time of the end of the event loop's last turn; it turns at least every 500 ms."
        => seconds(at.turn.turn_ended_unix_ms);
    LOOP_TURN_DURATION = Histogram "weirgate_loop_turn_duration_seconds" []
        "Time of one turn of the event loop, without its wait for events."
        => at.turn.times.turns;
    STAGE_DURATION = Histogram "weirgate_stage_duration_seconds" ["stage"]
        "Time of a message in each stage; first_write and last_write count from its arrival."
        => ByLabel(at.turn.times.stages());
    CAUGHT_UP = Gauge "weirgate_caught_up" []
        "1 once the backlog at start is in the cache."
        => at.event_loop.caught_up();
    DRAINING = Gauge "weirgate_draining" []
        "1 from the first stop signal on."
        => at.event_loop.draining();
    BUS_CONNECTED = Gauge "weirgate_bus_connected" []
        "1 while the bus answers."
        => IfAny(at.bus.map(BusStatus::connected));
    BUS_SUBSCRIBED = Gauge "weirgate_bus_subscribed" []
        "1 while every subscription stands."
        => IfAny(at.bus.map(BusStatus::subscribed));
    BUS_RECONNECTS = Counter "weirgate_bus_reconnects_total" []
        "Connections to the bus made again after the first."
        => IfAny(at.bus.map(BusStatus::reconnects));
    BUS_REFUSED = Counter "weirgate_bus_subscriptions_refused_total" []
        "Subscriptions that the bus's rules forbid."
        => IfAny(at.bus.map(BusStatus::refused));
    CONSUMER_LAG = Gauge "weirgate_consumer_lag_messages" ["consumer"]
        "Messages that the bus still holds for a consumer; absent while unknown."
        => IfAny(at.bus.map(|bus| ByLabel(bus.lags())));
    SUBSCRIPTIONS = Gauge "weirgate_subscriptions" []
        "Names and patterns held, counted once per client that holds them.";
    SUBSCRIBED_NAMES = Gauge "weirgate_subscribed_names" ["kind"]
        "Different names and patterns that some client holds.";
    AUTH_REFUSALS = Counter "weirgate_auth_refusals_total" ["reason"]
        "Clients refused for their token, by reason.";
    REQUESTS_LIMITED = Counter "weirgate_requests_limited_total" []
        "Messages of clients dropped for their rate.";
    UPSTREAM_CALLS = Counter "weirgate_upstream_calls_total" ["service", "outcome"]
        "Calls of services that have ended, by what came of them.";
    UPSTREAM_CALL_DURATION = Histogram "weirgate_upstream_call_duration_seconds" ["service"]
        "Time of a call of a service, from its start to the end of its answer.";
    UPSTREAM_CALLS_IN_FLIGHT = Gauge "weirgate_upstream_calls_in_flight" ["service"]
        "Calls of services that have not ended.";
    UPSTREAM_CALLS_SKIPPED = Counter "weirgate_upstream_calls_skipped_total" ["service"]
        "Calls that were not made because their service failed too often just before.";
    UPSTREAM_CIRCUIT_OPEN = Gauge "weirgate_upstream_circuit_open" ["service"]
        "1 while a service is left alone because it failed too often, or probed.";
    EVENT_ERRORS = Counter "weirgate_event_errors_total" ["code"]
        "Errors that devices were answered with, by code.";
    PUSHES = Counter "weirgate_pushes_total" []
        "Events that services pushed to devices, each once.";
    MESSAGES_FORGOTTEN = Counter "weirgate_messages_forgotten_total" []
        "Messages of devices that had gone which were not forwarded any more.";
    EVENT_WAITING_BYTES = Gauge "weirgate_event_waiting_bytes" []
        "Bytes of devices' messages that wait or are being answered, those of devices that have gone included.";
    PROXY_REQUESTS = Counter "weirgate_proxy_requests_total" ["service", "outcome"]
        "Requests for the proxy that have ended, by what came of them.";
    PROXY_HEAD_DURATION = Histogram "weirgate_proxy_head_duration_seconds" ["service"]
        "Time of a proxied request, from its head to the head of its service's answer.";
    PROXY_REQUESTS_IN_FLIGHT = Gauge "weirgate_proxy_requests_in_flight" ["service"]
        "Requests for the proxy that have not ended.";
    PROXY_WAITS = Counter "weirgate_proxy_waits_total" ["service"]
        "Proxied requests that had to wait for a free connection to their service.";
    PROXY_BODY_BYTES = Counter "weirgate_proxy_body_bytes_total" ["service", "direction"]
        "Bytes of bodies that the proxy passed on, by direction.";
    LOG_LINES_LEFT_OUT = Counter "weirgate_log_lines_left_out_total" []
        "Log lines that were not written because standard output was not read."
        => at.log_lines_left_out;
    BUILD = Info "weirgate_build_info" ["version", "gateway", "features"]
        "The program that runs."
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
        "Most file descriptors that the process may open."
        => at.process.max_fds;
    PROCESS_START_TIME = Gauge "process_start_time_seconds" []
        "Start of the process, Unix time in seconds."
        => at.process.start_time_seconds;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_naming_rules() {
        let not_base = [
            "ms",
            "us",
            "ns",
            "milliseconds",
            "minutes",
            "kb",
            "kib",
            "mb",
            "mib",
        ];
        let not_said = ["count", "num", "counter", "gauge", "number"];
        for metric in ALL {
            let name = metric.name;
            let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
            assert!(name.chars().all(plain), "{name}");
            let ours = name.starts_with("weirgate_") || name.starts_with("process_");
            assert!(ours, "{name} has no prefix");
            for word in name.split('_') {
                assert!(!not_base.contains(&word), "{name} is not in a base unit");
                assert!(!not_said.contains(&word), "{name} repeats its kind");
            }
            let total = name.ends_with("_total");
            assert_eq!(total, metric.kind == Kind::Counter, "{name}: _total");
            let info = name.ends_with("_info");
            assert_eq!(info, metric.kind == Kind::Info, "{name}: _info");
        }
    }

    #[test]
    fn every_metric_has_one_sentence_of_help_and_a_name_of_its_own() {
        let mut seen = std::collections::HashSet::new();
        for metric in ALL {
            assert!(seen.insert(metric.name), "{} stands twice", metric.name);
            assert!(
                metric.help.len() > 10 && metric.help.ends_with('.'),
                "{}",
                metric.name
            );
            assert!(!metric.help.contains(['\n', '\\', '"']), "{}", metric.name);
        }
    }

    #[test]
    fn a_stem_with_its_unit_and_suffix_is_the_name_again() {
        for metric in ALL {
            let (stem, unit) = metric.stem();
            let unit = unit.map_or(String::new(), |u| format!("_{}", u.as_str()));
            let suffix = match metric.kind {
                Kind::Counter => "_total",
                Kind::Info => "_info",
                Kind::Gauge | Kind::Histogram => "",
            };
            assert_eq!(format!("{stem}{unit}{suffix}"), metric.name);
        }
    }
}
