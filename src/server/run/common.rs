//! The settings of every gateway, each in the type of the module that uses it.

use std::path::PathBuf;
use std::sync::Arc;
use weirgate_core::{CloseReason, DrainPlan, Limits, Position};
use weirgate_wire::admission::Quota;
use weirgate_wire::auth::Origins;

use super::near_limits::near_limits;
use super::tls::ClientTls;
use crate::http::operator::{AdminReach, Cutter, NearLimit, OperatorSettings};
use crate::http::{Cors, HttpSettings, ReadyLimits};
use crate::listening::{ListenAddr, ListenGate};
use crate::reactor;
use crate::reactor::{ReactorSettings, TurnBudgets};
use crate::settings::{
    BusSettings, Checked, ListenSettings, ProcessSettings, SecretFile, SecretText, Shows,
    TlsSettings, Value,
};
use crate::supervisor::{ToSupervisor, listens_when_asked};
use crate::telemetry::{HitLimit, LimitOf};

/// The percentage of `--stop-timeout-ms` for which a close waits while the gateway still works for the client; the rest
/// is for the close itself.
const BUSY_PERCENT: u64 = 60;

/// The settings of every gateway.
#[derive(Clone, Debug)]
pub struct CommonSettings {
    /// The listening socket, the budgets of a turn, the stop.
    pub reactor: ReactorSettings,
    /// TLS towards clients; `None` for plain connections alone.
    pub tls: Option<ClientTls>,
    /// The bytes that the TLS of all clients holds, on all threads.
    pub tls_held: Quota,
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
    /// Whether a supervisor asks this process, and answers for it at `admin_addr`.
    pub has_supervisor: bool,
    /// The token for the operator's page; `None`: it asks for none.
    pub admin_token: Option<SecretText>,
    /// The limits on the operator's page.
    pub near_limits: Vec<NearLimit>,
    /// Simultaneous connections to services, whose open files clients must not use.
    pub service_connections_max: usize,
    /// Messages between the bus and the loop; 0 without a bus.
    pub bus_queue_messages_max: usize,
    /// Bytes of these messages, plus one message of any size; 0 without a bus.
    pub bus_queue_bytes_max: usize,
    /// The file with the log filter, if there is a file.
    pub log_filter_file: Option<PathBuf>,
    /// After how many seconds without a bus the process ends; `None`: it does not.
    pub bus_away_exit_s: Option<u64>,
    /// The file with refused users and tokens, if there is a file.
    pub revoked_file: Option<PathBuf>,
    /// The secrets that are in files.
    pub secret_files: Vec<SecretFile>,
    /// The limit on memory that all shares together keep, bytes; 0: no limit.
    pub memory_max: u64,
    /// The CPU of the loop, then the CPU of the bus thread; empty for any CPU.
    pub cpus: Vec<usize>,
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
        let mut limits: Limits = checked.get();
        let listen: ListenSettings = checked.get();
        limits.origins_are_listed = !listen.allowed_origins.is_empty();
        limits.kept_stream = checked
            .stream()
            .map(|name| Position::feed_hash(name.bytes()));
        let bus: BusSettings = checked.get();
        Self {
            reactor: reactor_settings(checked),
            tls: ClientTls::new(checked),
            tls_held: Quota::new("tls_bytes", checked.get::<TlsSettings>().held_bytes_max),
            http: HttpSettings {
                head_bytes_max: limits.head_bytes_max,
                head_headers_max: limits.head_headers_max,
                event_stream: limits.event_stream,
                head_timeout_ms: limits.handshake_us / 1000,
                ..HttpSettings::default()
            },
            limits,
            ready: ReadyLimits {
                bus_grace_ms: bus.ready_grace_ms,
                ..ReadyLimits::default()
            },
            allowed_origins: listen.allowed_origins,
            admin_addr: listen.admin_addr,
            has_supervisor: checked.processes().number().is_some(),
            admin_token: listen.admin_token,
            near_limits: near_limits(checked),
            // A gateway with services sets it.
            service_connections_max: 0,
            bus_queue_messages_max: BUS_QUEUE_MESSAGES_MAX,
            bus_queue_bytes_max: bus.queue_bytes_max,
            log_filter_file: checked.get::<ProcessSettings>().log_filter_file,
            bus_away_exit_s: bus.away_exit_s,
            revoked_file: checked.get::<ProcessSettings>().revoked_file,
            secret_files: checked.secret_files(),
            memory_max: checked.get::<ProcessSettings>().memory_max,
            cpus: checked.get::<ProcessSettings>().cpus,
        }
    }

    /// The permitted origins, for the gateway.
    pub fn origins(&self) -> Origins {
        Origins::new(self.allowed_origins.iter().cloned())
    }

    /// The settings of the operator's page.
    pub(crate) fn operator(&self) -> OperatorSettings {
        let reach = match &self.admin_addr {
            Some(ListenAddr::Tcp(addr)) if addr.ip().is_loopback() => AdminReach::ThisMachine,
            _ => AdminReach::Network,
        };
        OperatorSettings {
            ready: self.ready,
            limits: self.near_limits.clone(),
            revoked: self.limits.revoked.clone(),
            token: self
                .admin_token
                .as_ref()
                .map(|token| token.secret().clone()),
            reach,
        }
    }

    /// The settings of all plain HTTP connections of this process, whose senders `cutter` cuts off.
    pub(crate) fn http_with(&self, cutter: &Cutter) -> HttpSettings {
        HttpSettings {
            held: self.limits.http_held.clone(),
            access: Arc::new(cutter.access(self.limits.trusted_proxies.clone())),
            ..self.http.clone()
        }
    }

    /// The channel to the supervisor of this process.
    pub(super) fn supervisor(&self) -> Option<ToSupervisor> {
        self.has_supervisor.then(ToSupervisor::of_process).flatten()
    }

    /// The quotas of what is held for clients outside of the core and the gateway.
    pub(super) fn holdings(&self) -> impl Iterator<Item = Quota> {
        let handshakes = self.tls.iter().map(|tls| tls.handshakes.clone());
        let bytes = [&self.limits.http_held, &self.tls_held];
        bytes.into_iter().cloned().chain(handshakes)
    }

    /// Returns the error if two listeners of this process have the same address. With `--reuse-port` both would
    /// listen, and the kernel would give each client to either of them.
    pub(crate) fn same_address_error(&self) -> Option<String> {
        let listen = &self.reactor.listen;
        let plain = listen.addrs.iter().map(|addr| ("--listen", addr));
        let tls = listen.tls_addrs.iter().map(|addr| ("--tls-port", addr));
        let admin = self.admin_addr.iter().map(|addr| ("--admin-addr", addr));
        let all: Vec<_> = plain.chain(tls).chain(admin).collect();
        let overlap = |(number, (flag, addr)): (usize, &(&str, &ListenAddr))| {
            let mut before = all[..number].iter();
            let (other, taken) =
                before.find(|(other, taken)| other != flag && addr.overlaps(taken))?;
            Some(format!(
                "{flag}: {addr} is in use by {other} ({taken}); allowed: an address or a port of its own"
            ))
        };
        all.iter().enumerate().find_map(overlap)
    }

    /// The permitted origins, for the HTTP side.
    pub(crate) fn cors(&self) -> Cors {
        match self.allowed_origins.as_slice() {
            [] => Cors::Any,
            listed => Cors::Listed(listed.to_vec()),
        }
    }
}

