//! Reads counters and gauges from a server's `/metrics` page (Prometheus text format).

use std::collections::BTreeMap;
use std::net::SocketAddr;

use crate::fault::Fault;
use crate::http;

/// The counter of closed connections; the label is the reason.
pub(crate) const CLOSES: &str = "weirgate_client_closes_total";

/// The samples of `name` by the value of a label; empty if the page has no such sample.
pub(crate) fn by_label(
    addr: SocketAddr,
    name: &str,
    label: &str,
) -> Result<BTreeMap<String, f64>, Fault> {
    Ok(parse(&page(addr)?, name, label))
}

fn page(addr: SocketAddr) -> Result<String, Fault> {
    http::get(addr, "/metrics").map_err(|e| Fault::Server(format!("/metrics: {e}")))
}

/// The values that rose between two readings, with the differences.
pub(crate) fn risen(
    before: &BTreeMap<String, f64>,
    after: &BTreeMap<String, f64>,
) -> BTreeMap<String, f64> {
    let rise = |(reason, value): (&String, &f64)| {
        let rise = value - before.get(reason).copied().unwrap_or(0.0);
        (rise > 0.0).then(|| (reason.clone(), rise))
    };
    after.iter().filter_map(rise).collect()
}

fn parse(page: &str, name: &str, label: &str) -> BTreeMap<String, f64> {
    let sample = |line: &str| {
        let (labels, value) = line
            .strip_prefix(name)?
            .strip_prefix('{')?
            .split_once('}')?;
        let (_, value_on) = labels.split_once(&format!("{label}=\""))?;
        let label_value = value_on.split('"').next()?;
        Some((
            label_value.to_owned(),
            value.split_whitespace().next()?.parse().ok()?,
        ))
    };
    page.lines().filter_map(sample).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_by_reason() {
        let page = "HTTP/1.1 200 OK\r\n\r\n# TYPE closes counter\ncloses_total{reason=\"stall\"} 10\n\
                    closes_total{gateway=\"a\",reason=\"peer\"} 3 1700000000\nother_total{reason=\"x\"} 5\n";
        let after = parse(page, "closes_total", "reason");
        assert_eq!(
            after,
            BTreeMap::from([("peer".into(), 3.0), ("stall".into(), 10.0)])
        );
        let before = BTreeMap::from([("peer".into(), 3.0), ("stall".into(), 1.0)]);
        assert_eq!(
            risen(&before, &after),
            BTreeMap::from([("stall".into(), 9.0)])
        );
        assert!(parse(page, "absent", "reason").is_empty());
    }
}
