//! `loadtest tail`: p50, p99, p99.9 and the maximum from the bus to the clients at a rate, within ten minutes, and where the
//! worst messages lost their time.

mod causes;
mod witness;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use clap::Args;
use serde::Serialize;

use crate::bus::{Bus, Subscriber};
use crate::clock;
use crate::drive::drive;
use crate::fault::Fault;
use crate::fleet::{Fleet, Kind, Latency, Percentiles, Samples, Target};
use crate::launch;
use crate::machine::{About, Machine};
use crate::publish::{Pace, Publisher};
use crate::report::{self, row, table};
use causes::{Cause, Delay, Delays, Happened, Lost, Way, worst};

/// Options of `loadtest tail`.
#[derive(Debug, Args)]
pub(crate) struct TailArgs {
    /// Server of levels: a command with {port} and {nats} replaced, NATS_URL and GATEWAY_PORT set
    #[arg(long, value_name = "COMMAND")]
    server: String,
    /// Path of the server's WebSocket
    #[arg(long, default_value = "/ws/stream")]
    path: String,
    /// Subject of the messages
    #[arg(long, default_value = "market.flow")]
    subject: String,
    /// Clients
    #[arg(long, default_value_t = 1_000)]
    clients: usize,
    /// Size of a payload
    #[arg(long, default_value_t = 2_048)]
    bytes: usize,
    /// Messages per second
    #[arg(long, default_value_t = 50.0)]
    rate: f64,
    /// Duration, at most 540: the whole run ends within ten minutes
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..=540))]
    seconds: u64,
    /// Write the figures and the worst messages as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// The worst messages that are looked at.
const WORST: usize = 100;
/// Messages before the first that counts.
const WARM_UP: u64 = 20;
/// Time for clients to settle, and for the last messages to arrive, microseconds.
const SETTLE_US: u64 = 1_000_000;
/// Longest wait for messages after the end of publishing, microseconds.
const LATE_US: u64 = 5_000_000;
/// Between two lines of progress, microseconds.
const LINE_US: u64 = 5_000_000;

/// The result.
#[derive(Serialize)]
struct Tail {
    server: String,
    clients: usize,
    bytes: usize,
    rate: f64,
    messages: u64,
    deliveries: u64,
    lost: u64,
    /// From the due time of a message to the end of a client's read.
    latency: Latency,
    /// The same, without the figures for which the load program itself was late by more than a tenth.
    stands: Percentiles,
    late_publisher: Latency,
    late_clients: Latency,
    steal_ms: f64,
    machine: About,
    /// The worst messages by their last client, the slowest first.
    worst: Vec<Lost>,
}

/// Runs `loadtest tail`; fails when a message was lost.
pub(crate) fn run(a: &TailArgs, stop: &Arc<AtomicBool>) -> Result<(), Fault> {
    let nats = launch::nats_server()?;
    let url = launch::nats_url(&nats);
    let server = launch::server(&a.server, &url)?;
    let target = Target {
        tls: None,
        addr: server.addr,
        path: a.path.clone(),
        deflate: None,
        send: None,
        throttle_kbit: 0,
    };
    let mut fleet = Fleet::new(target, Arc::clone(stop))?;
    fleet.open(Kind::Reader, a.clients)?;
    fleet.run(SETTLE_US, |_| false)?;
    let mut publisher = Publisher::connect(&url, &a.subject, a.bytes)?;
    publish(&mut fleet, &mut publisher, 1..1 + WARM_UP, a, stop)?;
    publisher.take_late();
    let count = (a.rate * a.seconds as f64) as u64;
    let first = 1 + WARM_UP;
    let subscriber = Subscriber::open(Bus::Nats, &url, &a.subject)?;
    let (family, machine) = (server.family()?, Machine::new()?);
    let ends = AtomicBool::new(false);
    let (published, at_bus, of_machine) = thread::scope(|scope| {
        let bus = scope.spawn(|| witness::of_bus(subscriber, &ends));
        let looks = scope.spawn(|| witness::of_machine(&family, &machine, &ends));
        let published = publish(&mut fleet, &mut publisher, first..first + count, a, stop);
        ends.store(true, Ordering::Relaxed);
        (
            published,
            bus.join().unwrap_or_default(),
            looks.join().unwrap_or_default(),
        )
    });
    published?;
    let delays = publisher.take_delays();
    let ways = delays.iter().zip(fleet.readers.slowest_us()).zip(first..);
    let ways: Vec<Way> = ways
        .map(|((sent, took_us), n)| Way {
            n,
            due_us: sent.due_us,
            sent_late_us: sent.late_us,
            at_bus_us: at_bus.get(&n).copied(),
            took_us,
        })
        .collect();
    let late_turns = fleet.late_turns.take().unwrap_or_default();
    let late_turns = late_turns
        .into_iter()
        .map(|(end_us, us)| Delay { end_us, us });
    let happened = Happened {
        host: of_machine.host,
        clients: Delays(late_turns.collect()),
        kernel: of_machine.kernel,
    };
    let late = publisher.take_late();
    let tally = &fleet.readers;
    let result = Tail {
        server: a.server.clone(),
        clients: a.clients,
        bytes: a.bytes,
        rate: a.rate,
        messages: count,
        deliveries: tally.deliveries,
        lost: (count * a.clients as u64).saturating_sub(tally.deliveries),
        latency: tally.latency(),
        stands: Percentiles::judged(&tally.latency, &[&late, &fleet.late]),
        late_publisher: Latency::of(&late),
        late_clients: Latency::of(&fleet.late),
        steal_ms: of_machine.steal_us as f64 / 1e3,
        machine: About::this_machine(),
        worst: worst(&ways, &happened, WORST),
    };
    fleet.close();
    println!("{}", text(&result));
    report::write_json_compact(a.json.as_deref(), &result)?;
    match result.lost {
        0 => Ok(()),
        lost => Err(Fault::Failed(format!("{lost} deliveries were lost"))),
    }
}

