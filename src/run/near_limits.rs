//! How near the limits are: for the operator's page, which limit is compared with which metric.

use crate::http::operator::ShownLimit;
use crate::settings::{Checked, Kind, Unit, Value};
use crate::telemetry::names::{self, MetricName};

/// A limit and what is compared with it.
struct Near {
    flag: &'static str,
    now: &'static MetricName,
    /// Only samples with this label.
    label: Option<(&'static str, &'static str)>,
    /// The largest sample counts, or else their sum.
    of_one: bool,
    /// The limit in force, where that may be another than the setting.
    most: Option<&'static MetricName>,
}

impl Near {
    const fn new(flag: &'static str, now: &'static MetricName) -> Self {
        Self {
            flag,
            now,
            label: None,
            of_one: false,
            most: None,
        }
    }

    const fn label(mut self, name: &'static str, value: &'static str) -> Self {
        self.label = Some((name, value));
        self
    }

    const fn of_one(mut self) -> Self {
        self.of_one = true;
        self
    }

    const fn most(mut self, most: &'static MetricName) -> Self {
        self.most = Some(most);
        self
    }
}

/// The limits that a gauge comes near to. The others are counted when they are exceeded: by reason,
/// or by a counter of their own.
static NEAR: &[Near] = &[
    Near::new("connections-max", &names::CONNECTIONS).most(&names::CONNECTIONS_MAX),
    Near::new("send-queue-soft-bytes", &names::SEND_QUEUE_PEAK),
    Near::new("send-queue-hard-bytes", &names::SEND_QUEUE_PEAK),
    Near::new("frame-bytes-max", &names::FRAME_BYTES_ALIVE),
    Near::new(
        "inflate-windows-bytes-max",
        &names::INFLATE_WINDOW_BYTES_GRANTED,
    ),
    Near::new("bus-queue-messages-max", &names::BUS_QUEUE_MESSAGES),
    Near::new("bus-queue-bytes-max", &names::BUS_QUEUE_BYTES),
    Near::new("all-channels-max", &names::SUBSCRIBED_NAMES),
    Near::new("all-wildcards-max", &names::SUBSCRIBED_NAMES).label("kind", "pattern"),
    Near::new("all-channel-name-bytes-max", &names::SUBSCRIBED_NAME_BYTES),
    Near::new("retained-bytes-max", &names::RETAINED_BYTES),
    Near::new("history-names-max", &names::HISTORY_NAMES),
    Near::new("history-bytes-max", &names::HISTORY_BYTES),
    Near::new("calls-max", &names::UPSTREAM_CALLS_IN_FLIGHT),
    Near::new("proxy-connections-max", &names::PROXY_REQUESTS_IN_FLIGHT).of_one(),
    Near::new("waiting-bytes-max", &names::EVENT_WAITING_BYTES),
    Near::new("events-bus-waiting-max", &names::EVENTS_BUS_PUSHES_WAITING),
    Near::new("events-bus-instances-max", &names::EVENTS_BUS_INSTANCES),
];

/// The limits of this gateway that a metric comes near to, and the open files.
pub(super) fn near_limits(checked: &Checked) -> Vec<ShownLimit> {
    let of_gateway = NEAR.iter().filter_map(|near| {
        let mut values = checked.values().iter();
        let found = values.find(|value| value.setting.flag == near.flag)?;
        let Value::Number(most) = found.value else {
            return None;
        };
        Some(ShownLimit {
            name: format!("--{}", near.flag),
            about: found.setting.help,
            is_bytes: matches!(
                found.setting.kind,
                Kind::Number {
                    unit: Unit::Bytes,
                    ..
                }
            ),
            most: Some(most).filter(|most| *most > 0),
            now_metric: near.now.name,
            label: near.label,
            of_one: near.of_one,
            most_metric: near.most.map(|metric| metric.name),
        })
    });
    of_gateway.chain([open_files()]).collect()
}

/// A limit of the system, not of the table.
fn open_files() -> ShownLimit {
    ShownLimit {
        name: "ulimit -n".to_owned(),
        about: "Open files of the process",
        is_bytes: false,
        most: None,
        now_metric: names::PROCESS_OPEN_FDS.name,
        label: None,
        of_one: false,
        most_metric: Some(names::PROCESS_MAX_FDS.name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_that_is_off_has_no_most_and_the_others_have_their_value() {
        let limits = near_limits(&Checked::defaults());
        let of = |name: &str| limits.iter().find(|limit| limit.name == name);
        let connections = of("--connections-max").expect("every gateway has it");
        assert_eq!(connections.most, None);
        assert_eq!(connections.most_metric, Some("weirgate_connections_max"));
        let frames = of("--frame-bytes-max").expect("every gateway has it");
        assert_eq!((frames.most, frames.is_bytes), (Some(512 << 20), true));
        assert!(of("--calls-max").is_none(), "a gateway without services");
        assert!(of("ulimit -n").is_some());
    }
}
