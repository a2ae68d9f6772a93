//! Clients that come late, many within a second, beside as many that stay connected to the same feed:
//! each wants what it missed (`since`), or the newest messages of each name (`last`).

mod feed;
mod figures;
mod latecomers;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use clap::{Args, ValueEnum};
use serde::Serialize;

use self::feed::Feed;
use self::figures::{Figures, Others, text, verdict};
use self::latecomers::{Latecomers, Story};
use crate::fault::Fault;
use crate::fleet::{Fleet, Kind, Target};
use crate::launch::{self, BusKind, Program};
use crate::metrics;
use crate::report;

/// Longest wait for the responses to the subscriptions of the clients that stay.
const ANSWERS_US: u64 = 30_000_000;
/// Longest wait until a new instance may know the positions of others.
const SETTLE_US: u64 = 2_000_000;
/// Welcome and response.
const ANSWERS_PER_CLIENT: u64 = 2;

/// The gateways whose clients may come late.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
enum Gateway {
    /// Five symbols
    Trades,
    /// 50 names, and a pattern with 1,000 other names; the server needs --channels-max 51
    Channels,
}

/// Options of `loadtest storm late`.
#[derive(Debug, Args)]
pub(crate) struct LateArgs {
    /// Gateway of the server
    #[arg(long, value_enum)]
    gateway: Gateway,
    /// Bus to publish on; trades: redis
    #[arg(long, value_enum, default_value_t = BusKind::Redis)]
    bus: BusKind,
    /// Server: a command with {port}, {redis} or {nats} replaced; REDIS_URL or WEIRGATE_BUS and the
    /// variable of the port are set
    #[arg(long, value_name = "COMMAND")]
    server: String,
    /// Clients that come late
    #[arg(short = 'n', long, default_value_t = 1_000)]
    clients: usize,
    /// Clients that stay connected meanwhile, with the same names
    #[arg(long, default_value_t = 1_000)]
    others: usize,
    /// Messages that each of the late clients has missed; 0: what the connections alone cost
    #[arg(long, default_value_t = 500, conflicts_with = "last")]
    missed: u64,
    /// In place of missed messages: the newest messages of each name
    #[arg(long)]
    last: Option<u64>,
    /// Time in which the late clients come, seconds
    #[arg(long, default_value_t = 1.0)]
    within: f64,
    /// Messages per second, over all names
    #[arg(long, default_value_t = 20.0)]
    rate: f64,
    /// The feed without late clients before, at least, seconds
    #[arg(long, default_value_t = 10.0)]
    quiet: f64,
    /// Size of a payload of channels (at least 128)
    #[arg(long, default_value_t = 256)]
    bytes: usize,
    /// Rounds, each with a fresh bus and a fresh server
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Bound of the p99 of the clients that stay, above that of the feed alone, ms
    #[arg(long, default_value_t = 20.0)]
    p99_more_max: f64,
    /// Bound of the additional resident memory of the server, MiB
    #[arg(long, default_value_t = 128.0)]
    memory_max: f64,
    /// Write the result as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

impl LateArgs {
    /// Messages of the time without late clients.
    fn quiet_messages(&self) -> u64 {
        (self.rate * self.quiet) as u64
    }
}

/// Runs the rounds; fails if a late client has a hole or a message twice, if a client was closed, or
/// when a bound was exceeded.
pub(super) fn run(a: &LateArgs, stop: &Arc<AtomicBool>) -> Result<(), Fault> {
    if a.gateway == Gateway::Trades && a.bus == BusKind::Nats {
        return Err(Fault::Usage("trades are on Redis".into()));
    }
    let mut rounds = Vec::new();
    for _ in 0..a.rounds {
        rounds.push(round(a, stop)?);
    }
    println!("{}", text(&rounds));
    report::write_json(a.json.as_deref(), &rounds)?;
    verdict(a, &rounds)
}

fn round(a: &LateArgs, stop: &Arc<AtomicBool>) -> Result<Figures, Fault> {
    let (_bus, url) = a.bus.start()?;
    let server = launch::server_on(&a.server, a.bus, &url)?;
    let feed = Feed::new(a);
    thread::sleep(std::time::Duration::from_micros(SETTLE_US));
    let enough = AtomicBool::new(false);
    let mut publisher = feed.connect(&url)?;
    publisher.each_name_once(a.last.unwrap_or(1))?;
    let mut others = stay(a, &feed, &server, stop)?;
    thread::scope(|scope| {
        let publishing = scope.spawn(|| publisher.publish(a.rate, &enough));
        let figures = beside(a, &feed, &mut others, &server, stop);
        enough.store(true, Ordering::Relaxed);
        let published = publishing.join();
        published.unwrap_or_else(|_| Err(Fault::Bus("the publisher panicked".into())))?;
        figures
    })
}

fn target(a: &LateArgs, server: &Program) -> Target {
    let path = match a.gateway {
        Gateway::Trades => "/",
        Gateway::Channels => "/ws",
    };
    Target {
        tls: None,
        addr: server.addr,
        path: path.into(),
        deflate: None,
        send: None,
        throttle_kbit: 0,
    }
}

/// The clients that stay, with all names granted.
fn stay(
    a: &LateArgs,
    feed: &Feed,
    server: &Program,
    stop: &Arc<AtomicBool>,
) -> Result<Fleet, Fault> {
    let mut others = Fleet::new(target(a, server), Arc::clone(stop))?;
    others.open(Kind::Reader, a.others)?;
    others.send_all(&feed.request(None, None));
    let answers = ANSWERS_PER_CLIENT * a.others as u64;
    if !others.run(ANSWERS_US, |f| f.readers.unstamped >= answers)? {
        let missing = answers - others.readers.unstamped;
        return Err(Fault::Server(format!("{missing} answers are missing")));
    }
    Ok(others)
}

/// The late clients on a separate thread, while the others read the feed.
fn beside(
    a: &LateArgs,
    feed: &Feed,
    others: &mut Fleet,
    server: &Program,
    stop: &Arc<AtomicBool>,
) -> Result<Figures, Fault> {
    let process = server.process()?;
    others.run(SETTLE_US, |_| false)?;
    others.count_from(others.newest() + 1);
    let begun = AtomicBool::new(false);
    thread::scope(|scope| {
        let late = scope.spawn(|| -> Result<Story, Fault> {
            let mut late = Latecomers::new(a, feed, target(a, server), stop)?;
            late.wait_for_the_moment()?;
            begun.store(true, Ordering::Release);
            late.come()
        });
        others.run(u64::MAX / 2, |_| {
            begun.load(Ordering::Acquire) || late.is_finished()
        })?;
        let quiet = Others::of(others);
        let memory_before = process.rss_bytes()?;
        others.count_from(others.newest() + 1);
        others.run(u64::MAX / 2, |_| late.is_finished())?;
        let beside = Others::of(others);
        let story = late.join();
        let story = story.unwrap_or_else(|_| Err(Fault::Server("a client panicked".into())))?;
        let resumes = metrics::by_label(server.addr, "weirgate_resumes_total", "outcome")?;
        Ok(Figures {
            quiet,
            beside,
            story,
            recovered: resumes.get("recovered").copied().unwrap_or(0.0),
            memory_before,
            memory_peak: process.rss_peak_bytes()?,
        })
    })
}
