//! `loadtest events`: devices and services of an events gateway. Measures the cost of a request to a
//! service and of a push to many devices, and the effect of a hanging service or of devices that do
//! not read on the other devices.

mod direct;
mod hang;
mod instances;
mod never_read;
mod push;
mod pusher;
mod requests;
mod rounds;
mod schedule;
mod service;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::{Args, Subcommand};

use self::service::Service;
use crate::fault::Fault;
use crate::fleet::{Fleet, Kind, Target};
use crate::launch::{self, Program};
use crate::process::Process;
use crate::stats::Spread;

/// The expected `X-Internal-Token`.
const TOKEN: &str = "loadtest";
/// Time of a service for a response, microseconds.
const ANSWER_AFTER_US: u64 = 5_000;
/// Responses and deliveries are lost after this time.
const LATE_US: u64 = 5_000_000;
/// Pause after the handshakes, and after the last message of a part.
const SETTLE_US: u64 = 300_000;

/// The scenarios.
#[derive(Debug, Subcommand)]
pub(crate) enum EventsCommand {
    /// Requests of devices through the gateway, and the same requests directly to the service
    Requests(requests::RequestsArgs),
    /// Requests of devices, with and without others that call a hanging service
    Hang(hang::HangArgs),
    /// An event to all devices, and the same frame from the raw limit
    Push(push::PushArgs),
    /// An event to all devices of several instances on a bus, and the same from a single instance
    Instances(instances::InstancesArgs),
    /// Events to all devices, with and without some that never read
    NeverRead(never_read::NeverReadArgs),
}

/// The common options of all scenarios.
#[derive(Debug, Args)]
struct Common {
    /// Server: a command with {port}, {lobby}, {simulation} and {token} replaced; GATEWAY_PORT,
    /// LOBBY_URL, SIMULATION_URL and INTERNAL_AUTH_TOKEN are set
    #[arg(long, value_name = "COMMAND")]
    server: String,
    /// Server on CPU 0, devices and services on CPU 1
    #[arg(long)]
    pin: bool,
    /// Write the result as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Runs `loadtest events`.
pub(crate) fn run(command: EventsCommand, stop: &Arc<AtomicBool>) -> Result<(), Fault> {
    match command {
        EventsCommand::Requests(args) => requests::run(&args, stop),
        EventsCommand::Hang(args) => hang::run(&args, stop),
        EventsCommand::Push(args) => push::run(&args, stop),
        EventsCommand::Instances(args) => instances::run(&args, stop),
        EventsCommand::NeverRead(args) => never_read::run(&args, stop),
    }
}

/// Starts the gateway in front of these services.
fn server(common: &Common, lobby: &Service, simulation: &Service) -> Result<Program, Fault> {
    server_with(common, lobby, simulation, &[])
}

/// Starts the gateway with further values: placeholder in the command, variable, value.
fn server_with(
    common: &Common,
    lobby: &Service,
    simulation: &Service,
    more: &[(&str, &str, &str)],
) -> Result<Program, Fault> {
    let [lobby, simulation] = [lobby, simulation].map(|s| format!("http://{}", s.addr));
    let mut given = vec![
        ("{lobby}", "LOBBY_URL", lobby.as_str()),
        ("{simulation}", "SIMULATION_URL", &simulation),
        ("{token}", "INTERNAL_AUTH_TOKEN", TOKEN),
    ];
    given.extend_from_slice(more);
    let server = launch::server_of_devices(&common.server, &given)?;
    pin(common, &server)?;
    Ok(server)
}

/// Pins the server to CPU 0 and this process to CPU 1, if requested.
fn pin(common: &Common, server: &Program) -> Result<(), Fault> {
    if common.pin {
        server.process()?.pin(0)?;
        Process::new(std::process::id())?.pin(1)?;
    }
    Ok(())
}

/// Devices named `NAME-0`, `NAME-1`, …, all connected.
fn devices(
    server: &Program,
    name: &str,
    kind: Kind,
    count: usize,
    stop: &Arc<AtomicBool>,
) -> Result<Fleet, Fault> {
    let mut fleet = Fleet::new(target(server, name), Arc::clone(stop))?;
    fleet.open(kind, count)?;
    fleet.run(SETTLE_US, |_| false)?;
    Ok(fleet)
}

/// The address and path for devices of this name.
fn target(server: &Program, name: &str) -> Target {
    Target {
        tls: None,
        addr: server.addr,
        path: format!("/ws?device_id={name}-{{n}}"),
        deflate: None,
        send: None,
        throttle_kbit: 0,
    }
}

/// Adds a fault if the median is over the bound, or if there is no median.
fn judge(wrong: &mut Vec<String>, what: &str, median_of: Option<Spread>, most: f64) {
    let median = median_of.map_or(f64::INFINITY, |spread| spread.median);
    if median > most {
        wrong.push(format!("{what}: {median:.2}, over {most}"));
    }
}

/// Returns an error with all faults, if there are any.
fn verdict(wrong: &[String]) -> Result<(), Fault> {
    match wrong {
        [] => Ok(()),
        _ => Err(Fault::Failed(wrong.join("; "))),
    }
}
