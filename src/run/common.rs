//! The settings of every gateway, in the types of their users. For the operator's page: the limits, each with
//! its metric.

use std::path::PathBuf;

use crate::auth::Origins;
use crate::http::operator::{OperatorSettings, ShownLimit};
use crate::http::{Cors, HttpSettings, ReadyLimits};
use crate::hub::{DrainPlan, Limits};
use crate::listening::ListenAddr;
use crate::reactor::{ListenSettings, ReactorSettings, TurnBudgets};
use crate::settings::{Checked, Kind, Unit, Value};
use crate::telemetry::names::{self, MetricName};

/// The percentage of `--stop-timeout-ms` during which a close waits while the gateway is busy with its
/// client; the rest is for the close.
const BUSY_PERCENT: u64 = 60;

/// The settings of every gateway.
#[derive(Clone, Debug)]
pub struct CommonSettings {
    /// The listening socket, the budgets of a turn, the stop.
    pub reactor: ReactorSettings,
    /// The limits of the core.
    pub limits: Limits,
    /// Plain HTTP connections.
    pub http: HttpSettings,
    /// The limits for a 503 at `/ready`.
    pub ready: ReadyLimits,
    /// Origins that may connect and read responses, in the form of browsers; empty for any.
    pub allowed_origins: Vec<String>,
    /// The address of `/metrics`, `/stats`, `/ready` and `/internal/*`; `None` for the public port.
    pub admin_addr: Option<ListenAddr>,
    /// Whether the operator's page may show messages.
    pub admin_tail: bool,
    /// The limits on the operator's page, each with its metric.
    pub near_limits: Vec<ShownLimit>,
    /// Simultaneous connections to services; clients must leave these open files free.
    pub service_connections_max: usize,
    /// Messages between the bus and the loop; 0 without a bus.
    pub bus_queue_messages_max: usize,
    /// Bytes of these messages, plus one message of any size; 0 without a bus.
    pub bus_queue_bytes_max: usize,
    /// The file with the log filter, if there is a file.
    pub log_filter_file: Option<PathBuf>,
    /// Seconds without a bus until the process ends; `None` for no end.
    pub bus_away_exit_s: Option<u64>,
}

impl Default for CommonSettings {
    /// The defaults of the table.
    fn default() -> Self {
        Self::new(&Checked::defaults())
    }
}

impl CommonSettings {
    /// Reads the settings of a gateway.
    pub fn new(checked: &Checked) -> Self {
        let limits = checked.limits();
        Self {
            reactor: reactor_settings(checked),
            http: HttpSettings {
                head_bytes_max: limits.head_bytes_max,
                head_headers_max: limits.head_headers_max,
                event_stream: limits.event_stream,
                head_timeout_ms: limits.handshake_us / 1000,
                ..HttpSettings::default()
            },
            limits,
            ready: ReadyLimits {
                loop_stall_ms: checked.number("loop-stall-ms"),
                bus_grace_ms: of_bus(checked, "ready-bus-grace-ms"),
            },
            allowed_origins: checked.origins("allowed-origins"),
            admin_addr: checked.admin_addr(),
            admin_tail: checked.switch("admin-tail"),
            near_limits: near_limits(checked),
            service_connections_max: 0,
            bus_queue_messages_max: of_bus(checked, "bus-queue-messages-max"),
            bus_queue_bytes_max: of_bus(checked, "bus-queue-bytes-max"),
            log_filter_file: checked.path("log-filter-file"),
            bus_away_exit_s: Some(of_bus(checked, "bus-away-exit-s")).filter(|s| *s > 0),
        }
    }

    /// The permitted origins, for the gateway.
    pub fn origins(&self) -> Origins {
        Origins::new(self.allowed_origins.iter().cloned())
    }

    /// The settings of the operator's page.
    pub(super) fn operator(&self) -> OperatorSettings {
        let is_loopback =
            matches!(&self.admin_addr, Some(ListenAddr::Tcp(addr)) if addr.ip().is_loopback());
        OperatorSettings {
            ready: self.ready,
            limits: self.near_limits.clone(),
            is_loopback,
            has_tail: self.admin_tail,
        }
    }

    /// The permitted origins, for the HTTP side.
    pub(super) fn cors(&self) -> Cors {
        match self.allowed_origins.as_slice() {
            [] => Cors::Any,
            listed => Cors::Listed(listed.to_vec()),
        }
    }
}

/// A number of [`Part::Bus`](crate::settings::Part::Bus); 0 on a gateway without this part.
fn of_bus<T: TryFrom<u64> + Default>(checked: &Checked, flag: &str) -> T {
    let has = checked.has(flag);
    if has {
        checked.number(flag)
    } else {
        T::default()
    }
}

fn reactor_settings(checked: &Checked) -> ReactorSettings {
    let stop_timeout_us = checked.micros("stop-timeout-ms");
    ReactorSettings {
        listen: ListenSettings {
            addrs: checked.listen(),
            options: checked.listen_options(),
        },
        budgets: TurnBudgets {
            accepts_max: checked.number("accepts-per-turn-max"),
            read_bytes_max: checked.number("read-bytes-per-turn-max"),
            publication_bytes_max: checked.number("turn-publication-bytes-max"),
        },
        drain: DrainPlan {
            delay_us: checked.micros("drain-delay-ms"),
            spread_us: checked.micros("drain-ms"),
            busy_us: stop_timeout_us * BUSY_PERCENT / 100,
        },
        stop_timeout_us,
        spin_us: checked.number("spin-us"),
    }
}

/// A limit and its metric.
struct Near {
    flag: &'static str,
    now: &'static MetricName,
    /// Only samples with this label.
    label: Option<(&'static str, &'static str)>,
    /// Whether the largest sample counts, instead of the sum.
    of_one: bool,
    /// The metric of the limit in force, for a limit that may differ from the setting.
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

/// The limits with a gauge. All other limits are counted when exceeded: by reason, or by their own counter.
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

/// The limits of this gateway with a gauge, and the open files.
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
