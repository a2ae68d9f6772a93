//! `loadtest limit`: the least work of a server. A single thread, and a non-blocking send(2) of a
//! pre-built buffer per client and message; no queues, no pings, no limits, no HTTP. Over TLS, the frame is also sealed for
//! each client, with rustls, from the one frame into the one buffer of all clients.

mod client;
mod server;
mod session;
mod source;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::Args;

pub(crate) use source::frame;

use crate::fault::Fault;
use crate::tls;

/// Options of `loadtest limit`.
#[derive(Debug, Args)]
pub(crate) struct LimitArgs {
    /// Port on 127.0.0.1 (0: any free port)
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// NATS server to read from (core subscription)
    #[arg(
        long,
        default_value = "nats://127.0.0.1:4222",
        value_name = "URL",
        conflicts_with = "generate"
    )]
    nats: String,
    /// Subject to relay
    #[arg(long, default_value = "market.flow")]
    subject: String,
    /// TLS 1.3 with AES-128-GCM; TLS_CERT and TLS_KEY name the files of the certificates and the key (PEM)
    #[arg(long)]
    tls: bool,
    /// Join all waiting frames of a turn (up to 128 KiB) into one send per client
    #[arg(long)]
    batched: bool,
    /// No NATS: make the messages in this process, as fast as the clients take them
    #[arg(long)]
    generate: bool,
    /// With --generate: size of a payload
    #[arg(long, default_value_t = 8192, requires = "generate")]
    bytes: usize,
    /// With --generate: messages per second (0: no pause)
    #[arg(long, default_value_t = 0.0, requires = "generate")]
    rate: f64,
    /// With --generate: most messages waiting for the loop
    #[arg(long, default_value_t = 16, requires = "generate")]
    in_flight: usize,
    /// With --generate: start when this many clients are connected
    #[arg(long, default_value_t = 1, requires = "generate")]
    after_clients: usize,
    /// No NATS: each line of standard input is a message, sent unchanged; exit at the end of input
    #[arg(long, conflicts_with_all = ["generate", "nats", "exit_with_stdin"])]
    lines: bool,
    /// Exit when standard input ends (for a parent process)
    #[arg(long)]
    exit_with_stdin: bool,
}

/// Runs `loadtest limit` until `stop`, or until the end of standard input if requested.
pub(crate) fn run(args: &LimitArgs, stop: Arc<AtomicBool>) -> Result<(), Fault> {
    let waiting = if args.generate {
        args.in_flight
    } else {
        source::CHANNEL_MESSAGES
    };
    let tls = args.tls.then(tls::server_config).transpose()?;
    let mut server = server::Server::bind(args.port, tls, args.batched, args.generate, waiting)?;
    let started = if args.generate {
        source::generate(args, server.inlet())?
    } else if args.lines {
        source::lines(server.inlet(), Arc::clone(&stop))?
    } else {
        source::subscribe(&args.nats, &args.subject, server.inlet())?
    };
    if args.exit_with_stdin {
        source::stop_with_stdin(Arc::clone(&stop));
    }
    println!(
        "ready port={} pid={} {started}",
        server.port()?,
        std::process::id()
    );
    server.run(&stop)
}
