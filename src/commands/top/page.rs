//! The text of `weirgate top`: the newest state of each process as lines and tables. Names are those of
//! `/operator/state`.

use std::time::Instant;

use sonic_rs::{JsonContainerTrait, JsonValueTrait, Value};

use super::rows::{FACTS, FOUND_TABLES, NAME_COLUMNS, RATES, TABLES};
use weirgate_wire::base::escaped;
use weirgate_wire::json::ObjectWriter;

/// The most characters kept of a server's text.
const TEXT_CHARS_MAX: usize = 200;
/// From this letter on, letters may be two columns wide.
const WIDE_FROM: char = '\u{1100}';

/// A process: what its readings have said.
#[derive(Debug, Default)]
pub(super) struct Process {
    /// The address as shown.
    shown: String,
    /// The last state; kept while the process is away.
    state: Option<Value>,
    /// The state before, for rates; `None` after an outage, or if other processes were missing in it.
    before: Option<Value>,
    /// Since when the process is away, and why.
    away: Option<(Instant, String)>,
}

/// Returns the facts and tables of all processes; a table has at most `rows_max` rows. Before several processes comes a
/// list of them.
pub(super) fn page(processes: &[Process], rows_max: usize) -> String {
    let heads = vec![
        "address", "gateway", "status", "clients", "in/s", "out/s", "sent/s",
    ];
    let list = match processes {
        [_] => String::new(),
        several => table(heads, several.iter().map(Process::in_short)) + "\n",
    };
    let pages = processes.iter().map(|process| process.page(rows_max));
    list + &pages.collect::<Vec<_>>().join("\n")
}

/// Cuts a text to the size of a terminal. The last line stays free for the cursor.
pub(super) fn cut(text: &str, columns: usize, lines: usize) -> String {
    let cut_line = |line: &str| {
        let mut used = 0;
        let fits = |letter: &char| {
            used += 1 + usize::from(*letter >= WIDE_FROM);
            used <= columns
        };
        let kept = line.chars().take_while(fits);
        kept.chain(['\n']).collect::<String>()
    };
    let lines = text.lines().take(lines.saturating_sub(1));
    lines.map(cut_line).collect()
}

impl Process {
    pub(super) fn new(shown: String) -> Self {
        Self {
            shown,
            ..Self::default()
        }
    }

    /// Adds the result of a reading.
    pub(super) fn take(&mut self, read: Result<Value, String>) {
        match read {
            Ok(state) => {
                // If other processes are missing than before, the numbers are sums over other counters.
                let missing =
                    |state: &Value| member(state, "processes_missing").map(Value::to_string);
                let others = missing(&state);
                let before = self.state.replace(state);
                let before = before.filter(|before| missing(before) == others);
                self.before = before.filter(|_| self.away.is_none());
                self.away = None;
            }
            Err(why) => {
                let since = self.away.as_ref().map_or_else(Instant::now, |away| away.0);
                self.away = Some((since, why));
            }
        }
    }

    /// Whether `--once` has nothing to wait for: the process is away, has a survey with rates, or has answered a
    /// search.
    pub(super) fn is_complete(&self) -> bool {
        let survey = self.state.get("survey");
        let is_found = self.state.get("count").is_number();
        is_found || self.away.is_some() || survey.get("interval_ms").is_number()
    }

    /// If the process did not respond, or one of several at its address did not: its address, and the reason.
    pub(super) fn missing(&self) -> Option<String> {
        let why = match (&self.away, &self.state) {
            (Some((_, why)), _) => why.clone(),
            (None, None) => "nothing came in time".to_owned(),
            (None, Some(state)) => unanswered(state)?,
        };
        Some(format!("{}: {why}", self.shown))
    }

    /// The newest state as a line of JSON.
    pub(super) fn json(&self) -> String {
        let mut object = ObjectWriter::new();
        object.string("address", &self.shown);
        if let Some((_, why)) = &self.away {
            object.string("error", why);
        }
        let state = sonic_rs::to_string(&self.state).unwrap_or_default();
        object.raw("state", &state);
        // Control characters become JSON escapes, so a terminal shows them and does not obey them.
        escaped(&object.finish(), &[]).into_owned() + "\n"
    }

