//! `loadtest clients`: WebSocket clients against a URL, and their figures.

use std::collections::BTreeMap;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::Args;
use serde::Serialize;

use crate::clock;
use crate::fault::Fault;
use crate::fleet::{Fleet, Kind, Percentiles, Tally, Target};
use crate::process::Process;
use crate::report::{self, mib, row, table, unless_refused};
use crate::tls;
use crate::wire::deflate::DeflateArgs;

/// Options of `loadtest clients`.
#[derive(Debug, Args)]
pub(crate) struct ClientsArgs {
    /// Server, for example ws://127.0.0.1:8000/ws/stream
    url: String,
    /// Certificates to trust (PEM), for wss://; the certificate has to name the IP address
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// Clients that read everything at once
    #[arg(long, short = 'n', default_value_t = 1000)]
    clients: usize,
    /// Clients that never read, behind a small receive buffer
    #[arg(long, default_value_t = 0, value_name = "CLIENTS")]
    slow: usize,
    /// Clients that read slowly, behind a small receive buffer
    #[arg(long, default_value_t = 0, value_name = "CLIENTS")]
    throttle: usize,
    /// Reading rate of a throttled client, kbit/s
    #[arg(long, default_value_t = 64, value_name = "KBIT")]
    throttle_kbit: u32,
    #[command(flatten)]
    deflate: DeflateArgs,
    /// Text message that each client sends once open
    #[arg(long, value_name = "TEXT")]
    send: Option<String>,
    /// End after this many seconds
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// End as soon as each reader has this many messages with a stamp
    #[arg(long, value_name = "MESSAGES")]
    expect: Option<u64>,
    /// The server may skip messages (conflation): gaps are not a loss
    #[arg(long)]
    conflating: bool,
    /// Process of the server: report its CPU and memory
    #[arg(long, value_name = "PID")]
    server_pid: Option<u32>,
    /// Write the result as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// The figures of a group of clients.
#[derive(Serialize)]
struct Group {
    open_at_end: usize,
    deliveries: u64,
    /// Sequence numbers missing between two messages.
    skipped: u64,
    not_rising: u64,
    retained: u64,
    unstamped: u64,
    deflated: u64,
    payload_bytes: u64,
    /// Payload bytes after inflating.
    text_bytes: u64,
    /// Percentiles are `None` (refused) if the clients' loop was late.
    latency: Percentiles,
    ends: BTreeMap<String, u64>,
}

/// The server's process over the run.
#[derive(Serialize)]
struct ServerFigures {
    cpu_us: u64,
    cpu_us_per_delivery: f64,
    rss_bytes: u64,
    rss_peak_bytes: u64,
}

/// The result of `loadtest clients`.
#[derive(Serialize)]
struct Outcome {
    clients: usize,
    connected_in_s: f64,
    seconds: f64,
    conflating: bool,
    lost: u64,
    fewest_of_a_client: u64,
    most_of_a_client: u64,
    fewest_unstamped_of_a_client: u64,
    most_unstamped_of_a_client: u64,
    readers: Group,
    throttled: Option<Group>,
    server: Option<ServerFigures>,
}

/// Runs `loadtest clients`; fails on a loss (unless conflating), a wrong order or a closed reader.
pub(crate) fn run(a: &ClientsArgs, stop: &Arc<AtomicBool>) -> Result<(), Fault> {
    let (addr, path, is_tls) = parse_url(&a.url)?;
    let target = Target {
        tls: tls::wanted(is_tls, "wss://", a.ca_file.as_deref())?,
        addr,
        path,
        deflate: a.deflate.deflate,
        send: a.send.clone(),
        throttle_kbit: a.throttle_kbit,
    };
    let process = a.server_pid.map(Process::new).transpose()?;
    let mut fleet = Fleet::new(target, Arc::clone(stop))?;
    let start = clock::now_us();
    fleet.open(Kind::Stuck, a.slow)?;
    fleet.open(Kind::Throttled, a.throttle)?;
    fleet.open(Kind::Reader, a.clients)?;
    let connected = clock::now_us();
    eprintln!("{} clients open", a.slow + a.throttle + a.clients);
    let cpu_before = process.map_or(Ok(0), |p| p.cpu_us())?;
    let enough = a.expect.map_or(u64::MAX, |each| each * a.clients as u64);
    fleet.run(clock::seconds_us(a.seconds), |f| {
        f.readers.deliveries >= enough
    })?;
    let seconds = (clock::now_us() - connected) as f64 / 1e6;
    let server = process
        .map(|p| figures(p, cpu_before, fleet.readers.deliveries))
        .transpose()?;
    let (fewest, most) = fleet.range_of_readers(|seen| seen.deliveries);
    let (fewest_unstamped, most_unstamped) = fleet.range_of_readers(|seen| seen.unstamped);
    let short = a
        .expect
        .map_or(0, |_| enough.saturating_sub(fleet.readers.deliveries));
    let outcome = Outcome {
        clients: a.clients,
        connected_in_s: (connected - start) as f64 / 1e6,
        seconds,
        conflating: a.conflating,
        lost: if a.conflating {
            0
        } else {
            fleet.readers.skipped.max(short)
        },
        fewest_of_a_client: fewest,
        most_of_a_client: most,
        fewest_unstamped_of_a_client: fewest_unstamped,
        most_unstamped_of_a_client: most_unstamped,
        readers: Group::of(&fleet, &fleet.readers, fleet.open_count(Kind::Reader)),
        throttled: (a.throttle > 0)
            .then(|| Group::of(&fleet, &fleet.throttled, fleet.open_count(Kind::Throttled))),
        server,
    };
    fleet.close();
    println!("{}", outcome.text());
    report::write_json(a.json.as_deref(), &outcome)?;
    outcome.verdict()
}

fn figures(process: Process, cpu_before: u64, deliveries: u64) -> Result<ServerFigures, Fault> {
    let cpu_us = process.cpu_us()?.saturating_sub(cpu_before);
    Ok(ServerFigures {
        cpu_us,
        cpu_us_per_delivery: cpu_us as f64 / deliveries.max(1) as f64,
        rss_bytes: process.rss_bytes()?,
        rss_peak_bytes: process.rss_peak_bytes()?,
    })
}

impl Group {
    fn of(fleet: &Fleet, tally: &Tally, open_at_end: usize) -> Self {
        Self {
            open_at_end,
            deliveries: tally.deliveries,
            skipped: tally.skipped,
            not_rising: tally.not_rising,
            retained: tally.retained,
            unstamped: tally.unstamped,
            deflated: tally.deflated,
            payload_bytes: tally.payload_bytes,
            text_bytes: tally.text_bytes,
            latency: Percentiles::judged(&tally.latency, &[&fleet.late]),
            ends: tally.ends.clone(),
        }
    }

