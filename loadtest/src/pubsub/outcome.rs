//! The result and the verdict.

use std::collections::BTreeMap;

use serde::Serialize;

use super::publisher::Published;
use crate::fault::Fault;
use crate::fleet::{Fleet, Kind, Percentiles};
use crate::process::Process;
use crate::report::{mib, row, table, unless_refused};

/// The result of `loadtest trades` and `loadtest channels`.
#[derive(Serialize)]
pub(super) struct Outcome {
    clients: usize,
    published: u64,
    published_per_s: f64,
    /// Longest delay of a publication after the due time.
    late_max_ms: f64,
    expected: u64,
    deliveries: u64,
    /// Clients with too few or too many messages.
    wrong_clients: usize,
    /// Messages received twice or out of order.
    not_rising: u64,
    /// Percentiles are `None` (refused) if loadtest itself was late.
    latency: Percentiles,
    server_cpu_us_per_delivery: f64,
    server_cpu_percent: f64,
    server_rss_bytes: u64,
    ends: BTreeMap<String, u64>,
}

impl Outcome {
    pub(super) fn of(
        fleet: &Fleet,
        published: Published,
        expected: u64,
        wrong_clients: usize,
        cpu_us: u64,
        process: Process,
    ) -> Result<Self, Fault> {
        let readers = &fleet.readers;
        let took_us = published.took_us.max(1) as f64;
        Ok(Self {
            clients: fleet.open_count(Kind::Reader),
            published: published.count,
            published_per_s: published.count as f64 * 1e6 / took_us,
            late_max_ms: published.late.max() as f64 / 1e3,
            expected,
            deliveries: readers.deliveries,
            wrong_clients,
            not_rising: readers.not_rising,
            latency: Percentiles::judged(&readers.latency, &[&published.late, &fleet.late]),
            server_cpu_us_per_delivery: cpu_us as f64 / readers.deliveries.max(1) as f64,
            server_cpu_percent: cpu_us as f64 * 100.0 / took_us,
            server_rss_bytes: process.rss_bytes()?,
            ends: readers.ends.clone(),
        })
    }

    pub(super) fn text(&self) -> String {
        let ms = |v: f64| format!("{v:.2}");
        let latency = self.latency;
        let mut text = table(&[
            row(&[
                &"clients",
                &"published",
                &"per s",
                &"expected",
                &"delivered",
                &"p50 ms",
                &"p99 ms",
                &"p99.9 ms",
                &"max ms",
                &"CPU us each",
                &"CPU %",
                &"MiB",
            ]),
            row(&[
                &self.clients,
                &self.published,
                &format!("{:.0}", self.published_per_s),
                &self.expected,
                &self.deliveries,
                &unless_refused(latency.p50_ms),
                &unless_refused(latency.p99_ms),
                &unless_refused(latency.p999_ms),
                &unless_refused(latency.max_ms),
                &ms(self.server_cpu_us_per_delivery),
                &format!("{:.0}", self.server_cpu_percent),
                &mib(self.server_rss_bytes),
            ]),
        ]);
        text.push_str(&format!(
            "the publisher was {:.1} ms late at most\n",
            self.late_max_ms
        ));
        for (how, count) in &self.ends {
            text.push_str(&format!("ended: {count} x {how}\n"));
        }
        text
    }

    /// Fails if there are too few, too many or out of order messages, or if a client was closed.
    pub(super) fn verdict(&self) -> Result<(), Fault> {
        let closed: u64 = self.ends.values().sum();
        let differs = self.deliveries != self.expected;
        if differs || self.wrong_clients > 0 || self.not_rising + closed > 0 {
            return Err(Fault::Failed(format!(
                "{} of {} deliveries, {} clients with too few or too many, {} twice or out of \
                 order, {closed} closed by the server",
                self.deliveries, self.expected, self.wrong_clients, self.not_rising
            )));
        }
        Ok(())
    }
}