    /// How much a counter grows per second; a dash before the second reading and after a restart of the process.
    fn rate(&self, counter: &str) -> String {
        let grown = |parent: &str, name: &str| {
            let at = |state: &Option<Value>| member(state.as_ref()?, parent).get(name).as_u64();
            at(&self.state)?.checked_sub(at(&self.before)?)
        };
        let per_second = || {
            // `None` if the process was restarted.
            grown("", "uptime_seconds")?;
            let ms = grown("", "now_unix_ms").filter(|ms| *ms > 0)?;
            Some(grown("numbers", counter)? as f64 * 1e3 / ms as f64)
        };
        match per_second() {
            Some(rate) if counter.ends_with("bytes") => bytes(rate),
            Some(rate) => format!("{rate:.1}"),
            None => "-".to_owned(),
        }
    }

    /// Returns the status that the process reports, or for how long the process has not answered.
    fn status(&self) -> String {
        match (&self.away, &self.state) {
            (Some((since, _)), _) => {
                format!("Away for {}", duration(since.elapsed().as_secs_f64() * 1e3))
            }
            (None, Some(state)) => text(state, state, "status"),
            (None, None) => "Asking".to_owned(),
        }
    }

    /// The gateway and its version.
    fn name(&self) -> String {
        let name = |state: &Value| ["gateway", "version"].map(|name| text(state, state, name));
        let name = self.state.as_ref().map(name);
        name.map_or_else(String::new, |name| name.join(" "))
    }

    /// A row of the list of processes.
    fn in_short(&self) -> Vec<String> {
        let clients = self.state.get("numbers").get("clients").as_u64();
        vec![
            self.shown.clone(),
            self.name(),
            self.status(),
            clients.map_or_else(String::new, |n| n.to_string()),
            self.rate("bus_messages"),
            self.rate("messages_sent"),
            self.rate("sent_bytes"),
        ]
    }

    /// Returns what is shown of the process: facts, rates and tables, or if the answer is that to a search, the clients
    /// found. Without an answer it is a line with the reason.
    fn page(&self, rows_max: usize) -> String {
        let state = match (&self.state, &self.away) {
            (Some(state), None) => state,
            (_, away) => {
                let why = away.iter().map(|(_, why)| why.clone());
                let facts = [self.status(), self.shown.clone()].into_iter().chain(why);
                return line("Process", facts);
            }
        };
        if let Some(clients) = state.get("clients").as_array() {
            return self.found(state, clients, rows_max);
        }
        let up_s = state.get("uptime_seconds").as_f64().unwrap_or_default();
        let up = format!("up {}", duration(1e3 * up_s));
        let who = [self.name(), self.status(), up, self.shown.clone()];
        let facts = FACTS.map(|row| line(row.title, facts(state, row.object, row.members)));
        let rates = RATES.map(|row| {
            let rate = |counter| format!("{counter} {}", self.rate(counter));
            line(row.title, row.counters.split(' ').map(rate))
        });
        let tables = TABLES.map(|row| {
            let list = member(state, row.object).and_then(|object| object.get(row.list));
            let mut rows: Vec<&Value> = list.as_array().into_iter().flatten().collect();
            if row.title == "Limits" {
                // The nearest first.
                rows.sort_by(|a, b| share(b).total_cmp(&share(a)));
            }
            rows.truncate(rows_max);
            filled(state, row.title, row.columns, &rows)
        });
        let missing = line("Missing", unanswered(state));
        line("Process", who) + &missing + &facts.concat() + &rates.concat() + &tables.concat()
    }
}

impl Process {
    /// The clients that were found, each with the sentence about it and its names.
    fn found(&self, state: &Value, clients: &[Value], rows_max: usize) -> String {
        let count = state.get("count").as_u64().unwrap_or_default();
        let sentence = match text(state, state, "sentence") {
            none if none.is_empty() => format!("clients {count}"),
            sentence => sentence,
        };
        let mut page =
            line("Process", [self.name(), self.shown.clone()]) + &line("Found", [sentence]);
        page += &line("Missing", unanswered(state));
        for client in clients {
            page += &found_client(state, client, rows_max);
        }
        for row in FOUND_TABLES {
            let rows = first_rows(state, row.list, rows_max);
            page += &filled(state, row.title, row.columns, &rows);
        }
        page
    }
}

