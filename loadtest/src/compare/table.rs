//! The result for a terminal, in at most 100 columns, and for a Markdown document.

use super::contestants::Role;
use super::measured::{Against, Measured};
use super::result::{CaseResult, Comparison};
use crate::report::{row, table};
use crate::stats::Spread;

/// Longest name in the table.
const NAME_CHARS: usize = 18;

/// The table, with notes below.
pub(super) fn text(result: &Comparison) -> String {
    let mut rows = vec![head(result)];
    for case in &result.cases {
        if result.cases.len() > 1 {
            rows.push(vec![case.case.to_string()]);
        }
        rows.extend(case.servers.iter().map(|server| line(result, server)));
    }
    let mut text = format!("\n{}\n\n{}", load(result), table_of(&rows));
    for case in &result.cases {
        text.push_str(&against_first(result, case));
    }
    for case in &result.cases {
        text.push_str(&first_to_last(result, case));
    }
    for case in &result.cases {
        text.push_str(&handshakes(result, case));
    }
    for case in &result.cases {
        text.push_str(&wire_bytes(result, case));
    }
    text.push_str(&notes(result));
    text
}

/// Aligns the rows. A row with a single cell is a heading and does not widen the first column.
fn table_of(rows: &[Vec<String>]) -> String {
    let columns: Vec<Vec<String>> = rows.iter().filter(|r| r.len() > 1).cloned().collect();
    let aligned = table(&columns);
    let mut aligned = aligned.lines();
    let mut out = String::new();
    for row in rows {
        match row.as_slice() {
            [heading] => out.push_str(heading),
            _ => out.push_str(aligned.next().unwrap_or_default()),
        }
        out.push('\n');
    }
    out
}

fn load(result: &Comparison) -> String {
    let pace = match (result.in_flight, result.rate) {
        (Some(window), _) => format!("{window} in flight"),
        (None, rate) => format!("{} a second", rate.unwrap_or_default()),
    };
    let case = match result.cases.as_slice() {
        [only] => format!("{}, ", only.case),
        _ => String::new(),
    };
    let more = [(result.deflate, ", deflate"), (result.pinned, ", pinned")];
    let more: String = more
        .iter()
        .filter(|(on, _)| *on)
        .map(|(_, said)| *said)
        .collect();
    format!(
        "{case}{} rounds of {} messages, {pace}{more}\n\
         Medians of the rounds, [95 % interval]; CPU time of the server and of the machine per delivery",
        result.rounds, result.messages_per_round
    )
}

fn head(result: &Comparison) -> Vec<String> {
    // As wide as the interval in the rows.
    let of = |name: &String| format!("of {}", clip_to(name, 13));
    let mut head = row(&[&"", &"CPU us"]);
    head.extend(result.base.as_ref().map(of));
    head.extend(result.first.as_ref().map(of));
    head.extend(row(&[&"machine", &"p50 ms", &"p99 ms"]));
    head.extend(result.base.as_ref().map(|_| "ratio".into()));
    head
}

fn line(result: &Comparison, s: &Measured) -> Vec<String> {
    let ratios = |name: &String| s.ratios_to(name);
    let cpu = |name: &String| ratios(name).map_or_else(|| "1".into(), |r| interval(r.cpu));
    let mut line = row(&[&clip(&s.name), &figure(s.cpu_us_per_delivery)]);
    line.extend(result.base.as_ref().map(cpu));
    line.extend(result.first.as_ref().map(cpu));
    line.push(unless_disturbed(s.machine_us_per_delivery));
    line.push(unless_refused(s.p50_ms));
    line.push(unless_refused(s.p99_ms));
    // Two columns of intervals of CPU leave no room for a third.
    let p99 = if result.first.is_some() {
        unless_refused
    } else {
        interval
    };
    let p99_ratio = |base| ratios(base).map_or_else(|| "1".into(), |r| p99(r.p99));
    line.extend(result.base.as_ref().map(p99_ratio));
    line
}

/// The second of two servers against the first; with more servers, the table says enough.
fn against_first(result: &Comparison, case: &CaseResult) -> String {
    let is_server = |s: &&Measured| s.role == Role::Server;
    let two = case.servers.iter().filter(is_server).count() == 2;
    let Some(first) = result.first.as_ref().filter(|_| two) else {
        return String::new();
    };
    let line = |s: &Measured| {
        let r = s.ratios_to(first)?;
        Some(format!(
            "  {}: CPU {}, machine {}, p50 {}, p99 {}\n",
            clip(&s.name),
            interval(r.cpu),
            unless_disturbed(r.machine),
            unless_refused(r.p50),
            interval(r.p99),
        ))
    };
    let heading = format!("{} – against {}:\n", case.case, clip(first));
    let servers = case.servers.iter().filter(is_server);
    std::iter::once(heading)
        .chain(servers.filter_map(line))
        .collect()
}

