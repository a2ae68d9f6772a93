//! The first steps of every process: log, warnings, and the limit on open files, with the connections that fit under it.

use super::address_space::{check_address_space, fit_address_space, limit_bytes};
use super::common::CommonSettings;
use super::early_signals::take_early_signals;
use super::log_filter_file::log_filter;
use super::{RunError, files};
use crate::http::Admin;
use crate::settings::{Checked, Env, ProcessSettings};
use crate::supervisor::take_name;
use crate::telemetry::{HitLimit, LimitOf, LogFormat, memory_limit_bytes};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::fs::File;
use std::io;
use std::os::fd::RawFd;
use std::thread::available_parallelism;
use weirgate_core::{CloseReason, Limits};
use weirgate_runtime::Clock;
use weirgate_wire::admission::ConnectionPermit;

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

/// The first steps of a process, before its command is known: fits it into a limit on address space, takes its signals and
/// returns its environment. Called before any thread begins.
///
/// # Errors
/// The system refuses a handler of a signal.
pub fn first_steps() -> io::Result<Env> {
    fit_address_space();
    take_name();
    take_early_signals()?;
    let cores = available_parallelism().map_or(1, usize::from);
    let env = Env::new(std::env::vars_os()).with_memory_limit(memory_limit_bytes());
    Ok(env.with_cores(cores).with_files(files::read))
}

/// Sets up the log, logs the warnings about the settings, raises the limit on open files, and starts the
/// clock of all threads of the process.
///
/// # Errors
/// Logging was set up before, the file of the log filter is broken, or the system refuses a thread.
pub(super) fn start_process(checked: &Checked) -> Result<Clock, RunError> {
    check_address_space()?;
    let (format, filter) = log_settings(checked)?;
    format.start_log(&filter, checked.processes().number())?;
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

/// Logs warnings, raises the limit on open files, and starts the clock.
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
    let admin = common.admin_addr.iter().map(|_| Admin::FILES_MAX);
    let not_of_clients = common.service_connections_max + admin.sum::<usize>();
    let limits = &mut common.limits;
    // `usize::MAX`: the operator has set no limit.
    let asked = Some(limits.connections_max).filter(|asked| *asked < usize::MAX);
    let of_files = room_for_clients(files_max, not_of_clients);
    let of_memory = limits.connection_bytes_max / ConnectionPermit::LOOP_BYTES;
    let of_memory = usize::try_from(of_memory).unwrap_or(usize::MAX);
    limits.sockets_max = of_files.saturating_add(REFUSED_MAX);
    for (most, reason) in [
        (of_files, CloseReason::OpenFiles),
        (of_memory, CloseReason::ConnectionMemory),
    ] {
        if most < limits.connections_max {
            (limits.connections_max, limits.connections_max_is) = (most, reason);
        }
    }
    warn_of_few_connections(limits, asked, files_max);
    let used = limits
        .connections_max
        .saturating_add(FILES_KEPT + not_of_clients);
    make_room_for_descriptors(used.min(files_max));
    let open_files = HitLimit {
        source: LimitOf::Other("ulimit -n"),
        max: files_max as u64,
    };
    let hit_limits = &mut common.reactor.limits;
    hit_limits.push((CloseReason::OpenFiles, open_files));
}

/// Returns how many of `wanted` connections to services the limit on open files has room for, while clients keep their
/// quarter of it.
pub fn room_for_services(common: &CommonSettings, wanted: usize) -> usize {
    let admin = common.admin_addr.iter().map(|_| Admin::FILES_MAX);
    room_for_connections(files_max(), admin.sum(), wanted)
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
pub(super) fn files_max() -> usize {
    let files_max = getrlimit(Resource::Nofile).current;
    let files_max = files_max.and_then(|files_max| usize::try_from(files_max).ok());
    files_max.unwrap_or(usize::MAX)
}

/// Returns how many client connections the limit `files_max` has room for beside `others` and the files that are kept
/// for other uses; at least a quarter of `files_max`.
fn room_for_clients(files_max: usize, others: usize) -> usize {
    files_max
        .saturating_sub(FILES_KEPT.saturating_add(others))
        .max(files_max / 4)
}

/// Returns how many of `wanted` connections to services the limit `files_max` has room for, beside a quarter for clients,
/// `others`, and the files that are kept for other uses; at least a quarter of `files_max`.
fn room_for_connections(files_max: usize, others: usize, wanted: usize) -> usize {
    let room = files_max - files_max / 4;
    let room = room.saturating_sub(FILES_KEPT.saturating_add(others));
    wanted.min(room.max(files_max / 4))
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
        assert_eq!(room_for_connections(2_048, 96, 612), 612);
        assert_eq!(room_for_connections(1_024, 96, 612), 608);
        assert_eq!(room_for_connections(80, 96, 612), 20, "a quarter is theirs");
    }
}
