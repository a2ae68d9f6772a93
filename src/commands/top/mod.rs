//! `weirgate top`: running gateways in a terminal, from `/operator/state` of their admin addresses; and single clients,
//! from `/operator/clients`.
//!
//! In a process of its own; no gateway uses this module. Called by `commands`. `page` makes the text, and `printer` writes it.

mod page;
mod printer;
mod rows;

use std::io::{self, ErrorKind, IsTerminal};
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::{Duration, Instant};
use std::{env, thread};

use clap::{ArgMatches, Command, value_parser};
use sonic_rs::{JsonValueTrait, Value};
use url::form_urlencoded;

use self::page::Process;
use self::printer::Printer;
use super::admin::{self, AdminAddresses, detail, refused};
use super::args::{For, switch, value};
use super::link::Target;
use super::program::{Exit, show};
use super::standard::{write_out, write_until};
use super::tail::{Stop, TICK};
use crate::commands::Program;
use weirgate_runtime::detached;
use weirgate_server::settings::Env;
use weirgate_wire::json::Json;

/// The path of the state.
const PATH: &str = "/operator/state";
/// The path of searches for clients.
const FIND_PATH: &str = "/operator/clients";
/// What `top` can search for: the parameter of the request, the placeholder of the value, and the help.
const FINDS: [(&str, &str, &str); 4] = [
    (
        "user",
        "NAME",
        "Show this user's connections, their names, and why they get what they get",
    ),
    ("address", "IP", "The same for the clients of an address"),
    (
        "session",
        "SESSION",
        "The same for one connection, as top shows it",
    ),
    (
        "name",
        "NAME",
        "The same for the clients that hold this name or pattern",
    ),
];
/// The time between two readings with `--once`, and otherwise between the first two: a gateway makes its first survey
/// soon after the first reading.
const SOON: Duration = Duration::from_millis(400);
/// How long `--once` waits for the second survey of a gateway; surveys are a second apart.
const ONCE_PATIENCE: Duration = Duration::from_secs(8);
/// Roughly how many lines a process needs on the screen beside its tables. Most processes have five tables.
const FACT_LINES: usize = 14;
/// Columns and lines, if the terminal does not say its size.
const SIZE: (u16, u16) = (80, 24);

const AFTER: &str = "\
Ctrl-C ends it. Without a terminal, and if TERM is dumb, --once is implied, unless --json is set.

Exit status: 0; with --once 1 if a process did not answer; 2 without an address.";

/// `weirgate top`, ready to run.
#[derive(Clone, Debug)]
pub(crate) struct TopCommand {
    admins: AdminAddresses,
    /// Whether to print a plain table once, even on a terminal.
    is_once: bool,
    /// Whether to print the states as JSON, with a line for each reading.
    is_json: bool,
    interval: Duration,
}

/// The number of a process, and its state or the reason for none.
type StateReading = (usize, Result<Value, String>);

/// The subcommand.
pub(super) fn command(program: &Program, made_for: For) -> Command {
    let name = program.name;
    let examples = format!(
        "Examples:\n  {name} top 127.0.0.1:9100\n  {name} top --user ann 127.0.0.1:9100\n  {name} top http://a:9100 http://b:9100\n  \
         {name} top --once unix:/run/weirgate/admin.sock"
    );
    let interval = "Time between two readings [default: 1000]";
    Command::new("top")
        .about("Show running gateways: rates, slow clients, limits; live in the terminal")
        .after_help(format!("{examples}\n\n{AFTER}"))
        .args_override_self(true)
        .arg(switch("once", "Print everything once and end"))
        .arg(switch(
            "json",
            "Print the state of each process as JSON, a line each",
        ))
        .args(FINDS.map(|(name, what, help)| value(name, what, help)))
        .arg(
            value("interval-ms", "MS", interval)
                .value_parser(value_parser!(u32).range(250..=60_000)),
        )
        .args(admin::args(made_for))
}

/// Reads the arguments of `weirgate top`.
///
/// # Errors
/// The error in the arguments, for the user.
pub(super) fn read(program: &Program, matches: &ArgMatches, env: &Env) -> Result<TopCommand, Exit> {
    let interval_ms: u32 = matches.get_one("interval-ms").copied().unwrap_or(1_000);
    let mut query = form_urlencoded::Serializer::new(String::new());
    for (name, _, _) in FINDS {
        if let Some(text) = matches.get_one::<String>(name) {
            query.append_pair(name, text);
        }
    }
    let path = match query.finish() {
        none if none.is_empty() => PATH.to_owned(),
        query => format!("{FIND_PATH}?{query}"),
    };
    Ok(TopCommand {
        admins: AdminAddresses::read(program, matches, env, "top", &path)?,
        is_once: matches.get_flag("once"),
        is_json: matches.get_flag("json"),
        interval: Duration::from_millis(interval_ms.into()),
    })
}

