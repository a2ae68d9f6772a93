//! `loadtest events`: devices and services of an events gateway. What a request costs on its way to
//! a service, what a push to many devices costs, and what a service that hangs or a device that
//! does not read does to the others.

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

/// What X-Internal-Token has to say.
const TOKEN: &str = "loadtest";
/// How long a service takes for an answer, microseconds.
const ANSWER_AFTER_US: u64 = 5_000;
/// Answers and deliveries that take longer are lost.
const LATE_US: u64 = 5_000_000;
/// After the handshakes, and after the last message of a part.
const SETTLE_US: u64 = 300_000;

/// What is measured.
#[derive(Debug, Subcommand)]
pub(crate) enum EventsCommand {
    /// Requests of devices through the gateway, and the same ones straight to their service
    Requests(requests::RequestsArgs),
    /// Requests of devices while others call a service that never answers, and without those
    Hang(hang::HangArgs),
    /// One event to all devices, and the same frame from the raw limit
    Push(push::PushArgs),
    /// One event to all devices of several instances on a bus, and the same from one instance
    Instances(instances::InstancesArgs),
    /// Events to all devices while some never read, and without those
    NeverRead(never_read::NeverReadArgs),
}

/// What all of them take.
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

/// The gateway in front of these services.
fn server(common: &Common, lobby: &Service, simulation: &Service) -> Result<Program, Fault> {
    server_with(common, lobby, simulation, &[])
}

/// The same with more values: what stands for each in the command, its variable, the value.
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

/// Puts a server on a CPU of its own, if that was asked for.
fn pin(common: &Common, server: &Program) -> Result<(), Fault> {
    if common.pin {
        server.process()?.pin(0)?;
        Process::new(std::process::id())?.pin(1)?;
    }
    Ok(())
}

/// Devices called `NAME-0`, `NAME-1`, …, all connected.
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

/// Where the devices of this name connect.
fn target(server: &Program, name: &str) -> Target {
    Target {
        addr: server.addr,
        path: format!("/ws?device_id={name}-{{n}}"),
        deflate: None,
        send: None,
        throttle_kbit: 0,
    }
}

/// Fails when a median is over its bound, or there is none.
fn judge(wrong: &mut Vec<String>, what: &str, median_of: Option<Spread>, most: f64) {
    let median = median_of.map_or(f64::INFINITY, |spread| spread.median);
    if median > most {
        wrong.push(format!("{what}: {median:.2}, over {most}"));
    }
}

/// Good when nothing is wrong.
fn verdict(wrong: &[String]) -> Result<(), Fault> {
    match wrong {
        [] => Ok(()),
        _ => Err(Fault::Failed(wrong.join("; "))),
    }
}