/// Publishes, and reads until everything has arrived or is late, with a line of progress now and then.
fn publish(
    fleet: &mut Fleet,
    publisher: &mut Publisher,
    numbers: std::ops::Range<u64>,
    a: &TailArgs,
    stop: &AtomicBool,
) -> Result<(), Fault> {
    let count = numbers.end - numbers.start;
    fleet.count_from(numbers.start);
    fleet.late_turns = Some(Vec::new());
    fleet.readers.samples = Some(Samples::slowest(numbers.start, count));
    publisher.keep_delays();
    let expected = count * a.clients as u64;
    let start = clock::now_us();
    let (mut late_at, mut line_at) = (u64::MAX, start + LINE_US);
    drive(
        fleet,
        publisher,
        numbers,
        &Pace::Rate(a.rate),
        stop,
        |f, published| {
            let now = clock::now_us();
            if late_at == u64::MAX && published {
                late_at = now + LATE_US;
            }
            if now >= line_at {
                line_at = now + LINE_US;
                let seen = f.readers.latency();
                eprintln!(
                    "{} of {} s: p50 {:.2}, p99 {:.2}, p99.9 {:.2}, max {:.1} ms",
                    (now - start) / 1_000_000,
                    a.seconds,
                    seen.p50_ms,
                    seen.p99_ms,
                    seen.p999_ms,
                    seen.max_ms
                );
            }
            f.readers.deliveries >= expected || now >= late_at
        },
    )
}

fn text(tail: &Tail) -> String {
    type Of = fn(&Latency) -> f64;
    let p50: (Of, _) = (|l| l.p50_ms, tail.stands.p50_ms);
    let p99: (Of, _) = (|l| l.p99_ms, tail.stands.p99_ms);
    let p999: (Of, _) = (|l| l.p999_ms, tail.stands.p999_ms);
    let max: (Of, _) = (|l| l.max_ms, tail.stands.max_ms);
    let figures = [("p50", p50), ("p99", p99), ("p99.9", p999), ("max", max)];
    let mut rows = vec![row(&[
        &"bus to client",
        &"ms",
        &"publisher late ms",
        &"clients late ms",
        &"",
    ])];
    for (name, (of, stands)) in figures {
        let late = if stands.is_some() {
            ""
        } else {
            "the load program was late"
        };
        let ms = |latency| format!("{:.2}", of(latency));
        rows.push(row(&[
            &name,
            &ms(&tail.latency),
            &ms(&tail.late_publisher),
            &ms(&tail.late_clients),
            &late,
        ]));
    }
    let mut causes = vec![row(&[
        &"where the worst lost their time",
        &"messages",
        &"ms each",
    ])];
    for (at, cause) in Cause::ALL.into_iter().enumerate() {
        let of_cause = || tail.worst.iter().filter(|lost| lost.cause == cause);
        let count = of_cause().count();
        let ms = of_cause().map(|lost| lost.parts_us[at]).sum::<u64>() as f64 / 1e3;
        let each = format!("{:.1}", ms / count.max(1) as f64);
        causes.push(row(&[&cause.words(), &count, &each]));
    }
    format!(
        "{} messages of {} bytes, {} a second, to {} clients; {} deliveries lost; steal {:.0} ms\n{}\n{}",
        tail.messages,
        tail.bytes,
        tail.rate,
        tail.clients,
        tail.lost,
        tail.steal_ms,
        table(&rows),
        table(&causes)
    )
}
