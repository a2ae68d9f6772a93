//! The tables of the documents.

use std::fmt::Write;

use weirgate::gateways::WEIRGATE;
use weirgate_server::settings::{Counts, Given, Heading, Kind, Rows, Setting, Shows, Unit};

use crate::held::HELD;

/// The gateways in the order of the documents, where it is not that of the list: the demo beside the
/// gateway that it tries out.
const FIRST: [&str; 3] = ["levels", "demo", "channels"];

/// Every command that has settings, in the order of the documents.
fn commands() -> Vec<(&'static str, Rows)> {
    let place = |name: &str| FIRST.iter().position(|first| *first == name);
    let mut all: Vec<_> = WEIRGATE
        .gateways
        .iter()
        .map(|kind| (kind.name, kind.rows))
        .collect();
    all.sort_by_key(|(name, _)| place(name).unwrap_or(FIRST.len()));
    all.extend([
        ("token", Rows::TOKEN),
        ("tail", Rows::TAIL),
        ("top", Rows::TOP),
    ]);
    all
}

/// Every setting: flag, env, default, unit, range, help.
pub(crate) fn settings() -> Vec<Setting> {
    let all: Vec<_> = commands().into_iter().map(|(_, rows)| rows).collect();
    Rows::table(&all)
}

/// The commands that have exactly this row, in the order of the list of gateways; `None` for all
/// gateways.
fn on(setting: &Setting) -> Option<Vec<&'static str>> {
    let gateways = WEIRGATE.gateways.iter().map(|kind| (kind.name, kind.rows));
    let others = [
        ("token", Rows::TOKEN),
        ("tail", Rows::TAIL),
        ("top", Rows::TOP),
    ];
    let has = |rows: Rows| rows.settings().iter().any(|row| row.is_same(setting));
    let all = gateways.chain(others).filter(|(_, rows)| has(*rows));
    let names: Vec<_> = all.map(|(name, _)| name).collect();
    (names.len() < WEIRGATE.gateways.len()).then_some(names)
}

/// A default as a person writes it: `16 KiB`, `10 s`, `1,024`.
pub(crate) fn value(setting: &Setting) -> String {
    let shown = match setting.kind {
        Kind::Number { unit, .. } => {
            let n = setting.default().parse().expect("a number");
            match (unit, n) {
                (_, 0) if setting.help.contains("0 for no limit") => "no limit".to_owned(),
                (Unit::Count, n) => thousands(n),
                (Unit::Bytes, n) => scaled_bytes(n),
                (Unit::Milliseconds, n) => match n.is_multiple_of(60_000) && n > 0 {
                    true => scaled(n, &[("h", 3_600_000), ("min", 60_000)], "ms"),
                    false => scaled_ms(n),
                },
                (Unit::Microseconds, n) => scaled(n, &[("s", 1_000_000), ("ms", 1_000)], "us"),
                (Unit::Seconds, n) => format!("{n} s"),
                (Unit::Minutes, n) => format!("{n} min"),
                (Unit::Hertz, n) => format!("{n} Hz"),
            }
        }
        Kind::Decimal {
            unit: Unit::Seconds,
            ..
        } => format!("{} s", setting.default()),
        _ => setting.default(),
    };
    match shown.is_empty() {
        true => "unset".to_owned(),
        false => shown,
    }
}

pub(crate) fn scaled_bytes(n: u64) -> String {
    let units = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    scaled(n, &units, "bytes")
}

pub(crate) fn scaled_ms(n: u64) -> String {
    scaled(n, &[("s", 1_000)], "ms")
}

/// In the largest unit that leaves a whole number.
fn scaled(n: u64, units: &[(&str, u64)], smallest: &str) -> String {
    let fits = |(_, size): &&(&str, u64)| n >= *size && n.is_multiple_of(*size);
    match units.iter().find(fits) {
        Some((unit, size)) => format!("{} {unit}", thousands(n / size)),
        None => format!("{} {smallest}", thousands(n)),
    }
}

pub(crate) fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let groups: Vec<_> = digits.as_bytes().rchunks(3).rev().collect();
    let groups = groups.iter().map(|group| String::from_utf8_lossy(group));
    groups.collect::<Vec<_>>().join(",")
}

/// The environment names of a setting, without the name that each flag has: `WEIRGATE_PORT` of `--port`.
fn env(setting: &Setting) -> String {
    let of_flag = format!("WEIRGATE_{}", setting.flag.replace('-', "_").to_uppercase());
    let names = setting.env_names();
    let names = names
        .iter()
        .filter(|name| !setting.is_flag() || **name != of_flag);
    let names = names.map(|name| format!("`{name}`"));
    names.collect::<Vec<_>>().join(", ")
}

