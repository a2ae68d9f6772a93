//! `loadtest memory`: resident memory for each idle client, before and after each has sent a frame.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::Args;
use serde::Serialize;

use crate::clock;
use crate::fault::Fault;
use crate::fleet::{Fleet, Kind, Target};
use crate::launch;
use crate::report::{self, mib, row, table};
use crate::syscalls::{Counting, Syscalls};
use crate::wire::deflate::DeflateArgs;

/// Options of `loadtest memory`.
#[derive(Debug, Args)]
pub(crate) struct MemoryArgs {
    /// Server: a command with {port} and {nats} replaced, NATS_URL and GATEWAY_PORT set
    #[arg(long, value_name = "COMMAND")]
    server: String,
    /// Path of the server's WebSocket
    #[arg(long, default_value = "/ws/stream")]
    path: String,
    /// Numbers of clients to measure, rising
    #[arg(long, value_delimiter = ',', default_value = "0,5000,10000")]
    clients: Vec<usize>,
    /// Text frame that each client sends at each step
    #[arg(
        long,
        default_value = r#"{"type":"subscribe","channel":"idle"}"#,
        value_name = "TEXT"
    )]
    send: String,
    /// Wait before each measurement, seconds
    #[arg(long, default_value_t = 2.0)]
    settle: f64,
    #[command(flatten)]
    deflate: DeflateArgs,
    /// Count the server's system calls, idle threads included, while 1,000 more clients connect
    #[arg(long)]
    syscalls: bool,
    /// Write the result as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Handshakes of `--syscalls`.
const COUNTED_HANDSHAKES: usize = 1_000;

/// Resident memory at a number of clients.
#[derive(Serialize)]
struct Step {
    clients: usize,
    /// Clients with negotiated permessage-deflate.
    deflate: usize,
    idle_bytes: u64,
    /// After each client, since the start, has sent at least one frame.
    after_frame_bytes: u64,
    /// Memory for each client, beyond the memory without clients.
    idle_bytes_per_client: Option<f64>,
    after_frame_bytes_per_client: Option<f64>,
    /// Server CPU for each new connection and its handshake, microseconds.
    cpu_us_per_handshake: Option<f64>,
}

/// Runs `loadtest memory`; fails when a client is closed.
pub(crate) fn run(a: &MemoryArgs, stop: &Arc<AtomicBool>) -> Result<(), Fault> {
    if !a.clients.is_sorted() {
        return Err(Fault::Usage("--clients must rise".into()));
    }
    let nats = launch::nats_server()?;
    let server = launch::server(&a.server, &launch::nats_url(&nats))?;
    let process = server.process()?;
    let target = Target {
        tls: None,
        addr: server.addr,
        path: a.path.clone(),
        deflate: a.deflate.deflate,
        send: None,
        throttle_kbit: 0,
    };
    let settle_us = clock::seconds_us(a.settle);
    let mut fleet = Fleet::new(target, Arc::clone(stop))?;
    fleet.run(settle_us, |_| false)?;
    let empty = process.rss_bytes()?;
    let mut steps = Vec::new();
    for &clients in &a.clients {
        let new = clients - fleet.open_count(Kind::Reader);
        let cpu_before = process.cpu_us()?;
        fleet.open(Kind::Reader, new)?;
        let cpu_us = process.cpu_us()?.saturating_sub(cpu_before);
        fleet.run(settle_us, |_| false)?;
        let idle_bytes = process.rss_bytes()?;
        fleet.send_all(&a.send);
        fleet.run(settle_us, |_| false)?;
        let after_frame_bytes = process.rss_bytes()?;
        if fleet.open_count(Kind::Reader) != clients {
            return Err(Fault::Failed(format!(
                "clients were closed: {:?}",
                fleet.readers.ends
            )));
        }
        let each =
            |bytes: u64| (clients > 0).then(|| (bytes as f64 - empty as f64) / clients as f64);
        steps.push(Step {
            clients,
            deflate: fleet.deflate_count(),
            idle_bytes,
            after_frame_bytes,
            idle_bytes_per_client: each(idle_bytes),
            after_frame_bytes_per_client: each(after_frame_bytes),
            cpu_us_per_handshake: (new > 0).then(|| cpu_us as f64 / new as f64),
        });
    }
    let counted = if a.syscalls {
        let counting = Counting::start(&server.family()?.pids())?;
        fleet.open(Kind::Reader, COUNTED_HANDSHAKES)?;
        Some(counting.stop()?)
    } else {
        None
    };
    fleet.close();
    println!("{}", text(&steps));
    if let Some(counted) = counted {
        println!("{}", syscalls_text(&counted));
    }
    report::write_json(a.json.as_deref(), &steps)
}

fn syscalls_text(counted: &Syscalls) -> String {
    let each = |count: u64| count as f64 / COUNTED_HANDSHAKES as f64;
    let names = counted.by_name.iter();
    let names: Vec<String> = names
        .map(|(name, count)| format!("{name} {:.2}", each(*count)))
        .collect();
    format!(
        "system calls per handshake: {:.2} ({}; counted with {})",
        each(counted.total),
        names.join(", "),
        counted.tool
    )
}

fn text(steps: &[Step]) -> String {
    let mut rows = vec![row(&[
        &"clients",
        &"idle MiB",
        &"B/client",
        &"after a frame MiB",
        &"B/client",
        &"CPU us/handshake",
    ])];
    let number = |v: Option<f64>| v.map_or_else(|| "-".into(), |v| format!("{v:.0}"));
    for s in steps {
        rows.push(row(&[
            &s.clients,
            &mib(s.idle_bytes),
            &number(s.idle_bytes_per_client),
            &mib(s.after_frame_bytes),
            &number(s.after_frame_bytes_per_client),
            &number(s.cpu_us_per_handshake),
        ]));
    }
    table(&rows)
}
