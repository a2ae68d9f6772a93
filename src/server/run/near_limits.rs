//! The limits of a gateway, each with its present value, for the operator's page.

use crate::http::operator::{NearLimit, ReadNumber};
use crate::settings::{Checked, Counts, Kind, Unit, Value, flag};
use crate::telemetry::{MetricName, MetricsReading, Surveyed};

/// The flag of the limit that the limit on open files may lower.
const CONNECTIONS_MAX: &str = flag!("connections-max");

/// The limits with a present value. All other limits are only counted when they are exceeded: by reason, or by a
/// counter of their own.
static PRESENT_VALUES: &[(&str, ReadNumber)] = &[
    (CONNECTIONS_MAX, |at| Some(at.turn.all_connections())),
    (flag!("connections-per-ip-max"), |at| {
        let busiest = |surveyed: &Surveyed| surveyed.survey.busiest_address;
        at.surveyed.as_deref().map(busiest)
    }),
    (flag!("memory-max"), |at| at.process.resident_bytes),
    (flag!("send-queue-soft-bytes"), largest_send_queue),
    (flag!("send-queue-hard-bytes"), largest_send_queue),
    (flag!("frame-bytes-max"), |at| {
        Some(at.turn.shell.frame_bytes_alive)
    }),
    (flag!("tls-held-bytes-max"), |at| at.held("tls_bytes")),
    (flag!("connection-bytes"), |at| at.held("connection_bytes")),
    (flag!("unfinished-bytes"), |at| at.held("received_bytes")),
    (flag!("inflate-window-bytes"), |at| {
        Some(at.turn.shell.inflate_window_bytes_granted)
    }),
    (flag!("bus-queue-bytes"), |at| {
        Some(at.turn.shell.bus_queue_bytes)
    }),
    ("all-channels-max", |at| {
        at.sum(&MetricName::SUBSCRIBED_NAMES)
    }),
    ("all-wildcards-max", |at| at.held("patterns")),
    ("all-channel-name-bytes", |at| at.held("name_bytes")),
    ("retained-bytes", |at| at.sum(&MetricName::RETAINED_BYTES)),
    (flag!("history-bytes-max"), |at| {
        at.turn.hub.history.map(|history| history.bytes)
    }),
    // The limit is for each service.
    ("proxy-connections-max", |at| {
        let services = at.values(&MetricName::PROXY_REQUESTS_IN_FLIGHT);
        services.map(|(_, requests)| requests).max()
    }),
    ("waiting-bytes", |at| {
        at.sum(&MetricName::EVENT_WAITING_BYTES)
    }),
];

/// Bytes of the largest send queue in the newest survey. The metric shows a peak, which outlives the queue.
fn largest_send_queue(at: &MetricsReading<'_>) -> Option<u64> {
    let slowest = &at.surveyed.as_deref()?.survey.slowest;
    let bytes = slowest.iter().map(|client| client.queue_bytes);
    // 0: no client is in the list.
    Some(bytes.max().unwrap_or(0))
}

/// The limits of this gateway with a present value, and the open files.
pub(super) fn near_limits(checked: &Checked) -> Vec<NearLimit> {
    let of_gateway = PRESENT_VALUES.iter().filter_map(|&(flag, now)| {
        let mut values = checked.values().iter();
        let found = values.find(|value| value.setting.flag == flag)?;
        let Value::Number(max) = found.value else {
            return None;
        };
        let in_force: ReadNumber = |at| at.turn.shell.connections_max;
        Some(NearLimit {
            name: found.setting.name(),
            about: found.setting.help,
            is_bytes: matches!(
                found.setting.kind,
                Kind::Number {
                    unit: Unit::Bytes,
                    ..
                }
            ),
            is_of_one: found.setting.counts() != Counts::All,
            // 0 means no limit.
            max: Some(max).filter(|max| *max > 0),
            max_in_force: (flag == CONNECTIONS_MAX).then_some(in_force),
            now,
        })
    });
    of_gateway.chain([open_files()]).collect()
}

/// A limit of the system, which is not in the table of settings.
fn open_files() -> NearLimit {
    NearLimit {
        name: "ulimit -n".to_owned(),
        about: "Open files of the process",
        is_bytes: false,
        is_of_one: false,
        // The limit in force is the only one.
        max: None,
        max_in_force: Some(|at| at.process.max_fds),
        now: |at| at.process.open_fds,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build_info::BuildInfo;
    use crate::telemetry::{GatewayMetric, Telemetry};
    use weirgate_core::{FeedStats, Survey};
    use weirgate_wire::base::Now;

    #[test]
    fn a_limit_that_is_off_has_no_maximum_and_the_others_have_their_value() {
        let limits = near_limits(&Checked::defaults());
        let limit = |name: &str| limits.iter().find(|one| one.name == name);
        let connections = limit("--connections-max").expect("every gateway has it");
        assert!(connections.max.is_none() && connections.max_in_force.is_some());
        let frames = limit("--frame-bytes-max").expect("every gateway has it");
        assert_eq!((frames.max, frames.is_bytes), (Some(512 << 20), true));
        let proxied = limit("--proxy-connections-max");
        assert!(proxied.is_none(), "a gateway without services");
        assert!(limit("ulimit -n").is_some());
    }

    #[test]
    fn a_present_value_is_a_sum_or_of_one_kind_or_of_the_busiest_service() {
        let telemetry = Telemetry::new(
            BuildInfo::THIS,
            "events",
            FeedStats::default(),
            None,
            Now::default(),
        );
        let kinds = || vec![("name", 8), ("pattern", 2)];
        let services = || vec![("lobby", 3), ("game", 5)];
        telemetry.add_gateway(vec![
            GatewayMetric::ByLabel(&MetricName::SUBSCRIBED_NAMES, Box::new(kinds)),
            GatewayMetric::ByLabel(&MetricName::UPSTREAM_CALLS_IN_FLIGHT, Box::new(services)),
            GatewayMetric::ByLabel(&MetricName::PROXY_REQUESTS_IN_FLIGHT, Box::new(services)),
        ]);
        let present = |flag: &str| {
            let found = PRESENT_VALUES.iter().find(|(name, _)| *name == flag);
            found.expect(flag).1(&MetricsReading::read(&telemetry))
        };
        for (flag, value) in [
            ("all-channels-max", Some(10)),
            ("proxy-connections-max", Some(5)),
            ("history-bytes-max", None),
            ("send-queue-soft-bytes", None),
        ] {
            assert_eq!(present(flag), value, "{flag}");
        }
        let survey = Survey::default();
        let ends = Vec::new();
        telemetry.surveys.put(Surveyed { survey, ends }.into());
        assert_eq!(present("send-queue-hard-bytes"), Some(0), "nobody waits");
    }
}
