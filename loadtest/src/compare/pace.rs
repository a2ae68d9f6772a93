//! The table of the cost of one message with few clients: each server beside the raw limit and the floor.

use super::contestants::Role;
use super::measured::{Against, Measured};
use super::result::{CaseResult, Comparison};
use super::table::{figure, interval};
use crate::progress::grouped;
use crate::stats::Spread;

const HEAD: &str = "\
| gateway, load | server | CPU µs a message | of the floor | of the raw limit | p50 µs | of the floor | of the raw limit | p99 µs | of the floor | of the raw limit | deliveries/s | repeated |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |
";

/// Rows for a document: medians over the rounds, ratios with their 95 % interval.
pub(super) fn markdown(result: &Comparison) -> String {
    let rows = result.cases.iter().flat_map(|case| {
        let servers = case.servers.iter();
        servers.map(|server| row(result, case, server))
    });
    std::iter::once(HEAD.to_owned()).chain(rows).collect()
}

fn row(result: &Comparison, case: &CaseResult, s: &Measured) -> String {
    let to = |role: Role, of: fn(&Against) -> Option<Spread>| {
        let against = s.against.iter().find(|against| against.role == role);
        match against {
            Some(against) => ratio(of(against)),
            None => "1".into(),
        }
    };
    let load = match result.in_flight {
        Some(window) => format!("saturated, {window} in flight"),
        None => format!("{}/s", result.rate.unwrap_or_default()),
    };
    let us = |ms: Option<Spread>| {
        let scaled = ms.map(|ms| format!("{:.0}", ms.median * 1e3));
        scaled.unwrap_or_else(|| "late".into())
    };
    let rate = s.deliveries_per_s.map(|rate| rate.median.round() as u64);
    let mut deliveries = grouped(rate.unwrap_or_default());
    // A paced publisher decides the rate, a saturated server its own.
    if result.in_flight.is_some() {
        let of_raw = to(Role::RawLimit, |a| a.deliveries_per_s);
        let of_floor = to(Role::Floor, |a| a.deliveries_per_s);
        deliveries += &format!("; {of_floor} of the floor, {of_raw} of the raw limit");
    }
    let cells = [
        format!("{}, {}, {load}", of_what(result), case.case),
        s.name.clone(),
        figure(s.cpu_us_per_message),
        to(Role::Floor, |a| a.cpu),
        to(Role::RawLimit, |a| a.cpu),
        us(s.p50_ms),
        to(Role::Floor, |a| a.p50),
        to(Role::RawLimit, |a| a.p50),
        us(s.p99_ms),
        to(Role::Floor, |a| a.p99),
        to(Role::RawLimit, |a| a.p99),
        deliveries,
        s.repeats.to_string(),
    ];
    format!("| {} |\n", cells.join(" | "))
}

/// `levels on jetstream`.
fn of_what(result: &Comparison) -> String {
    let [gateway, bus] = [format!("{:?}", result.gateway), format!("{:?}", result.bus)];
    format!("{} on {}", gateway.to_lowercase(), bus.to_lowercase())
}

fn ratio(s: Option<Spread>) -> String {
    s.map_or_else(|| "late".into(), |s| interval(Some(s)))
}