/// Time from the first client of a message to the last.
fn first_to_last(result: &Comparison, case: &CaseResult) -> String {
    let what = "from the first client of a message to the last, ms";
    let of = |s: &Measured| s.first_to_last_ms;
    one_figure(result, case, what, of, |r| r.first_to_last)
}

fn handshakes(result: &Comparison, case: &CaseResult) -> String {
    let what = "CPU of the server for each handshake, us";
    let of = |s: &Measured| s.cpu_us_per_handshake;
    one_figure(result, case, what, of, |r| r.handshake)
}

/// What a client's line carries for each message: the payload of its frame, compressed if the two agreed on it.
fn wire_bytes(result: &Comparison, case: &CaseResult) -> String {
    let what = "bytes of a delivery on the wire";
    let of = |s: &Measured| s.bytes_per_delivery;
    one_figure(result, case, what, of, |r| r.bytes)
}

/// A figure without a column in the table, with ratios, in the order of the table.
fn one_figure(
    result: &Comparison,
    case: &CaseResult,
    what: &str,
    of: impl Fn(&Measured) -> Option<Spread>,
    ratio: impl Fn(&Against) -> Option<Spread>,
) -> String {
    let reference = result.base.as_ref().or(result.first.as_ref());
    let line = |s: &Measured| {
        let to = |name: &String| {
            let ratio = interval(ratio(s.ratios_to(name)?));
            Some(format!(", {ratio} of {}", clip(name)))
        };
        let ratio = reference.and_then(to).unwrap_or_default();
        format!("  {}: {}{ratio}\n", clip(&s.name), figure(of(s)))
    };
    let heading = format!("{} – {what}:\n", case.case);
    let lines = case.servers.iter().map(line);
    std::iter::once(heading).chain(lines).collect()
}

/// Limitations of the figures, and system calls.
fn notes(result: &Comparison) -> String {
    let all = || result.cases.iter().flat_map(|case| &case.servers);
    let parts: usize = all().map(|s| s.rounds.len()).sum();
    let mut notes = String::new();
    let disturbed: usize = all().map(|s| s.disturbed).sum();
    if disturbed > 0 {
        let busiest = all().filter_map(|s| s.others_busy_cpus);
        let busiest = busiest.map(|spread| spread.max).fold(0.0, f64::max);
        notes.push_str(&format!(
            "Disturbed: {disturbed} of {parts} parts; host or others kept up to {busiest:.2} CPUs busy; no machine figure there.\n"
        ));
    }
    let repeats: usize = all().map(|s| s.repeats).sum();
    if repeats > 0 {
        notes.push_str(&format!(
            "Repeated: {repeats} attempts beside the {parts} parts, because loadtest itself was late.\n"
        ));
    }
    let refused = [
        ("p50", all().map(|s| s.refused.p50).sum::<usize>()),
        ("p99", all().map(|s| s.refused.p99).sum()),
    ];
    for (name, count) in refused.into_iter().filter(|(_, count)| *count > 0) {
        notes.push_str(&format!(
            "Refused: {name} of {count} of {parts} parts; loadtest itself was late by over a tenth of it.\n"
        ));
    }
    let client_busy = all().map(|s| s.client_busy_max).fold(0.0, f64::max) * 100.0;
    if client_busy > 90.0 {
        notes.push_str(&format!(
            "Clients and publisher used up to {client_busy:.0} % of a CPU: near 100, they are measured.\n"
        ));
    }
    for case in &result.cases {
        for server in &case.servers {
            notes.push_str(&counts(case, server));
        }
    }
    notes
}

/// Losses and system calls.
fn counts(case: &CaseResult, s: &Measured) -> String {
    let mut counts = String::new();
    let place = format!("{}, {}", clip(&s.name), case.case);
    if s.lost + s.not_rising + s.closed > 0 {
        counts.push_str(&format!(
            "{place}: {} lost, {} not in order, {} closed\n",
            s.lost, s.not_rising, s.closed
        ));
    }
    if let (Some(calls), Some(counted)) = (s.syscalls_per_delivery, &s.syscalls) {
        let named = counted.by_name.iter().take(2);
        let named: Vec<String> = named.map(|(name, n)| format!("{name} {n}")).collect();
        counts.push_str(&format!(
            "{place}: {calls:.3} calls per delivery ({}: {})\n",
            counted.tool,
            named.join(", ")
        ));
    }
    counts
}