fn shows(shows: Shows) -> String {
    match shows {
        Shows::Reason(reason) => format!("reason `{}`", reason.label()),
        Shows::Metric(metric) => format!("`{}`", metric.name),
        Shows::Elsewhere(what) => what.to_owned(),
    }
}

fn test(name: &str) -> String {
    let (file, function) = name.split_once("::").unwrap_or((name, ""));
    format!("[test](../../{file}#{function})")
}

/// Cells may hold code with a `|` in it.
fn row(out: &mut String, cells: &[&str]) {
    let cells: Vec<_> = cells.iter().map(|cell| cell.replace('|', "\\|")).collect();
    let _ = writeln!(out, "| {} |", cells.join(" | "));
}

fn heading(out: &mut String, now: Heading, last: &mut Option<Heading>, columns: &[&str]) {
    if *last == Some(now) {
        return;
    }
    *last = Some(now);
    let _ = writeln!(out, "\n## {}\n", now.0);
    row(out, columns);
    row(out, &vec!["---"; columns.len()]);
}

/// A cell of the setting's row, and the same cell of the other gateways in brackets where it differs.
pub(crate) fn by_gateway(first: &Setting, cell: impl Fn(&Setting) -> String) -> String {
    let rows = settings().into_iter().filter(|row| row.flag == first.flag);
    let others = rows.filter_map(|row| Some((on(&row)?.join(", "), cell(&row))));
    let own = cell(first);
    let differs = others.filter(|(_, other)| *other != own);
    let differs: Vec<_> = differs
        .map(|(names, other)| format!("{names}: {other}"))
        .collect();
    match differs.is_empty() {
        true => own,
        false => format!("{own} ({})", differs.join("; ")),
    }
}

/// What is held for all clients together.
fn held() -> String {
    let mut out =
        "\n## Held for all clients together\n\nEach value of the label `of` of `weirgate_held`, with \
         its limit and its [rule](#shares).\n\n"
            .to_owned();
    row(&mut out, &["`of`", "limit", "rule", "gateways"]);
    row(&mut out, &["---"; 4]);
    for held in HELD {
        let limit = match held.limit.starts_with("--") {
            true => format!("`{}`", held.limit),
            false => held.limit.to_owned(),
        };
        let of = format!("`{}`", held.of);
        row(&mut out, &[&of, &limit, held.rule.text(), held.gateways]);
    }
    out
}

/// The part of `--memory-max`, behind the default.
fn memory_part(setting: &Setting) -> String {
    let part = setting.memory_thousandths.map(|part| part / 10);
    part.map_or(String::new(), |percent| format!("; {percent} %"))
}

/// What each of several processes has of a limit.
fn of_each_process(setting: &Setting) -> &'static str {
    match setting.counts() {
        Counts::Each => "all",
        Counts::All => "a part",
        Counts::Address => "by address",
    }
}

/// `docs/reference/limits.md`.
pub(crate) fn limits(limits: &[Setting]) -> String {
    let mut out = String::new();
    let mut last = None;
    let columns = [
        "limit",
        "default",
        "each process",
        "over the limit",
        "shows as",
        "test",
    ];
    for setting in limits {
        let Some(limit) = setting.limit else {
            continue;
        };
        let beyond = |row: &Setting| row.limit.map_or("", |limit| limit.beyond).to_owned();
        heading(&mut out, setting.heading, &mut last, &columns);
        let names = match setting.given {
            Given::Nowhere if setting.memory_thousandths.is_none() => "a constant".to_owned(),
            Given::Nowhere => format!("a share, `{}`", setting.name()),
            Given::OriginalEnv => env(setting),
            Given::Anywhere => format!("`{}`", setting.name()),
        };
        let what = format!("{}<br>{names}", setting.help);
        let cells: [&str; 6] = [
            &what,
            &(by_gateway(setting, value) + &memory_part(setting)),
            of_each_process(setting),
            &by_gateway(setting, beyond),
            &shows(limit.shows),
            &test(limit.test),
        ];
        row(&mut out, &cells);
    }
    out += &held();
    out
}

/// Words of what is allowed where the meaning or the default of a setting shows the form.
const SHOWN: [&str; 6] = [
    "an IP address",
    "HOST:PORT",
    ":GROUP",
    "octal",
    "CPUs",
    "names and patterns",
];

/// What is allowed: a range, words, or a form. The meaning of a URL, a list of addresses or a filter has its form.
fn allowed(setting: &Setting) -> String {
    match setting.kind {
        Kind::Number { .. }
        | Kind::Decimal { .. }
        | Kind::Port
        | Kind::PortOrOff
        | Kind::Choice(_)
        | Kind::Form(_) => {}
        _ => return String::new(),
    }
    let allowed = setting.kind.allowed();
    let Some(range) = allowed
        .strip_prefix("a whole number from ")
        .or_else(|| allowed.strip_prefix("a number from "))
        .or_else(|| allowed.strip_prefix("a port from "))
    else {
        let is_in_the_meaning = SHOWN.iter().any(|form| allowed.contains(form));
        return match is_in_the_meaning {
            true => String::new(),
            false => allowed,
        };
    };
    range
        .replace(" to ", "–")
        .replace(", 0 for a free one", ", 0")
}

