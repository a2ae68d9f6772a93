//! The first steps of every process, the addresses to listen on, the first log lines, and the CPUs of the loop and of
//! the bus thread (`--cpus`).

use super::RunError;
use super::address_space::{check_address_space, limit_bytes};
use super::common::CommonSettings;
use super::sighup_files::log_filter;
use crate::build_info::BUILD;
use crate::http::Admin;
use crate::listening::ListenAddr;
use crate::settings::{Checked, ProcessSettings};
use crate::telemetry::logging::LogFormat;
use crate::telemetry::{Build, GatewayMetric, HitLimit, LimitOf, Telemetry, logging, names};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::collections::BTreeMap;
use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::RawFd;
use std::sync::Arc;
use weirgate_bus::runtime::Clock;
use weirgate_core::{CloseReason, Limits};
use weirgate_wire::admission::{Held, LOOP_BYTES, Quota};

/// Open files that are kept for other uses than connections of clients and services: the bus, key files, threads, and
/// refused connections until they end.
const FILES_KEPT: usize = 64;

/// The kernel's descriptor table of the process is enlarged at the start to at most this many entries: a MiB of kernel
/// memory.
const TABLE_DESCRIPTORS_MAX: usize = 128 * 1024;

/// The part of `FILES_KEPT` for refused connections. Over this number, they are closed without a response.
const REFUSED_MAX: usize = 16;

/// With room for fewer clients a warning is logged: the limit on open files is then most likely a default of the
/// system.
const ROOM_WARNED_OF: usize = 1_000;

/// Sets up the log, logs the warnings about the settings, raises the limit on open files, and starts the
/// clock of all threads of the process.
///
/// # Errors
/// Logging was set up before, the file of the log filter is broken, or the system refuses a thread.
pub(super) fn start_process(checked: &Checked) -> Result<Clock, RunError> {
    check_address_space()?;
    let (format, filter) = log_settings(checked)?;
    logging::init(format, &filter, checked.processes().number())?;
    Ok(begin(checked))
}

/// Does the same without setting up the log, for a process that only checks the settings.
///
/// # Errors
/// The file of the log filter is broken.
pub(super) fn check_process(checked: &Checked) -> Result<Clock, RunError> {
    check_address_space()?;
    log_settings(checked)?;
    Ok(begin(checked))
}

fn log_settings(checked: &Checked) -> Result<(LogFormat, String), RunError> {
    let format = checked.get::<ProcessSettings>().log_format;
    let filter = log_filter(checked).map_err(RunError::Settings)?;
    Ok((format, filter))
}

fn begin(checked: &Checked) -> Clock {
    for warning in checked.warnings() {
        tracing::warn!("{warning}");
    }
    let memory_max = checked.get::<ProcessSettings>().memory_max;
    if let Some(limit) = limit_bytes().filter(|limit| *limit < memory_max) {
        tracing::warn!(
            limit,
            memory_max,
            "the limit on address space (ulimit -v) is lower than --memory-max: allocations fail before the memory is used up"
        );
    }
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    if raised != limit
        && let Err(error) = setrlimit(Resource::Nofile, raised)
    {
        tracing::warn!(%error, "the limit on open files could not be raised");
    }
    Clock::start()
}

/// Lowers the limit on connections to what the limit on open files has room for (the bus, services and key files need
/// the rest), and to what the memory for connections holds.
pub(super) fn bound_connections(common: &mut CommonSettings) {
    let files_max = files_max();
    let admin = common
        .admin_addr
        .as_ref()
        .map_or(0, |_| Admin::CONNECTIONS_MAX);
    let outgoing = common.service_connections_max + admin;
    let room = room_for_clients(files_max, outgoing);
    let limits = &mut common.limits;
    limits.sockets_max = room.saturating_add(REFUSED_MAX);
    let of_memory = limits.connection_bytes_max / LOOP_BYTES;
    let of_memory = usize::try_from(of_memory).unwrap_or(usize::MAX);
    let asked = Some(limits.connections_max).filter(|asked| *asked < usize::MAX);
    for (most, reason) in [
        (room, CloseReason::OpenFiles),
        (of_memory, CloseReason::ConnectionMemory),
    ] {
        if most < limits.connections_max {
            (limits.connections_max, limits.connections_max_is) = (most, reason);
        }
    }
    warn_of_few_connections(limits, asked, files_max);
    let open_files = HitLimit {
        of: LimitOf::Other("ulimit -n"),
        max: files_max as u64,
    };
    let hit_limits = &mut common.reactor.limits;
    hit_limits.push((CloseReason::OpenFiles, open_files));
    let used = common
        .limits
        .connections_max
        .saturating_add(FILES_KEPT + outgoing);
    make_room_for_descriptors(used.min(files_max));
}