/// Rows for a document: the ratios with interval and range.
pub(super) fn markdown(result: &Comparison) -> String {
    let mut out = String::from(
        "| load | server | CPU per delivery, µs | CPU ratio | machine, µs | bytes | p50 / p99, ms | p99 ratio | calls | lost |\n\
         | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n",
    );
    for case in &result.cases {
        for s in &case.servers {
            let ratios = result.base.as_ref().and_then(|base| s.ratios_to(base));
            let calls = s.syscalls_per_delivery;
            out.push_str(&format!(
                "| {} | {} | {} | {} | {} | {} | {} / {} | {} | {} | {} |\n",
                case.case,
                s.name,
                figure(s.cpu_us_per_delivery),
                ratios.map_or_else(|| "1".into(), |r| whole(r.cpu)),
                unless_disturbed(s.machine_us_per_delivery),
                figure(s.bytes_per_delivery),
                unless_refused(s.p50_ms),
                unless_refused(s.p99_ms),
                ratios.map_or_else(|| "1".into(), |r| whole(r.p99)),
                calls.map_or_else(|| "–".into(), |calls| format!("{calls:.3}")),
                s.lost
            ));
        }
    }
    out
}

fn clip(name: &str) -> String {
    clip_to(name, NAME_CHARS)
}

fn clip_to(name: &str, chars: usize) -> String {
    if name.chars().count() <= chars {
        return name.to_owned();
    }
    name.chars().take(chars - 1).chain(['…']).collect()
}

/// Three digits or so: a column must not grow with the figure.
fn short(v: f64) -> String {
    match v {
        100.0.. => format!("{v:.0}"),
        10.0.. => format!("{v:.1}"),
        _ => format!("{v:.2}"),
    }
}

pub(super) fn figure(s: Option<Spread>) -> String {
    s.map_or_else(|| "-".into(), |s| short(s.median))
}

/// The machine's figure; a dash if too many rounds were disturbed.
fn unless_disturbed(s: Option<Spread>) -> String {
    s.map_or_else(|| "-".into(), |s| short(s.median))
}

fn unless_refused(s: Option<Spread>) -> String {
    s.map_or_else(|| "refused".into(), |s| short(s.median))
}

pub(super) fn interval(s: Option<Spread>) -> String {
    s.map_or_else(
        || "refused".into(),
        |s| format!("{} [{}-{}]", short(s.median), short(s.low), short(s.high)),
    )
}

/// `**1.03** [1.01–1.05] (0.96–1.12)`.
fn whole(s: Option<Spread>) -> String {
    s.map_or_else(
        || "refused".into(),
        |s| {
            let [median, low, high, min, max] = [s.median, s.low, s.high, s.min, s.max].map(short);
            format!("**{median}** [{low}–{high}] ({min}–{max})")
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::result::Case;

    fn wide(name: &str, role: Role) -> Measured {
        let value = |v: f64| {
            Some(Spread {
                n: 1,
                median: v,
                low: v,
                high: v,
                coverage: 0.95,
                min: v,
                max: v,
            })
        };
        let against = |name: &str| Against {
            name: name.into(),
            role,
            cpu: value(99.94),
            machine: value(99.94),
            bytes: value(99.94),
            p50: None,
            p99: value(99.94),
            first_to_last: value(99.94),
            handshake: value(99.94),
            deliveries_per_s: value(99.94),
        };
        let mut measured = Measured::named(name, role);
        measured.against = vec![
            against("coalescing limit"),
            against("a name of many letters"),
        ];
        measured.cpu_us_per_delivery = value(123.4);
        measured.bytes_per_delivery = value(1_048_590.0);
        measured.p50_ms = value(12_345.6);
        measured.first_to_last_ms = value(12_345.6);
        measured.cpu_us_per_handshake = value(12_345.6);
        measured.disturbed = 1_000;
        measured.refused.p99 = 1_000;
        measured.client_busy_max = 9.0;
        measured.lost = 1_000_000;
        measured
    }

    fn comparison(servers: Vec<Measured>, cases: usize) -> Comparison {
        let case = |servers: Vec<Measured>| CaseResult {
            case: Case::new(100_000, 1_048_576),
            servers,
        };
        let cases = vec![servers; cases].into_iter().map(case).collect();
        Comparison::empty("coalescing limit", "a name of many letters", cases)
    }

    #[test]
    fn no_line_is_over_100_columns() {
        let servers = vec![
            wide("coalescing limit", Role::CoalescingLimit),
            wide("a name of many letters", Role::Server),
            wide("another name of many letters", Role::Server),
        ];
        for cases in [1, 2] {
            let text = text(&comparison(servers.clone(), cases));
            for line in text.lines() {
                assert!(line.chars().count() <= 100, "{line}");
            }
            assert!(text.contains("another name of m…"), "{text}");
        }
    }

    #[test]
    fn figures_keep_three_digits() {
        let short = [0.999, 1.0, 9.994, 12.34, 99.94, 123.4, 1234.5].map(short);
        assert_eq!(
            short,
            ["1.00", "1.00", "9.99", "12.3", "99.9", "123", "1234"]
        );
    }
}
