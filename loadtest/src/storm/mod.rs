//! `loadtest storm`: thousands of clients that connect at once, clients that reconnect at once while a
//! server stops, and clients that come late and want what they missed.

mod connects;
mod late;
mod stop;
mod swarm;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::{Args, Subcommand};
use rustls::ClientConfig;

use crate::fault::Fault;
use crate::tls;

/// The scenarios.
#[derive(Debug, Subcommand)]
pub(crate) enum StormCommand {
    /// Thousands of clients connect at once beside a client with a feed
    Connect(connects::ConnectArgs),
    /// The server stops, and the clients reconnect at once
    Stop(stop::StopArgs),
    /// Clients of trades or channels come late beside as many others, and want what they missed
    Late(late::LateArgs),
}

/// Options of the storms of levels.
#[derive(Debug, Args)]
struct Common {
    /// Server: a command with {port} and {nats} replaced, NATS_URL and GATEWAY_PORT set
    #[arg(long, value_name = "COMMAND")]
    server: String,
    /// Certificates to trust (PEM): the clients speak TLS; the certificate has to name 127.0.0.1
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// Path of the WebSocket with the feed
    #[arg(long, default_value = "/ws/stream")]
    path: String,
    /// Subject to publish on
    #[arg(long, default_value = "market.flow")]
    subject: String,
    /// Size of a payload
    #[arg(long, default_value_t = 2048)]
    bytes: usize,
    /// Rounds, each with a fresh server
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Write the result as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

impl Common {
    /// The TLS of the clients; `None` for plain connections.
    fn tls(&self) -> Result<Option<Arc<ClientConfig>>, Fault> {
        tls::wanted(self.ca_file.is_some(), "TLS", self.ca_file.as_deref())
    }
}

/// Runs `loadtest storm`.
pub(crate) fn run(command: StormCommand, stop: &Arc<AtomicBool>) -> Result<(), Fault> {
    match command {
        StormCommand::Connect(args) => connects::run(&args, stop),
        StormCommand::Stop(args) => stop::run(&args, stop),
        StormCommand::Late(args) => late::run(&args, stop),
    }
}