impl TopCommand {
    /// Shows the processes once, or until the user stops.
    ///
    /// # Errors
    /// A thread, the signals or standard output failed; with `--once`, a process did not respond.
    pub(crate) fn run(mut self) -> Result<(), String> {
        self.admins.hide_authorization();
        // A pipe, and a terminal without escape sequences, get one table.
        let is_dumb = env::var_os("TERM").is_some_and(|term| term == "dumb");
        self.is_once |= !self.is_json && (is_dumb || !io::stdout().is_terminal());
        let system = |error| format!("the system refuses: {error}");
        let stop = Stop::at_signals().map_err(system)?;
        write_until(&stop, None);
        let targets = self.admins.targets.iter();
        let mut processes: Vec<_> = targets
            .map(|target| Process::new(target.to_string()))
            .collect();
        let (sender, readings) = mpsc::channel();
        for (n, target) in self.admins.targets.iter().enumerate() {
            let (command, target, sender) = (self.clone(), target.clone(), sender.clone());
            let read = move || command.read_on(n, &target, &sender);
            detached("top-reader", read).map_err(system)?;
        }
        if self.is_once {
            return self.show_once(&stop, &mut processes, &readings);
        }
        let shown = self.show_live(&stop, &mut processes, &readings);
        match shown {
            // The reader has closed standard output, as in `weirgate top --json … | head -1`.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
            shown => shown.map_err(|error| format!("cannot write to standard output: {error}")),
        }
    }

    /// Reads the state of a process at the interval, until the printing thread ends. Each process has a thread for
    /// this, so a process that hangs does not delay the others.
    fn read_on(&self, n: usize, target: &Target, sender: &Sender<StateReading>) {
        let mut soon = true;
        loop {
            let asked = Instant::now();
            if sender.send((n, fetch(&self.admins, target))).is_err() {
                return;
            }
            let wait = if soon || self.is_once {
                SOON
            } else {
                self.interval
            };
            soon = false;
            let due = asked + wait.min(self.interval);
            thread::sleep(due.saturating_duration_since(Instant::now()));
        }
    }

    /// Prints everything once each process has rates, or has not responded.
    fn show_once(
        &self,
        stop: &Stop,
        processes: &mut [Process],
        readings: &Receiver<StateReading>,
    ) -> Result<(), String> {
        let until = Instant::now() + ONCE_PATIENCE;
        while !processes.iter().all(Process::is_complete)
            && Instant::now() < until
            && take_readings(processes, readings, Instant::now() + TICK, || {
                stop.is_asked()
            })
        {}
        show(self.text(processes, usize::MAX).trim_end());
        let missing: Vec<_> = processes.iter().filter_map(Process::missing).collect();
        match missing.is_empty() {
            true => Ok(()),
            false => Err(format!("no answer from {}", missing.join("; "))),
        }
    }

    /// Shows the readings at each interval until the user stops: draws a page in place of the last one, or prints JSON. If
    /// the reader pauses, what it gets afterwards is new.
    fn show_live(
        &self,
        stop: &Stop,
        processes: &mut [Process],
        readings: &Receiver<StateReading>,
    ) -> io::Result<()> {
        let printer = Printer::start(write_out)?;
        let ends = || stop.is_asked() || printer.has_failed();
        // The first readings need less time than an interval.
        let mut due = Instant::now() + SOON / 2;
        while take_readings(processes, readings, due, ends) {
            // After a stop of the process (Ctrl-Z), what was due meanwhile is not shown.
            due = (due + self.interval).max(Instant::now());
            printer.print(match self.is_json {
                true => self.text(processes, usize::MAX),
                false => self.screen(processes),
            });
        }
        printer.end()
    }

    /// The page, cut to the size of the terminal, after the sequence that clears the screen.
    fn screen(&self, processes: &[Process]) -> String {
        let (columns, lines) = match rustix::termios::tcgetwinsize(io::stdout()) {
            Ok(size) if size.ws_col > 0 && size.ws_row > 0 => (size.ws_col, size.ws_row),
            _ => SIZE,
        };
        let (columns, lines) = (usize::from(columns), usize::from(lines));
        let of_tables = (lines / processes.len().max(1)).saturating_sub(FACT_LINES);
        // Five tables, each with a line for the head.
        let rows = (of_tables / 5).saturating_sub(1).max(1);
        let page = page::cut(&page::page(processes, rows), columns, lines);
        format!("\x1b[H\x1b[J{page}")
    }

    /// The page with at most `rows_max` rows in each table, or JSON.
    fn text(&self, processes: &[Process], rows_max: usize) -> String {
        match self.is_json {
            true => processes.iter().map(Process::json).collect(),
            false => page::page(processes, rows_max),
        }
    }
}

/// Updates the processes with the readings that arrive until `until`. Returns false if it `ends` before.
fn take_readings(
    processes: &mut [Process],
    readings: &Receiver<StateReading>,
    until: Instant,
    ends: impl Fn() -> bool,
) -> bool {
    while !ends() {
        let left = until.saturating_duration_since(Instant::now());
        match readings.recv_timeout(left.min(TICK)) {
            Ok((n, read)) => {
                if let Some(process) = processes.get_mut(n) {
                    process.take(read);
                }
            }
            // All that have arrived were taken.
            Err(_) if left.is_zero() => return true,
            Err(_) => {}
        }
    }
    false
}

