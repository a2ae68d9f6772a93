//! `loadtest slow`: slow clients, and the effect on the server and on the other clients.

mod burst;
mod never_read;
mod throttled;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::{Args, Subcommand};

use crate::fault::Fault;
use crate::fleet::{Fleet, Target};
use crate::launch::{self, Program};
use crate::publish::Publisher;
use crate::wire::deflate::DeflateArgs;

/// The scenarios.
#[derive(Debug, Subcommand)]
pub(crate) enum SlowCommand {
    /// Clients that never read, among readers, compared with the same run without these clients
    NeverRead(never_read::NeverReadArgs),
    /// Clients that read a few kbit/s: nobody is dropped, and messages are not old
    Throttled(throttled::ThrottledArgs),
    /// Many messages at once to clients that read: nobody is dropped, all end with the newest
    Burst(burst::BurstArgs),
}

/// The common options of all scenarios.
#[derive(Debug, Args)]
struct Common {
    /// Server: a command with {port} and {nats} replaced, NATS_URL and GATEWAY_PORT set
    #[arg(long, value_name = "COMMAND")]
    server: String,
    /// Path of the server's WebSocket
    #[arg(long, default_value = "/ws/stream")]
    path: String,
    /// Subject to publish on
    #[arg(long, default_value = "market.flow")]
    subject: String,
    /// Size of a payload
    #[arg(long, default_value_t = 8192)]
    bytes: usize,
    #[command(flatten)]
    deflate: DeflateArgs,
    /// Write the result as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Runs `loadtest slow`.
pub(crate) fn run(command: SlowCommand, stop: &Arc<AtomicBool>) -> Result<(), Fault> {
    match command {
        SlowCommand::NeverRead(args) => never_read::run(&args, stop),
        SlowCommand::Throttled(args) => throttled::run(&args, stop),
        SlowCommand::Burst(args) => burst::run(&args, stop),
    }
}

/// A fresh NATS server, a fresh server under test, no clients yet.
struct Stage {
    server: Program,
    publisher: Publisher,
    fleet: Fleet,
    /// Last, so dropped last: NATS ends after the server.
    _nats: Program,
}

impl Stage {
    fn set(common: &Common, throttle_kbit: u32, stop: &Arc<AtomicBool>) -> Result<Self, Fault> {
        let nats = launch::nats_server()?;
        let url = launch::nats_url(&nats);
        let server = launch::server(&common.server, &url)?;
        let target = Target {
            tls: None,
            addr: server.addr,
            path: common.path.clone(),
            deflate: common.deflate.deflate,
            send: None,
            throttle_kbit,
        };
        Ok(Self {
            publisher: Publisher::connect(&url, &common.subject, common.bytes)?,
            fleet: Fleet::new(target, Arc::clone(stop))?,
            server,
            _nats: nats,
        })
    }
}