/// Warns if there is room for fewer connections than the operator asked for, or for few.
fn warn_of_few_connections(limits: &Limits, asked: Option<usize>, files_max: usize) {
    let connections_max = limits.connections_max;
    let is_few = asked.is_none() && connections_max < ROOM_WARNED_OF;
    match limits.connections_max_is {
        CloseReason::OpenFiles if asked.is_some() => tracing::warn!(
            files_max,
            asked,
            connections_max,
            "the limit on open files allows fewer connections than --connections-max"
        ),
        CloseReason::OpenFiles if is_few => tracing::warn!(
            files_max,
            connections_max,
            "the limit on open files has room for few connections; raise it: ulimit -n, \
             LimitNOFILE of systemd"
        ),
        CloseReason::ConnectionMemory if asked.is_some() || is_few => tracing::warn!(
            connection_bytes_max = limits.connection_bytes_max,
            asked,
            connections_max,
            "the memory for connections has room for few; raise --memory-max, or the limit of the container"
        ),
        _ => {}
    }
}

/// Makes the kernel enlarge the process's descriptor table now. A full table doubles while clients are served; in a
/// process with several threads, the thread that opens the descriptor then waits for all CPUs, 10 to 20 ms. If this is
/// the loop, every client waits.
fn make_room_for_descriptors(descriptors: usize) {
    let last = descriptors.min(TABLE_DESCRIPTORS_MAX).saturating_sub(1);
    // Any descriptor: its copy gets the highest number of the table, and is closed at once.
    let copied = File::open("/").and_then(|any| {
        let last = RawFd::try_from(last).unwrap_or(RawFd::MAX);
        Ok(rustix::io::fcntl_dupfd_cloexec(any, last)?)
    });
    if let Err(error) = copied {
        tracing::debug!(%error, descriptors, "the table of descriptors grows while clients are served");
    }
}

/// Returns the limit on open files of the process.
fn files_max() -> usize {
    let files_max = getrlimit(Resource::Nofile).current;
    let files_max = files_max.and_then(|files_max| usize::try_from(files_max).ok());
    files_max.unwrap_or(usize::MAX)
}

/// A gateway that listens.
#[derive(Clone, Debug)]
pub struct Listening {
    /// The addresses for clients, in the order of the settings.
    pub addrs: Vec<ListenAddr>,
    /// The addresses for clients with TLS, in the order of the settings.
    pub tls_addrs: Vec<ListenAddr>,
    /// The address of the operators' pages; `None` for the public port.
    pub admin_addr: Option<ListenAddr>,
    /// The telemetry of the process.
    pub telemetry: Arc<Telemetry>,
}

impl Listening {
    /// Returns the URL for a program on this machine: with the TCP port, or with the unix socket in the syntax of
    /// Node's `ws`. An unspecified or loopback address is shown as `localhost`. The scheme gets an `s` if the gateway
    /// listens for TLS alone.
    pub fn url(&self, scheme: &str, path: &str) -> String {
        let mut addrs = self.addrs.iter();
        let tcp = addrs.find(|addr| matches!(addr, ListenAddr::Tcp(_)));
        let plain = tcp.or_else(|| self.addrs.first());
        match (plain, self.tls_addrs.first()) {
            (Some(addr), _) => url(addr, scheme, path),
            (None, Some(addr)) => url(addr, &format!("{scheme}s"), path),
            (None, None) => String::new(),
        }
    }

    /// Returns the lines of a banner about the pages for people: `/health`, and with an admin listener the
    /// operators' page. Names have `width` characters.
    pub fn page_lines(&self, width: usize) -> String {
        let health = self.url("http", "/health");
        let operator = self.admin_addr.as_ref();
        let operator = operator.map(|addr| url(addr, "http", "/operator"));
        let line = |(name, url)| format!("\n  {name:<width$}{url}");
        let lines = [("Health:", Some(health)), ("Operator:", operator)];
        let lines = lines
            .into_iter()
            .filter_map(|(name, url)| Some((name, url?)));
        lines.map(line).collect()
    }
}

fn url(addr: &ListenAddr, scheme: &str, path: &str) -> String {
    let addr = match addr {
        ListenAddr::Tcp(addr) => addr,
        ListenAddr::Unix(_) => return format!("{scheme}+{addr}:{path}"),
    };
    let ip = addr.ip();
    let is_localhost = ip.is_unspecified()
        || ip == IpAddr::V4(Ipv4Addr::LOCALHOST)
        || ip == IpAddr::V6(Ipv6Addr::LOCALHOST);
    match is_localhost {
        true => format!("{scheme}://localhost:{}{path}", addr.port()),
        false => format!("{scheme}://{addr}{path}"),
    }
}

/// Logs the gateway, its addresses and the limits on connections.
pub(super) fn log_start(gateway: &str, listening: &Listening, connections_max: usize) {
    let joined = |addrs: &[ListenAddr]| {
        let addrs: Vec<_> = addrs.iter().map(ListenAddr::to_string).collect();
        Some(addrs.join(",")).filter(|addrs| !addrs.is_empty())
    };
    let [listen, tls] = [&listening.addrs, &listening.tls_addrs].map(|addrs| joined(addrs));
    let admin = listening.admin_addr.as_ref().map(tracing::field::display);
    tracing::info!(
        gateway,
        version = BUILD.version,
        commit = BUILD.commit,
        listen = listen.as_ref().map(tracing::field::display),
        tls = tls.as_ref().map(tracing::field::display),
        admin,
        connections_max,
        files_max = files_max(),
        "weirgate is listening"
    );
}

