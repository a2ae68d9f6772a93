//! `loadtest limit`: the least work of a server. One thread for the clients, and a non-blocking send(2) of a
//! pre-built buffer per client and message; no queues, no pings, no limits, no HTTP. With two threads, the floor: the other
//! thread reads the bus, behind a channel. With a single thread, the raw limit: the thread reads the bus as well. Over TLS, the
//! frame is also sealed for each client, with rustls, from the one frame into the one buffer of all clients.

mod client;
mod frames;
mod server;
mod session;
mod source;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::Args;

use frames::Frames;

pub(crate) use frames::Gateway;

use crate::bus::{Bus, Subscriber};
use crate::fault::Fault;
use crate::launch::BusKind;
use crate::tls;

/// Options of `loadtest limit`.
#[derive(Debug, Args)]
pub(crate) struct LimitArgs {
    /// Port on 127.0.0.1 (0: any free port)
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// Bus to read from
    #[arg(long, value_enum, default_value_t = Bus::Nats, conflicts_with = "generate")]
    bus: Bus,
    /// Threads: 1 reads the bus and writes to the clients, 2 has a thread for the bus and a thread for the clients
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=2), conflicts_with = "generate")]
    threads: u8,
    /// Gateway whose frames the clients get
    #[arg(long, value_enum, default_value_t = Gateway::Levels)]
    gateway: Gateway,
    /// NATS server to read from
    #[arg(
        long,
        default_value = "nats://127.0.0.1:4222",
        value_name = "URL",
        conflicts_with = "generate"
    )]
    nats: String,
    /// Redis server to read from
    #[arg(long, default_value = "redis://127.0.0.1:6379", value_name = "URL")]
    redis: String,
    /// Subject or channel to relay; on Redis a pattern if there is a `*`
    #[arg(long, default_value = "market.flow")]
    subject: String,
    /// TLS 1.3 with AES-128-GCM; TLS_CERT and TLS_KEY name the files of the certificates and the key (PEM)
    #[arg(long)]
    tls: bool,
    /// Join all waiting frames of a turn (up to 128 KiB) into one send per client
    #[arg(long)]
    batched: bool,
    /// No bus: make the messages in this process, as fast as the clients take them
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
    let settings = server::Settings {
        port: args.port,
        tls: args.tls.then(tls::server_config).transpose()?,
        gateway: args.gateway,
        batched: args.batched,
        lossless: args.generate,
        in_flight: waiting,
    };
    let mut server = server::Server::bind(settings)?;
    let started = if args.generate {
        source::generate(args, server.inlet())?
    } else {
        subscribe(args, &mut server, &stop)?
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

/// Subscribes on the bus, and hands the subscription to a thread or to the loop.
fn subscribe(
    args: &LimitArgs,
    server: &mut server::Server,
    stop: &Arc<AtomicBool>,
) -> Result<String, Fault> {
    let url = match args.bus.kind() {
        BusKind::Nats => &args.nats,
        BusKind::Redis => &args.redis,
    };
    let subscriber = Subscriber::open(args.bus, url, &args.subject)?;
    let frames = Frames::new(args.gateway, &args.subject);
    match args.threads {
        1 => server.read(subscriber, frames)?,
        _ => source::relay(subscriber, frames, server.inlet(), Arc::clone(stop))?,
    }
    Ok(format!("subject={}", args.subject))
}
