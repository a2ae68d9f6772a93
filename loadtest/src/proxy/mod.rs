//! `loadtest proxy`: large bodies through a reverse proxy and through nginx in turn, with the time of
//! each and the memory of the proxy.

mod service;
mod transfer;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::Args;
use serde::Serialize;

use self::service::Service;
use self::transfer::Direction;
use crate::clock;
use crate::fault::Fault;
use crate::launch::{self, Program};
use crate::report;
use crate::stats::{Spread, spread};

/// The nginx site for the same work: pass on each piece immediately, for bodies of any size.
const SITE: &str = "server {
        listen {addr};
        client_max_body_size 0;
        location / {
            proxy_pass http://{upstream};
            proxy_http_version 1.1;
            proxy_set_header Connection \"\";
            proxy_request_buffering off;
            proxy_buffering off;
        }
    }";

/// Options of `loadtest proxy`.
#[derive(Debug, Args)]
pub(crate) struct ProxyArgs {
    /// Server: a command with {port} and {upstream} (address and port of the service) replaced
    #[arg(long, value_name = "COMMAND")]
    server: String,
    /// Path that the server proxies to the service
    #[arg(long, default_value = "/v1/measurement/x")]
    path: String,
    /// Bytes of a body
    #[arg(long, default_value_t = 1_000_000_000)]
    bytes: u64,
    /// Rounds; in each, every direction goes through both proxies
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Fail when the median of time over nginx's is above this
    #[arg(long, default_value_t = 1.3)]
    ratio_max: f64,
    /// Fail when resident memory grows by more, MiB
    #[arg(long, default_value_t = 16.0)]
    growth_max: f64,
    /// Write the result as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Debug, Serialize)]
struct Outcome {
    bytes: u64,
    directions: Vec<DirectionOutcome>,
    rss_start_bytes: u64,
    rss_peak_bytes: u64,
}

#[derive(Debug, Default, Serialize)]
struct DirectionOutcome {
    direction: &'static str,
    server_seconds: Vec<f64>,
    nginx_seconds: Vec<f64>,
    /// Time over nginx's, of each round.
    ratio: Option<Spread>,
}

/// Runs `loadtest proxy`; fails when a body is incomplete, or a bound is exceeded.
pub(crate) fn run(a: &ProxyArgs, stop: &Arc<AtomicBool>) -> Result<(), Fault> {
    let service = Service::start()?;
    let upstream = service.addr.to_string();
    let command = a.server.replace("{upstream}", &upstream);
    let server = launch::server_at(&command, "", launch::free_address()?)?;
    let nginx = nginx(&upstream)?;
    let process = server.process()?;
    let mut outcome = Outcome {
        bytes: a.bytes,
        directions: Vec::new(),
        rss_start_bytes: process.rss_bytes()?,
        rss_peak_bytes: 0,
    };
    for direction in Direction::ALL {
        let mut times = DirectionOutcome {
            direction: direction.name(),
            ..DirectionOutcome::default()
        };
        for round in 0..a.rounds {
            let measure = |addr, seconds: &mut Vec<f64>| {
                if stop.load(Ordering::Relaxed) {
                    return Err(Fault::Interrupted);
                }
                seconds.push(timed(direction, addr, a)?);
                Ok(())
            };
            // The order alternates.
            if round % 2 == 0 {
                measure(server.addr, &mut times.server_seconds)?;
                measure(nginx.addr, &mut times.nginx_seconds)?;
            } else {
                measure(nginx.addr, &mut times.nginx_seconds)?;
                measure(server.addr, &mut times.server_seconds)?;
            }
        }
        let pairs = times.server_seconds.iter().zip(&times.nginx_seconds);
        let ratios: Vec<f64> = pairs.map(|(server, nginx)| server / nginx).collect();
        times.ratio = spread(&ratios);
        outcome.directions.push(times);
    }
    outcome.rss_peak_bytes = process.rss_peak_bytes()?;
    print(&outcome);
    report::write_json(a.json.as_deref(), &outcome)?;
    judge(&outcome, a)
}

fn nginx(upstream: &str) -> Result<Program, Fault> {
    let addr = launch::free_address()?;
    let site = SITE
        .replace("{addr}", &addr.to_string())
        .replace("{upstream}", upstream);
    let config = include_str!("../deploy/nginx.conf").replace("{site}", &site);
    launch::nginx(&config, addr)
}

fn timed(direction: Direction, addr: SocketAddr, a: &ProxyArgs) -> Result<f64, Fault> {
    let begun = clock::now_us();
    transfer::run(direction, addr, &a.path, a.bytes)?;
    Ok((clock::now_us() - begun) as f64 / 1e6)
}

fn print(outcome: &Outcome) {
    let median = |seconds: &[f64]| spread(seconds).map_or(0.0, |spread| spread.median);
    let mut rows = vec![report::row(&[&"", &"server s", &"nginx s", &"ratio"])];
    for times in &outcome.directions {
        rows.push(vec![
            times.direction.to_owned(),
            format!("{:.3}", median(&times.server_seconds)),
            format!("{:.3}", median(&times.nginx_seconds)),
            report::spread_text(times.ratio),
        ]);
    }
    print!("{}", report::table(&rows));
    let [start, peak] = [outcome.rss_start_bytes, outcome.rss_peak_bytes].map(report::mib);
    println!(
        "{} bytes a body; resident memory {start} MiB, at its peak {peak} MiB",
        outcome.bytes
    );
}

fn judge(outcome: &Outcome, a: &ProxyArgs) -> Result<(), Fault> {
    let mut wrong = Vec::new();
    for times in &outcome.directions {
        let median = times.ratio.map_or(f64::INFINITY, |ratio| ratio.median);
        if median > a.ratio_max {
            let (direction, most) = (times.direction, a.ratio_max);
            wrong.push(format!(
                "{direction}: {median:.2} times nginx's time, over {most}"
            ));
        }
    }
    let growth = outcome
        .rss_peak_bytes
        .saturating_sub(outcome.rss_start_bytes);
    if growth as f64 > a.growth_max * 1024.0 * 1024.0 {
        wrong.push(format!(
            "resident memory grew by {} MiB",
            report::mib(growth)
        ));
    }
    match wrong.is_empty() {
        true => Ok(()),
        false => Err(Fault::Failed(wrong.join("; "))),
    }
}