/// The help of a setting and its details.
fn help(setting: &Setting) -> String {
    format!("{}. {}", setting.help, setting.more)
        .trim()
        .to_owned()
}

/// The sentences of `other` that `own` does not have; `own` if there is none.
fn sentences_beside(own: &str, other: &str) -> String {
    let other: String = other
        .split_inclusive(". ")
        .filter(|sentence| !own.contains(sentence.trim_end_matches([' ', '.'])))
        .collect();
    match other.is_empty() {
        true => own.to_owned(),
        false => other.trim().to_owned(),
    }
}

/// The meaning of a setting, with what it means for other gateways beside that.
fn meaning(setting: &Setting) -> String {
    let own = help(setting);
    by_gateway(setting, |row| sentences_beside(&own, &help(row)))
}

/// The default of a setting; of a limit with a link to its row.
fn default(setting: &Setting) -> String {
    let text = setting.default();
    if text.is_empty() {
        return text;
    }
    match setting.limit {
        None => format!("`{text}`"),
        Some(_) => {
            let anchor = setting.heading.0.to_lowercase().replace(' ', "-");
            format!("[`{text}`](limits.md#{anchor})")
        }
    }
}

const ALL: &str = "all gateways";

/// The gateways and commands that have a setting, in whichever of its rows.
fn gateways(rows: &[&Setting]) -> String {
    let Some(names) = rows.iter().map(|row| on(row)).collect::<Option<Vec<_>>>() else {
        return ALL.to_owned();
    };
    let names = names.concat();
    match WEIRGATE
        .gateways
        .iter()
        .all(|kind| names.contains(&kind.name))
    {
        true => ALL.to_owned(),
        false => names.join(", "),
    }
}

/// The rows of each setting of a section, and the gateways that have it.
type Section<'a> = Vec<(Vec<&'a Setting>, String)>;

/// The gateways that most settings of a section have.
fn usual(section: &Section<'_>) -> String {
    let count = |of: &str| section.iter().filter(|(_, names)| names == of).count();
    let mut names: Vec<_> = section.iter().map(|(_, names)| names).collect();
    names.sort_by_key(|names| std::cmp::Reverse(count(names)));
    names[0].clone()
}

/// The first cell: the flag and the names in the environment.
fn name(setting: &Setting) -> String {
    let names = by_gateway(setting, |row| match env(row).is_empty() {
        true => env(setting),
        false => env(row),
    });
    let names = names.trim();
    match (setting.is_flag(), names.is_empty()) {
        (true, true) => format!("`--{}`", setting.flag),
        (true, false) => format!("`--{}`<br>{names}", setting.flag),
        (false, _) => names.to_owned(),
    }
}

/// `docs/reference/settings.md`: a row for each setting, also if it differs between gateways. Other pages have the flags
/// of `tail` and `top`.
pub(crate) fn all_settings() -> String {
    let set = settings();
    let is_of_gateway = |row: &&Setting| ![Heading::TAIL, Heading::TOP].contains(&row.heading);
    let mut set: Vec<_> = set
        .iter()
        .filter(|row| row.given != Given::Nowhere)
        .filter(is_of_gateway)
        .collect();
    let mut sections: Vec<(Heading, Section<'_>)> = Vec::new();
    while !set.is_empty() {
        let setting = set[0];
        let (rows, others): (Vec<_>, Vec<_>) =
            set.into_iter().partition(|row| row.flag == setting.flag);
        set = others;
        let names = gateways(&rows);
        match sections.last_mut() {
            Some((heading, section)) if *heading == setting.heading => section.push((rows, names)),
            _ => sections.push((setting.heading, vec![(rows, names)])),
        }
    }
    let mut out = String::new();
    for (heading, section) in sections {
        let usual = usual(&section);
        let _ = writeln!(out, "\n## {}\n", heading.0);
        if usual != ALL {
            let _ = writeln!(out, "For {usual}.\n");
        }
        row(&mut out, &["setting", "default", "allowed", "meaning"]);
        row(&mut out, &["---"; 4]);
        for (rows, names) in section {
            let setting = rows[0];
            let mut meaning = meaning(setting);
            if names != usual {
                let _ = write!(meaning, " For {names}.");
            }
            let (default, allowed) = (by_gateway(setting, default), by_gateway(setting, allowed));
            row(
                &mut out,
                &[&name(setting), default.trim(), &allowed, &meaning],
            );
        }
    }
    out
}