/// Which of the processes of an answer did not answer; `None` if all did.
fn unanswered(state: &Value) -> Option<String> {
    let missing = state.get("processes_missing")?.as_array()?.iter();
    let numbers: Vec<String> = missing
        .filter_map(|one| Some(one.as_u64()?.to_string()))
        .collect();
    let processes = match numbers.len() {
        0 => return None,
        1 => "process",
        _ => "processes",
    };
    Some(format!("{processes} {} did not answer", numbers.join(", ")))
}

/// The lines about a client that was found.
fn found_client(state: &Value, client: &Value, rows_max: usize) -> String {
    let who = [
        "user",
        "client",
        "role",
        "path",
        "state",
        "age_ms",
        "session",
        "max_hz",
        "queue_messages",
    ];
    let facts = who.map(|name| (name, text(state, client, name)));
    let known = facts.into_iter().filter(|(_, text)| !text.is_empty());
    let known = known.map(|(name, text)| format!("{} {text}", without_unit(name)));
    let names = first_rows(client, "names", rows_max);
    line("Client", known)
        + &line("", [text(state, client, "sentence")])
        + &filled(state, "Names", NAME_COLUMNS, &names)
}

/// The first elements of the list with this name.
fn first_rows<'a>(object: &'a Value, list: &str, rows_max: usize) -> Vec<&'a Value> {
    let list = object.get(list).and_then(|list| list.as_array());
    list.into_iter().flatten().take(rows_max).collect()
}

/// A member of the state; for an empty name, the state itself.
fn member<'a>(state: &'a Value, name: &str) -> Option<&'a Value> {
    match name {
        "" => Some(state),
        name => state.get(name),
    }
}

/// The members of an object as facts, such as `messages 9`: those named, or all that are not 0.
fn facts(state: &Value, object: &str, members: &str) -> Vec<String> {
    let Some(object) = member(state, object) else {
        return Vec::new();
    };
    let names: Vec<&str> = match members {
        "" => {
            let all = object.as_object().into_iter().flatten();
            let some = all.filter(|(_, count)| count.as_u64() != Some(0));
            some.map(|(name, _)| name).collect()
        }
        members => members.split(' ').collect(),
    };
    let texts = names.iter().map(|name| (name, text(state, object, name)));
    let known = texts.filter(|(_, text)| !text.is_empty());
    let facts = known.map(|(name, text)| format!("{} {text}", without_unit(name)));
    facts.collect()
}

/// How much of a limit is in use, as a fraction; 0 if there is no limit.
fn share(limit: &Value) -> f64 {
    let max = limit.get("max").as_f64().filter(|max| *max > 0.0);
    max.map_or(0.0, |max| limit.get("now").as_f64().unwrap_or(0.0) / max)
}

/// Makes a table, without the columns that are empty in all rows. Returns nothing if there are no rows.
fn filled(state: &Value, title: &str, columns: &str, rows: &[&Value]) -> String {
    let is_filled = |name: &&str| rows.iter().any(|row| !text(state, row, name).is_empty());
    let columns: Vec<&str> = columns.split(' ').filter(is_filled).collect();
    let heads = columns.iter().enumerate().map(|(n, name)| match n {
        0 => title,
        _ => without_unit(name),
    });
    let row = |row: &&Value| columns.iter().map(|name| text(state, row, name)).collect();
    match columns.is_empty() {
        true => String::new(),
        false => table(heads.collect(), rows.iter().map(row)),
    }
}

/// The name of a time without its unit, because the value is shown with a unit.
fn without_unit(name: &str) -> &str {
    name.trim_end_matches("_ms").trim_end_matches("_unix")
}

/// A member of an object as text; empty if it is missing or `null`. `state` has the time of the gateway, for ages.
fn text(state: &Value, object: &Value, name: &str) -> String {
    let value = object.get(name);
    if let Some(text) = value.as_str() {
        return safe(text);
    }
    let Some(number) = value.as_f64() else {
        return value
            .as_bool()
            .map_or_else(String::new, |on| on.to_string());
    };
    let is_size = ["now", "max"].contains(&name) && object.get("is_bytes").is_true();
    if name.ends_with("_unix_ms") {
        let age_ms = state.get("now_unix_ms").as_f64().unwrap_or(0.0) - number;
        match age_ms < 0.0 {
            true => format!("in {}", duration(-age_ms)),
            false => format!("{} ago", duration(age_ms)),
        }
    } else if name.ends_with("_ms") {
        duration(number)
    } else if is_size || name.ends_with("bytes") {
        bytes(number)
    } else {
        number.to_string()
    }
}