    /// Bytes on the wire as a share of the texts.
    fn of_the_text(&self) -> String {
        if self.text_bytes == 0 {
            return "-".into();
        }
        let share = self.payload_bytes as f64 / self.text_bytes as f64;
        format!("{:.1} %", share * 100.0)
    }

    fn row(&self, name: &str) -> Vec<String> {
        // Without a stamped message there is no latency to refuse.
        let ms = |percentile| match self.deliveries {
            0 => "-".into(),
            _ => unless_refused(percentile),
        };
        row(&[
            &name,
            &self.open_at_end,
            &self.deliveries,
            &self.skipped,
            &self.not_rising,
            &self.retained,
            &self.unstamped,
            &self.deflated,
            &mib(self.payload_bytes),
            &self.of_the_text(),
            &ms(self.latency.p50_ms),
            &ms(self.latency.p99_ms),
            &ms(self.latency.p999_ms),
            &ms(self.latency.max_ms),
        ])
    }
}

impl Outcome {
    fn text(&self) -> String {
        let mut rows = vec![row(&[
            &"clients",
            &"open at end",
            &"messages",
            &"skipped",
            &"not rising",
            &"retained",
            &"unstamped",
            &"deflated",
            &"MiB",
            &"of text",
            &"p50 ms",
            &"p99 ms",
            &"p99.9 ms",
            &"max ms",
        ])];
        rows.push(self.readers.row("readers"));
        rows.extend(self.throttled.as_ref().map(|t| t.row("throttled")));
        let mut text = table(&rows);
        text.push_str(&self.rates());
        for (how, count) in self
            .readers
            .ends
            .iter()
            .chain(self.throttled.iter().flat_map(|t| &t.ends))
        {
            text.push_str(&format!("ended: {count} x {how}\n"));
        }
        if let Some(s) = &self.server {
            text.push_str(&format!(
                "server: {:.2} us CPU a delivery, {} MiB resident, {} MiB at most\n",
                s.cpu_us_per_delivery,
                mib(s.rss_bytes),
                mib(s.rss_peak_bytes)
            ));
        }
        text
    }

