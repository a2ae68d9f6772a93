//! `loadtest trades` and `loadtest channels`: clients of a gateway on Redis or NATS, each with a
//! subscription, and the delivered messages.

mod outcome;
mod publisher;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use clap::Args;

use self::outcome::Outcome;
use self::publisher::{Publisher, Schedule};
use crate::clock;
use crate::fault::Fault;
use crate::fleet::{Fleet, Kind, Target};
use crate::launch::{self, BusKind};
use crate::payload::Payload;
use crate::report;
use crate::wire::deflate::DeflateArgs;

/// Longest wait for the responses to the subscriptions.
const ANSWERS_US: u64 = 30_000_000;
/// Longest wait for a delivery after the last publication.
const LATE_US: u64 = 5_000_000;
/// Welcome and response.
const ANSWERS_PER_CLIENT: u64 = 2;

/// The common options of the two commands.
#[derive(Debug, Args)]
pub(crate) struct Common {
    /// Server: a command with {port}, {redis} or {nats} replaced; REDIS_URL or WEIRGATE_BUS and the
    /// variable of the port are set
    #[arg(long, value_name = "COMMAND")]
    server: String,
    /// Time of publishing, seconds
    #[arg(long, default_value_t = 20.0)]
    seconds: f64,
    #[command(flatten)]
    deflate: DeflateArgs,
    /// Write the result as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Options of `loadtest trades`.
#[derive(Debug, Args)]
pub(crate) struct TradesArgs {
    #[command(flatten)]
    common: Common,
    /// Clients; each subscribes to a symbol
    #[arg(long, short = 'n', default_value_t = 10_000)]
    clients: usize,
    /// Symbols; the clients are spread over the symbols
    #[arg(long, default_value_t = 2_000)]
    symbols: usize,
    /// Trades per second, over all symbols in turn
    #[arg(long, default_value_t = 5_000.0)]
    rate: f64,
}

/// Options of `loadtest channels`.
#[derive(Debug, Args)]
pub(crate) struct ChannelsArgs {
    #[command(flatten)]
    common: Common,
    /// Bus to publish on
    #[arg(long, value_enum, default_value_t = BusKind::Redis)]
    bus: BusKind,
    /// Clients
    #[arg(long, short = 'n', default_value_t = 1_000)]
    clients: usize,
    /// Channels; the clients are spread over the channels
    #[arg(long, default_value_t = 1)]
    channels: usize,
    /// Messages per second, over all channels in turn
    #[arg(long, default_value_t = 20.0)]
    rate: f64,
    /// Size of a payload (at least 128)
    #[arg(long, default_value_t = 1024)]
    bytes: usize,
}

/// The names and messages of a gateway.
pub(crate) struct Words {
    /// Path of the WebSocket.
    pub(crate) path: &'static str,
    /// The request of a client for topic `n`.
    pub(crate) subscribe: fn(usize) -> String,
    /// The channel or subject of topic `n`.
    pub(crate) channel: fn(usize) -> String,
}

/// The trades gateway.
pub(crate) const TRADES: Words = Words {
    path: "/",
    subscribe: |n| format!(r#"{{"action":"subscribe","symbols":["S{n}"]}}"#),
    channel: |n| format!("channel:trade:S{n}"),
};

/// The channels gateway on Redis.
pub(crate) const CHANNELS: Words = Words {
    path: "/ws",
    subscribe: |n| format!(r#"{{"action":"subscribe","channels":["market:tick:S{n}"]}}"#),
    channel: |n| format!("market:tick:S{n}"),
};

/// The channels gateway on NATS.
pub(crate) const SUBJECTS: Words = Words {
    path: "/ws",
    subscribe: |n| format!(r#"{{"action":"subscribe","channels":["market.tick.S{n}"]}}"#),
    channel: |n| format!("market.tick.S{n}"),
};

/// Runs `loadtest trades`; fails unless each client gets exactly the expected trades, in order.
pub(crate) fn trades(a: &TradesArgs, stop: &Arc<AtomicBool>) -> Result<(), Fault> {
    let load = Load {
        clients: a.clients,
        topics: a.symbols,
        rate: a.rate,
        payload: Payload::trades(),
    };
    run(&a.common, BusKind::Redis, &TRADES, load, stop)
}

/// Runs `loadtest channels`; fails unless each client gets exactly the expected messages, in order.
pub(crate) fn channels(a: &ChannelsArgs, stop: &Arc<AtomicBool>) -> Result<(), Fault> {
    let load = Load {
        clients: a.clients,
        topics: a.channels,
        rate: a.rate,
        payload: Payload::new(a.bytes),
    };
    let words = match a.bus {
        BusKind::Redis => &CHANNELS,
        BusKind::Nats => &SUBJECTS,
    };
    run(&a.common, a.bus, words, load, stop)
}

/// Numbers of clients and topics, rate and payload.
struct Load {
    clients: usize,
    topics: usize,
    rate: f64,
    payload: Payload,
}

fn run(
    common: &Common,
    bus: BusKind,
    words: &Words,
    load: Load,
    stop: &Arc<AtomicBool>,
) -> Result<(), Fault> {
    if load.topics == 0 || load.clients < load.topics {
        return Err(Fault::Usage(
            "there must be a topic, and a client for each".into(),
        ));
    }
    let (_bus, url) = bus.start()?;
    let server = launch::server_on(&common.server, bus, &url)?;
    let process = server.process()?;
    let target = Target {
        tls: None,
        addr: server.addr,
        path: words.path.to_owned(),
        deflate: common.deflate.deflate,
        send: None,
        throttle_kbit: 0,
    };
    let mut fleet = Fleet::new(target, Arc::clone(stop))?;
    fleet.open(Kind::Reader, load.clients)?;
    fleet.send_each(|client| (words.subscribe)(client % load.topics));
    let answers = ANSWERS_PER_CLIENT * load.clients as u64;
    if !fleet.run(ANSWERS_US, |f| f.readers.unstamped >= answers)? {
        let missing = answers - fleet.readers.unstamped;
        return Err(Fault::Server(format!("{missing} answers are missing")));
    }

    let schedule = Schedule {
        count: (load.rate * common.seconds) as u64,
        rate: load.rate,
        topics: load.topics,
    };
    let mut publisher = Publisher::connect(&url, words.channel, load.topics, load.payload)?;
    let cpu_before = process.cpu_us()?;
    let expected: u64 = (0..load.clients)
        .map(|client| schedule.of_topic(client % load.topics))
        .sum();
    let published = thread::scope(|scope| {
        let work = scope.spawn(|| publisher.publish(&schedule, stop));
        let mut until = u64::MAX;
        let ran = fleet.run(u64::MAX / 2, |f| {
            if until == u64::MAX && work.is_finished() {
                until = clock::now_us() + LATE_US;
            }
            f.readers.deliveries >= expected && work.is_finished() || clock::now_us() > until
        });
        if ran.is_err() {
            // Ends the publisher's thread; the scope waits for the thread.
            stop.store(true, Ordering::Relaxed);
        }
        let published = work
            .join()
            .unwrap_or_else(|_| Err(Fault::Bus("the publisher panicked".into())));
        ran.and(published)
    })?;
    let cpu_us = process.cpu_us()?.saturating_sub(cpu_before);
    let wrong_clients = fleet
        .deliveries()
        .enumerate()
        .filter(|(client, got)| *got != schedule.of_topic(client % load.topics))
        .count();
    let outcome = Outcome::of(&fleet, published, expected, wrong_clients, cpu_us, process)?;
    fleet.close();
    println!("{}", outcome.text());
    report::write_json(common.json.as_deref(), &outcome)?;
    outcome.verdict()
}