/// A line with a title and facts; empty if there are no facts.
fn line(name: &str, facts: impl IntoIterator<Item = String>) -> String {
    let facts: Vec<String> = facts.into_iter().map(|fact| safe(&fact)).collect();
    match facts.is_empty() {
        true => String::new(),
        false => format!("{name:<9}{}\n", facts.join("  ")),
    }
}

/// Makes a table. Each column is as wide as its widest cell.
fn table(heads: Vec<&str>, rows: impl Iterator<Item = Vec<String>>) -> String {
    let heads = heads.iter().map(|head| head.to_uppercase()).collect();
    let rows: Vec<Vec<String>> = std::iter::once(heads).chain(rows).collect();
    let width = |n: usize| {
        let cells = rows.iter().filter_map(|row| row.get(n));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let line = |row: &Vec<String>| {
        let cells = row.iter().enumerate();
        let line: String = cells
            .map(|(n, cell)| {
                format!(
                    "{:width$}  ",
                    if cell.is_empty() { "-" } else { cell },
                    width = width(n)
                )
            })
            .collect();
        format!("{}\n", line.trim_end())
    };
    rows.iter().map(line).collect()
}

/// Escapes a text from a gateway for a terminal, and cuts it to the most characters.
fn safe(text: &str) -> String {
    let text: String = text.chars().take(TEXT_CHARS_MAX).collect();
    escaped(&text, &[]).into_owned()
}

/// A size in binary units, as in the documents and the settings.
fn bytes(n: f64) -> String {
    const KIB: f64 = 1024.0;
    match n {
        n if n < KIB => format!("{n:.0} B"),
        n if n < KIB.powi(2) => format!("{:.1} KiB", n / KIB),
        n if n < KIB.powi(3) => format!("{:.1} MiB", n / KIB.powi(2)),
        n if n < KIB.powi(4) => format!("{:.2} GiB", n / KIB.powi(3)),
        n => format!("{:.2} TiB", n / KIB.powi(4)),
    }
}

/// A length of time.
fn duration(ms: f64) -> String {
    let s = (ms / 1e3) as u64;
    match s {
        0 if ms < 10.0 && ms.fract() > 0.0 => format!("{ms:.1} ms"),
        0 => format!("{ms:.0} ms"),
        1..60 => format!("{:.1} s", ms / 1e3),
        60..3_600 => format!("{} min {} s", s / 60, s % 60),
        3_600..86_400 => format!("{} h {} min", s / 3_600, s / 60 % 60),
        _ => format!("{} d {} h", s / 86_400, s / 3_600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::STATE;
    use super::*;

    /// The sample state, with other values for these members.
    fn state(changes: &[(&str, &str, &str)]) -> Value {
        let mut text = STATE.to_owned();
        for (name, from, to) in changes {
            let from = format!("\"{name}\":{from}");
            assert!(text.contains(&from), "{from}");
            text = text.replace(&from, &format!("\"{name}\":{to}"));
        }
        sonic_rs::from_str(&text).expect("JSON")
    }

    /// The sample two seconds later.
    fn later() -> Value {
        state(&[
            ("now_unix_ms", "1700000010000", "1700000012000"),
            ("bus_messages", "120", "162"),
            ("messages_sent", "5000", "7469"),
            ("sent_bytes", "9000000", "11400000"),
        ])
    }

    /// A process with two readings, and a process that did not respond.
    fn processes() -> [Process; 2] {
        let mut here = Process::new("127.0.0.1:9100".to_owned());
        here.take(Ok(state(&[])));
        here.take(Ok(later()));
        let mut away = Process::new("unix:/run/a.sock".to_owned());
        away.take(Err("no answer within 5 s".to_owned()));
        [here, away]
    }

    #[test]
    fn facts_and_tables_have_the_names_of_the_state() {
        let [here, _] = processes();
        insta::assert_snapshot!(page(&[here], usize::MAX));
    }

    #[test]
    fn several_processes_have_a_list() {
        let mut processes = processes();
        // A minute ago, because then no tenths of a second are shown.
        if let Some((since, _)) = &mut processes[1].away {
            *since -= std::time::Duration::from_secs(60);
        }
        let page = page(&processes, 1);
        let list: Vec<&str> = page.lines().take(3).map(str::trim_end).collect();
        assert_eq!(
            list,
            [
                "ADDRESS           GATEWAY       STATUS              CLIENTS  IN/S  OUT/S   SENT/S",
                "127.0.0.1:9100    levels 0.1.0  Ready               3        21.0  1234.5  1.1 MiB",
                "unix:/run/a.sock  -             Away for 1 min 0 s  -        -     -       -",
            ]
        );
        assert!(page.ends_with("Away for 1 min 0 s  unix:/run/a.sock  no answer within 5 s\n"));
        assert!(!page.contains("10.0.0.2"), "one row a table");
    }

    #[test]
    fn rates_come_from_two_readings_without_an_outage_and_a_restart_between() {
        let mut process = Process::new("h:1".to_owned());
        process.take(Ok(state(&[])));
        assert_eq!(process.rate("bus_messages"), "-");
        process.take(Ok(later()));
        assert_eq!(process.rate("bus_messages"), "21.0");
        assert_eq!(process.rate("of another version"), "-");
        process.take(Err("no connection".to_owned()));
        assert!(process.status().starts_with("Away for"));
        assert_eq!(process.missing().as_deref(), Some("h:1: no connection"));
        process.take(Ok(later()));
        assert_eq!(process.status(), "Ready");
        assert_eq!(process.rate("bus_messages"), "-");
        process.take(Ok(state(&[("uptime_seconds", "3723", "1")])));
        assert_eq!(process.rate("bus_messages"), "-");
        process.take(Ok(state(&[("processes_missing", "[]", "[2]")])));
        process.take(Ok(later()));
        assert_eq!(process.rate("bus_messages"), "-", "of one process more");
    }

    /// A script must not take the answer of some processes for that of all.
    #[test]
    fn a_process_that_did_not_answer_is_told() {
        let found = r#"{"gateway":"demo","count":0,"sentence":"nobody","clients":[],"names":[],"processes_missing":[2,4]}"#;
        for answer in [
            sonic_rs::from_str(found).expect("JSON"),
            state(&[("processes_missing", "[]", "[2,4]")]),
        ] {
            let mut process = Process::new("h:1".to_owned());
            process.take(Ok(answer));
            let missing = "processes 2, 4 did not answer";
            assert_eq!(process.missing(), Some(format!("h:1: {missing}")));
            assert!(page(&[process], usize::MAX).contains(&format!("\nMissing  {missing}\n")));
        }
        let mut whole = Process::new("h:1".to_owned());
        whole.take(Ok(state(&[])));
        assert_eq!(whole.missing(), None);
    }

    #[test]
    fn a_text_of_a_server_can_do_nothing_to_the_terminal() {
        let name =
            "\"a\\u001b[2Jb\\r\\nc\\u009bd\\u202ee\u{4f60}".to_owned() + &"x".repeat(5_000) + "\"";
        let mut process = Process::new("h:1".to_owned());
        process.take(Ok(state(&[("user", "\"ann\"", &name)])));
        let page = page(&[process], usize::MAX);
        assert!(
            page.contains(r"a\u001b[2Jb\u000d\u000ac\u009bd\u202ee"),
            "{page}"
        );
        for (columns, lines) in [(1, 1), (2, 40), (20, 5), (79, 23), (300, 3), (0, 0)] {
            let page = cut(&page, columns, lines);
            assert!(page.lines().count() <= lines, "{columns} {lines}: {page}");
            let widest = page.lines().map(|line| line.chars().count()).max();
            assert!(widest.unwrap_or(0) <= columns, "{columns} {lines}: {page}");
        }
        assert_eq!(cut("\u{4f60}\u{597d}\n", 3, 2), "\u{4f60}\n");
    }

    #[test]
    fn sizes_and_times_are_short() {
        assert_eq!(
            [1_023.0, 1_536.0, 2e9].map(bytes),
            ["1023 B", "1.5 KiB", "1.86 GiB"]
        );
        let times = [0.4, 999.0, 1_500.0, 61_000.0, 3_660_000.0, 90_000_000.0].map(duration);
        assert_eq!(
            times,
            [
                "0.4 ms",
                "999 ms",
                "1.5 s",
                "1 min 1 s",
                "1 h 1 min",
                "1 d 1 h"
            ]
        );
    }
}
