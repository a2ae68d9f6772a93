//! What every gateway is told: made from its settings once, each part in the form of who takes it.

use std::path::PathBuf;

use super::near_limits::near_limits;
use crate::auth::Origins;
use crate::http::operator::{OperatorSettings, ShownLimit};
use crate::http::{Cors, HttpSettings, ReadyLimits};
use crate::hub::{DrainPlan, Limits};
use crate::listening::ListenAddr;
use crate::reactor::{ListenSettings, ReactorSettings, TurnBudgets};
use crate::settings::Checked;

/// How much of `--stop-timeout-ms` a close waits while the gateway is busy with its client; the
/// rest is for the close.
const BUSY_PERCENT: u64 = 60;

/// What every gateway is told.
#[derive(Clone, Debug)]
pub struct CommonSettings {
    /// The listening socket, the budgets of a turn, the stop.
    pub reactor: ReactorSettings,
    /// Everything that can grow in the core.
    pub limits: Limits,
    /// Plain HTTP connections.
    pub http: HttpSettings,
    /// When `/ready` says 503.
    pub ready: ReadyLimits,
    /// Origins that may connect and read answers, as browsers write them; empty for any.
    pub allowed_origins: Vec<String>,
    /// Where `/metrics`, `/stats`, `/ready` and `/internal/*` are instead of the public port.
    pub admin_addr: Option<ListenAddr>,
    /// Whether the operator's page may show messages.
    pub admin_tail: bool,
    /// Limits that the operator's page compares with a metric.
    pub near_limits: Vec<ShownLimit>,
    /// Connections to services at once, whose open files clients must not take.
    pub service_connections_max: usize,
    /// Messages between the bus and the loop; 0 where there is no bus.
    pub bus_queue_messages_max: usize,
    /// Bytes of these messages, and one message of any size; 0 where there is no bus.
    pub bus_queue_bytes_max: usize,
    /// The file with the log filter, if it is in one.
    pub log_filter_file: Option<PathBuf>,
    /// Seconds that the bus may be away before the process ends; `None` for ever.
    pub bus_away_exit_s: Option<u64>,
}

impl Default for CommonSettings {
    /// The defaults of the table.
    fn default() -> Self {
        Self::new(&Checked::defaults())
    }
}

impl CommonSettings {
    /// From the settings of a gateway.
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

    /// Who may connect, for the gateway.
    pub fn origins(&self) -> Origins {
        Origins::new(self.allowed_origins.iter().cloned())
    }

    /// What the operator's page is made for.
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

    /// Who may read answers, for the HTTP side.
    pub(super) fn cors(&self) -> Cors {
        match self.allowed_origins.as_slice() {
            [] => Cors::Any,
            listed => Cors::Listed(listed.to_vec()),
        }
    }
}

/// A number of [`Part::Bus`](crate::settings::Part::Bus); 0 on a gateway without it.
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