/// The most messages between the bus and the loop. If the queue is full, the source waits, and JetStream keeps the
/// rest.
const BUS_QUEUE_MESSAGES_MAX: usize = 1_024;

/// The longest time that new clients wait to be accepted while a stream is read.
const STREAM_WAIT_US: u64 = 5_000_000;

/// The settings of the loop.
fn reactor_settings(checked: &Checked) -> ReactorSettings {
    let process: ProcessSettings = checked.get();
    let listen: ListenSettings = checked.get();
    let soft_bytes = checked.get::<Limits>().send_queue.soft_bytes;
    ReactorSettings {
        listen: reactor::ListenerSettings {
            addrs: listen.addrs(),
            tls_addrs: listen.tls_addrs(),
            headers_from: checked.headers_from(),
            options: checked.listen_options(),
            gate: ListenGate::new(!listens_when_asked()),
        },
        budgets: TurnBudgets::below(soft_bytes),
        drain: DrainPlan {
            busy_us: process.stop_timeout_us * BUSY_PERCENT / 100,
            ..process.drain
        },
        stop_timeout_us: process.stop_timeout_us,
        spin_us: process.spin_us,
        accept_wait_us: checked.stream().map_or(0, |_| STREAM_WAIT_US),
        limits: hit_limits(checked).collect(),
    }
}

/// The limits that end connections, by the reason of the end. Two reasons are left out: a stop is not a fault, and a
/// bad request may exceed any of several limits.
fn hit_limits(checked: &Checked) -> impl Iterator<Item = (CloseReason, HitLimit)> {
    let limits = checked.values().iter().filter_map(|value| {
        let (Some(limit), Value::Number(max)) = (value.setting.limit, &value.value) else {
            return None;
        };
        let Shows::Reason(reason) = limit.shows else {
            return None;
        };
        let (setting, flag) = (value.setting, value.setting.flag);
        let source = match setting.memory_thousandths {
            _ if setting.is_flag() => LimitOf::Flag(flag),
            Some(_) => LimitOf::Share(flag),
            None => LimitOf::Other(flag),
        };
        Some((reason, HitLimit { source, max: *max }))
    });
    let left_out = [CloseReason::ShuttingDown, CloseReason::BadRequest];
    limits.filter(move |(reason, _)| !left_out.contains(reason))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Rows;

    #[test]
    fn a_turn_publishes_at_most_half_of_a_send_queue() {
        let soft = ("send-queue-soft-bytes", "100000");
        let lowered = Checked::of(Rows::EVERY, &[soft], &[]).expect("good settings");
        let budgets = CommonSettings::new(&lowered).reactor.budgets;
        assert_eq!(budgets.publication_bytes_max, 50_000);
    }
}