/// Returns how many client connections the limit `files_max` has room for beside the other open files; at least a
/// quarter of `files_max`.
fn room_for_clients(files_max: usize, outgoing: usize) -> usize {
    files_max
        .saturating_sub(FILES_KEPT.saturating_add(outgoing))
        .max(files_max / 4)
}

pub(super) fn build(gateway: &'static str) -> Build {
    Build {
        version: BUILD.version,
        commit: BUILD.commit,
        gateway,
        features: BUILD.features.join(","),
    }
}

/// The seed for jitter and for the ids of connections and traces. It differs between processes, whereas containers that
/// start together may have the same clock and process id.
pub(super) fn seed(clock: Clock) -> u64 {
    RandomState::new().hash_one(clock.now().mono_us)
}

/// The metrics of what is held for clients.
pub(super) fn held_metrics(holdings: &[Quota]) -> [GatewayMetric; 4] {
    let metric = |name, count: fn(Held) -> u64| {
        let holdings = holdings.to_vec();
        let read = move || {
            // The sums of several services have one name.
            let mut sums = BTreeMap::new();
            for held in holdings.iter().map(Quota::counts) {
                *sums.entry(held.name).or_default() += count(held);
            }
            sums.into_iter().collect()
        };
        GatewayMetric::ByLabel(name, Box::new(read))
    };
    [
        metric(&names::HELD, |held| held.held),
        metric(&names::HELD_MAX, |held| held.max),
        metric(&names::HELD_REFUSED, |held| held.refused),
        metric(&names::HELD_EVICTED, |held| held.evicted),
    ]
}

/// Checks that the process may use these CPUs. This thread moves to each of them for a moment, because an isolated CPU
/// is not among the CPUs on which a process runs by default.
///
/// # Errors
/// A CPU does not exist, or is not for this process.
pub(super) fn check_cpus(cpus: &[usize]) -> Result<(), RunError> {
    let Ok(before) = sched_getaffinity(None) else {
        return Ok(());
    };
    let may_use = |cpu: &&usize| move_to(**cpu).is_ok();
    let wrong = cpus.iter().find(|cpu| !may_use(cpu));
    // Fails only if the CPUs were taken away meanwhile.
    let _ = sched_setaffinity(None, &before);
    let Some(wrong) = wrong else {
        return Ok(());
    };
    let all = (0..CpuSet::MAX_CPU).filter(|cpu| before.is_set(*cpu));
    let all: Vec<String> = all.map(|cpu| cpu.to_string()).collect();
    Err(RunError::Settings(format!(
        "--cpus: there is no CPU {wrong} for this process; it runs on {}",
        all.join(", ")
    )))
}

fn move_to(cpu: usize) -> io::Result<()> {
    if cpu >= CpuSet::MAX_CPU {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut set = CpuSet::new();
    set.set(cpu);
    Ok(sched_setaffinity(None, &set)?)
}

/// Keeps this thread, and the threads that it starts from now on, on this CPU.
pub(super) fn pin(cpu: Option<usize>) {
    if let Some(Err(error)) = cpu.map(move_to) {
        tracing::warn!(cpu, %error, "a thread could not be kept on its CPU");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_leave_open_files_for_the_bus_and_services() {
        assert_eq!(room_for_clients(1_024, 0), 960);
        assert_eq!(room_for_clients(1_024, 100 + 2 * 256), 348);
        assert_eq!(room_for_clients(96, 0), 32);
        assert_eq!(room_for_clients(100, 612), 25, "a quarter is theirs");
        assert_eq!(room_for_clients(usize::MAX, 0), usize::MAX - 64);
    }

    #[test]
    fn a_cpu_that_is_not_there_is_named_with_those_that_are() {
        assert!(check_cpus(&[]).is_ok());
        let allowed = sched_getaffinity(None).expect("the CPUs of this process");
        let first = (0..CpuSet::MAX_CPU).find(|cpu| allowed.is_set(*cpu));
        let first = first.expect("a CPU");
        assert!(check_cpus(&[first, first]).is_ok());
        let after = sched_getaffinity(None).expect("the CPUs of this thread");
        assert_eq!(after.count(), allowed.count());
        for wrong in [CpuSet::MAX_CPU - 1, CpuSet::MAX_CPU, usize::MAX] {
            let error = check_cpus(&[first, wrong])
                .expect_err("no such CPU")
                .to_string();
            assert!(
                error.contains(&format!(
                    "no CPU {wrong} for this process; it runs on {first}"
                )),
                "{error}"
            );
        }
        std::thread::spawn(move || {
            pin(Some(first));
            let own = sched_getaffinity(None).expect("the CPUs of this thread");
            assert_eq!((own.count(), own.is_set(first)), (1, true));
        })
        .join()
        .expect("a thread");
    }
}