    /// The messages for each second, first those with figures of their own.
    fn rates(&self) -> String {
        let (stamped, unstamped) = (self.readers.deliveries, self.readers.unstamped);
        let line = |count: u64, what: &str, fewest: u64, most: u64| {
            let rate = (count as f64 / self.seconds).round();
            format!("{rate} messages/s{what}; {fewest} to {most} for each reader")
        };
        let with = line(stamped, "", self.fewest_of_a_client, self.most_of_a_client);
        let without = line(
            unstamped,
            " without a stamp",
            self.fewest_unstamped_of_a_client,
            self.most_unstamped_of_a_client,
        );
        let connected = format!("connected in {:.2} s", self.connected_in_s);
        match (stamped, unstamped) {
            (_, 0) => format!("{with}; {connected}\n"),
            (0, _) => format!(
                "{without}; {connected}\nlatency, loss and order need messages with a stamp, such as \
                 those of `loadtest publish`\n"
            ),
            _ => format!("{with}; {connected}\n{without}\n"),
        }
    }

    fn verdict(&self) -> Result<(), Fault> {
        let closed: u64 = self.readers.ends.values().sum();
        let disorder = self.readers.not_rising;
        if self.lost + disorder + closed > 0 {
            return Err(Fault::Failed(format!(
                "{} messages lost, {disorder} twice or out of order, {closed} readers closed by the server",
                self.lost
            )));
        }
        Ok(())
    }
}

/// Address and path of a `ws://` or `wss://` URL, and whether the clients speak TLS.
fn parse_url(url: &str) -> Result<(SocketAddr, String, bool), Fault> {
    let wrong = || Fault::Usage(format!("{url}: expected ws://HOST:PORT/PATH, or wss://…"));
    let (rest, is_tls) = match url.split_once("://") {
        Some(("ws", rest)) => (rest, false),
        Some(("wss", rest)) => (rest, true),
        _ => return Err(wrong()),
    };
    let (host, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
    let addr = host
        .to_socket_addrs()
        .ok()
        .and_then(|mut all| all.next())
        .ok_or_else(wrong)?;
    Ok((addr, path.to_owned(), is_tls))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The text of 10 s with two readers; `stamped` and `unstamped` messages in all.
    fn text(stamped: u64, unstamped: u64) -> String {
        let figures = if stamped > 0 {
            Percentiles {
                p50_ms: Some(1.5),
                ..Percentiles::default()
            }
        } else {
            Percentiles::default()
        };
        let outcome = Outcome {
            clients: 2,
            connected_in_s: 0.1,
            seconds: 10.0,
            conflating: false,
            lost: 0,
            fewest_of_a_client: stamped / 2,
            most_of_a_client: stamped / 2,
            fewest_unstamped_of_a_client: unstamped / 2 - 1,
            most_unstamped_of_a_client: unstamped / 2 + 1,
            readers: Group {
                open_at_end: 2,
                deliveries: stamped,
                skipped: 0,
                not_rising: 0,
                retained: 0,
                unstamped,
                deflated: 0,
                payload_bytes: 0,
                text_bytes: 0,
                latency: figures,
                ends: BTreeMap::new(),
            },
            throttled: None,
            server: None,
        };
        outcome.text()
    }

    #[test]
    fn messages_without_a_stamp_have_a_rate_and_the_way_to_stamps() {
        let said = text(0, 660);
        assert!(
            said.ends_with(
                "66 messages/s without a stamp; 329 to 331 for each reader; connected in 0.10 s\n\
                 latency, loss and order need messages with a stamp, such as those of `loadtest publish`\n"
            ),
            "{said}"
        );
        assert!(!said.contains("refused"), "{said}");
    }

    #[test]
    fn a_greeting_without_a_stamp_hides_no_figure() {
        let said = text(600, 2);
        assert!(
            said.ends_with(
                "60 messages/s; 300 to 300 for each reader; connected in 0.10 s\n\
                 0 messages/s without a stamp; 0 to 2 for each reader\n"
            ),
            "{said}"
        );
        // The percentiles that are not known are refused.
        assert!(said.contains("1.50") && said.contains("refused"), "{said}");
        assert!(!said.contains("loadtest publish"), "{said}");
    }

    #[test]
    fn urls() {
        let (addr, path, is_tls) = parse_url("ws://127.0.0.1:8000/ws/stream?a=b").unwrap();
        assert!(!is_tls && parse_url("wss://127.0.0.1:1/").unwrap().2);
        assert_eq!(
            (addr.to_string().as_str(), path.as_str()),
            ("127.0.0.1:8000", "/ws/stream?a=b")
        );
        assert_eq!(parse_url("ws://127.0.0.1:1").unwrap().1, "/");
        for bad in ["http://127.0.0.1:1/", "ws://127.0.0.1/", "ws://nowhere"] {
            assert!(matches!(parse_url(bad), Err(Fault::Usage(_))), "{bad}");
        }
    }
}