/// Reads the state of a process.
fn fetch(admins: &AdminAddresses, target: &Target) -> Result<Value, String> {
    match admins.ask(target, "GET", "")? {
        (200, body) => state(&body).ok_or_else(|| {
            "what answers there is not a gateway's admin address, or is of another version of weirgate"
                .to_owned()
        }),
        (400, body) => Err(detail(&body, "the gateway refuses the request")),
        (status, body) => {
            let path = target.path.split('?').next().unwrap_or_default();
            Err(refused(path, status, &body))
        }
    }
}

/// Returns `None` if the text is not the state of a gateway.
fn state(text: &[u8]) -> Option<Value> {
    let state: Value = Json::read(text).ok()?.parse().ok()?;
    let is_named = state
        .get("gateway")
        .as_str()
        .is_some_and(|name| !name.is_empty());
    is_named.then_some(state)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A state of a gateway.
    pub(super) const STATE: &str = r#"{"gateway":"levels","version":"0.1.0","now_unix_ms":1700000010000,"uptime_seconds":3723,
    "ready":true,"reasons":[],"status":"Ready","last_turn_age_ms":2,"processes_missing":[],
    "numbers":{"clients":3,"connections":95,"connections_max":100,"connections_accepted":40,"connections_ended":37,
     "bus_messages":120,"bus_messages_bad":0,"bus_gaps":0,"bus_queue_messages":0,"bus_last_message_unix_ms":1700000009400,
     "messages_sent":5000,"messages_conflated":97,"messages_shed":0,"messages_dropped":12,"messages_waiting":4,
     "send_queue_bytes":66436,"send_queue_peak_bytes":65536,"frame_bytes":268435456,"sent_bytes":9000000,"received_messages":3},
    "closes":{"peer_closed":36,"send_stalled":1},
    "bus":{"connected":true,"subscribed":true,"away_ms":null,"reconnects":2,"refused":0,
     "consumers":[{"name":"gateway_flow","subject":"market.flow","lag":40,"away_ms":null,"stalled":false}]},
    "survey":{"age_ms":900,"took_us":12,"slices":1,"interval_ms":1000,"clients":3,"clients_waiting":2,"clients_blocked":1,
     "clients_conflating":1,"slowest":[
      {"session":"7-19","client":"10.0.0.1","user":"ann","path":"/ws/stream","state":"conflating","age_ms":5000,"queue_messages":3,"queue_bytes":65536,"oldest_ms":1200,"stuck_ms":1100,"conflated":17,"messages_in":1,"messages_out":400,"bytes_in":10,"bytes_out":9000,"topics":1,"topic":"levels","recent_messages":0},
      {"session":"3-2","client":"10.0.0.2","user":null,"path":"/ws/stream","state":"waiting","age_ms":3700000,"queue_messages":1,"queue_bytes":900,"oldest_ms":4,"stuck_ms":4,"conflated":0,"messages_in":1,"messages_out":51000,"bytes_in":10,"bytes_out":9000,"topics":3,"topic":null,"recent_messages":0}],
     "busiest":[{"session":"4-4","client":"2001:db8::17","user":null,"path":"/ws/stream","state":"idle","age_ms":61000,"queue_messages":0,"queue_bytes":0,"oldest_ms":null,"stuck_ms":null,"conflated":0,"messages_in":5,"messages_out":1234,"bytes_in":10,"bytes_out":9000,"topics":1,"topic":"levels","recent_messages":14}],
     "topics":1,"busiest_topics":[{"name":"levels","members":3,"recent_messages":14,"recent_bytes":233470}]},
    "ends":[{"at_unix_ms":1700000004000,"client":"10.0.0.9","peer":"10.0.0.9:4711","user":null,"path":"/ws/stream","reason":"send_stalled","code":1013,"age_ms":31000,"bytes_in":1,"bytes_out":2,"messages_in":3,"messages_out":400,"conflated":80},
     {"at_unix_ms":1700000001000,"client":"10.0.0.8","peer":"10.0.0.8:4712","user":"bob","path":"/ws/stream","reason":"peer_closed","code":null,"age_ms":900,"bytes_in":1,"bytes_out":2,"messages_in":3,"messages_out":4,"conflated":0}],
    "revoked":2,"revoked_newest":[{"user":"eve","until":1700003600},{"role":"guest","address":"10.0.0.3"}],"limits":[
     {"name":"--connections-max","about":"Connections at once","is_bytes":false,"now":95,"max":100},
     {"name":"--frame-bytes-max","about":"Memory of frames","is_bytes":true,"now":268435456,"max":536870912},
     {"name":"--all-wildcards-max","about":"Patterns","is_bytes":false,"now":2,"max":null}]}"#;

    #[test]
    fn anything_else_is_no_state() {
        assert!(state(STATE.as_bytes()).is_some());
        let deep = "[".repeat(100_000);
        for text in [
            "",
            "{}",
            "[1]",
            "null",
            "<html>",
            r#"{"gateway":1,"ready":true}"#,
            &deep,
        ] {
            assert_eq!(state(text.as_bytes()), None, "{text:.20}");
        }
        assert_eq!(state(b"{\"gateway\":\"\xff\",\"ready\":true}"), None);
    }
}
