//! `weirgate disconnect`: cuts clients of running gateways off with `POST /operator/disconnect`, or takes that back with
//! `POST /operator/allow`.
//!
//! A cut has the same end at every gateway. The command says when the cut began, and the gateways count a day from
//! then. If a token that was cut off at some gateway ends later, or if a gateway still has a later end from an earlier
//! cut with the same conditions, the command asks every gateway again with the latest of these ends.

use super::admin::{AdminAddresses, args, refused};
use super::args::{For, flag, value};
use super::program::{Exit, show};
use crate::commands::Program;
use clap::{Arg, ArgAction, ArgMatches, Command};
use serde::Deserialize;
use std::thread;
use weirgate_core::Cut;
use weirgate_runtime::Clock;
use weirgate_server::settings::Env;
use weirgate_wire::base::escaped;
use weirgate_wire::json::{Json, ObjectWriter};

/// The path of a request that cuts off, and of one that takes this back.
const CUT_PATH: &str = "/operator/disconnect";
const ALLOW_PATH: &str = "/operator/allow";

/// The conditions that choose connections: the name, the placeholder of the value, and the help.
const CONDITIONS: [(&str, &str, &str); 6] = [
    ("user", "USER", "The user, as the operator's page shows it"),
    ("jti", "ID", "The id of the token (jti)"),
    ("address", "IP", "The client's address"),
    ("role", "ROLE", "A role; alone, its clients may come back"),
    (
        "session",
        "SESSION",
        "One connection, as the operator's page shows it",
    ),
    (
        "token",
        "DIGEST",
        "A token, as an answer of this command shows it",
    ),
];

/// The conditions by which a gateway refuses clients for a time.
const REFUSED: [&str; 4] = ["user", "jti", "address", "token"];

const AFTER: &str = "\
All conditions that are given have to hold. Those who were cut off are refused for a day, until their tokens end if that \
is later, or until --until: by user, token or address, also at gateways where they have no connection. --allow takes a \
refusal with exactly these conditions back.

Exit status: 0; 1 if a gateway, or one of its processes, has refused the request or did not answer; 2 without an address.";

/// `weirgate disconnect`, ready to run.
#[derive(Clone, Debug)]
pub(crate) struct DisconnectCommand {
    /// The gateways.
    admins: AdminAddresses,
    path: &'static str,
    /// The conditions, by name.
    conditions: Vec<(&'static str, String)>,
    /// The end of the refusal, Unix seconds.
    until: Option<i64>,
}

/// The response of a gateway, or why there is none.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Response {
    /// Whether the gateway has carried out the request, at least in some of its processes.
    is_success: bool,
    text: String,
}

/// What the command reads of a successful response.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct CutResponse {
    /// What the gateway refuses from now on; `None`: nothing.
    refused: Option<Cut>,
    /// When the last of the tokens that were cut off there ends, Unix seconds, if that is after the refusal.
    tokens_end: Option<i64>,
    /// The processes that did not answer.
    processes_missing: Vec<u32>,
}

/// The subcommand.
pub(super) fn command(program: &Program, made_for: For) -> Command {
    let name = program.name;
    let examples = format!(
        "Examples:\n  {name} disconnect --user ann 127.0.0.1:9100\n  {name} disconnect --role guest \
         http://a:9100 http://b:9100\n  {name} disconnect --allow --user ann 127.0.0.1:9100"
    );
    let until = value("until", "SECONDS", "Unix time at which the refusal ends");
    let allow = Arg::new("allow")
        .long("allow")
        .action(ArgAction::SetTrue)
        .conflicts_with("until")
        .help("Take back an earlier cut with the same conditions");
    Command::new("disconnect")
        .about("Cut clients of running gateways off, and refuse them from then on")
        .after_help(format!("{examples}\n\n{AFTER}"))
        .args(CONDITIONS.map(|(name, placeholder, help)| value(name, placeholder, help)))
        .arg(until.value_parser(clap::value_parser!(i64)))
        .arg(allow)
        .args(args(made_for))
}

/// Reads the arguments of `weirgate disconnect`.
///
/// # Errors
/// The error in the arguments, for the user.
pub(super) fn read(
    program: &Program,
    matches: &ArgMatches,
    env: &Env,
) -> Result<DisconnectCommand, Exit> {
    let path = match matches.get_flag("allow") {
        true => ALLOW_PATH,
        false => CUT_PATH,
    };
    let admins = AdminAddresses::read(program, matches, env, "disconnect --user ann", path)?;
    let given = CONDITIONS.into_iter();
    let given = given.filter_map(|(name, ..)| Some((name, flag(matches, name)?)));
    let conditions: Vec<_> = given.collect();
    if conditions.is_empty() {
        let names = CONDITIONS
            .map(|(name, _, _)| format!("--{name}"))
            .join(", ");
        return Err(Exit::wrong_use(&format!("nobody is chosen: use {names}")));
    }
    Ok(DisconnectCommand {
        admins,
        path,
        conditions,
        until: matches.get_one::<i64>("until").copied(),
    })
}

impl DisconnectCommand {
    /// Asks all gateways at once, and prints a line for each.
    ///
    /// # Errors
    /// A gateway has refused the request, or did not answer.
    pub(crate) fn run(&self) -> Result<(), String> {
        self.admins.hide_authorization();
        let mut responses = self.ask_all(&self.body(self.until));
        self.show(&responses);
        if let Some(until) = self.later_end(&responses) {
            show("The same end everywhere:");
            responses = self.ask_all(&self.body(Some(until)));
            self.show(&responses);
        }
        match responses
            .iter()
            .filter(|response| !response.is_whole())
            .count()
        {
            0 => Ok(()),
            failed => Err(format!(
                "{failed} of {} gateways did not take the request, or not in all of their processes",
                self.admins.targets.len()
            )),
        }
    }

    /// Whether the request refuses somebody for a time that this command chooses.
    fn chooses_end(&self) -> bool {
        let gives = |name: &str| self.conditions.iter().any(|(given, _)| *given == name);
        self.path == CUT_PATH && !gives("session") && REFUSED.into_iter().any(gives)
    }

    /// The JSON object of the request.
    fn body(&self, until: Option<i64>) -> String {
        let mut body = ObjectWriter::new();
        for (name, text) in &self.conditions {
            body.string(name, text);
        }
        match until {
            Some(until) => body.raw("until", &until.to_string()),
            // The gateways choose the end, a day after `since`: one time for all of them.
            None if self.chooses_end() => {
                let now = Clock::start().now().unix_ms() / 1000;
                body.raw("since", &now.to_string());
            }
            None => {}
        }
        body.finish()
    }

    /// Returns the latest end of all refusals and of all tokens that were cut off. `None` if no gateway's refusal ends
    /// earlier, or if this command does not choose the end.
    fn later_end(&self, responses: &[Response]) -> Option<i64> {
        if self.until.is_some() || !self.chooses_end() {
            return None;
        }
        let successes = responses.iter().filter(|response| response.is_success);
        let cuts: Vec<CutResponse> = successes.filter_map(Response::cut).collect();
        let end = |cut: &CutResponse| cut.refused.as_ref().and_then(|refused| refused.until);
        let latest = cuts.iter().flat_map(|cut| [end(cut), cut.tokens_end]);
        let latest = latest.flatten().max()?;
        let is_early = cuts.iter().filter_map(end).any(|end| end < latest);
        is_early.then_some(latest)
    }

    fn show(&self, responses: &[Response]) {
        for (target, Response { text, .. }) in self.admins.targets.iter().zip(responses) {
            show(&format!("{target}: {}", escaped(text, &[])));
        }
    }

    /// Returns the response of each gateway. The gateways are asked at once: while one is silent, a user who is cut off
    /// there must not stay connected to the others.
    fn ask_all(&self, body: &str) -> Vec<Response> {
        let ask = |target| match self.admins.ask(target, "POST", body) {
            Ok((status @ (200 | 400 | 409 | 507), body)) => Response {
                is_success: status == 200,
                text: String::from_utf8_lossy(&body).into_owned(),
            },
            Ok((status, body)) => Response::failure(refused(self.path, status, &body)),
            Err(error) => Response::failure(error),
        };
        thread::scope(|scope| {
            let targets = self.admins.targets.iter();
            let asked: Vec<_> = targets
                .map(|target| scope.spawn(move || ask(target)))
                .collect();
            let answers = asked.into_iter().map(|one| one.join());
            let ended = |_| Response::failure("the request has failed".to_owned());
            answers.map(|answer| answer.unwrap_or_else(ended)).collect()
        })
    }
}

impl Response {
    fn failure(text: String) -> Self {
        Self {
            is_success: false,
            text,
        }
    }

    fn cut(&self) -> Option<CutResponse> {
        Json::read(self.text.as_bytes()).ok()?.parse().ok()
    }

    /// Whether the gateway has carried out the request in all of its processes.
    fn is_whole(&self) -> bool {
        let lacks_some = |cut: CutResponse| !cut.processes_missing.is_empty();
        self.is_success && !self.cut().is_some_and(lacks_some)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use super::super::link::Target;
    use super::*;

    fn command(targets: Vec<Target>, conditions: &[&'static str]) -> DisconnectCommand {
        DisconnectCommand {
            admins: AdminAddresses::of(targets),
            path: CUT_PATH,
            conditions: conditions
                .iter()
                .map(|name| (*name, "x".to_owned()))
                .collect(),
            until: None,
        }
    }

    #[test]
    fn a_silent_gateway_delays_no_other() {
        let listeners = [0; 2].map(|_| TcpListener::bind("127.0.0.1:0").unwrap());
        let targets = listeners.each_ref().map(|listener| {
            let addr = listener.local_addr().unwrap();
            Target::here(&[addr.into()], CUT_PATH)
        });
        // Each answers only once both have a request.
        let server = thread::spawn(move || {
            let mut streams = listeners.map(|listener| {
                let (mut stream, _) = listener.accept().unwrap();
                assert!(stream.read(&mut [0; 4096]).unwrap() > 0);
                stream
            });
            for stream in &mut streams {
                let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}";
                stream.write_all(answer).unwrap();
            }
        });
        let responses = command(targets.into(), &["user"]).ask_all("{}");
        let taken = || Response {
            is_success: true,
            text: "{}".to_owned(),
        };
        assert_eq!(responses, [taken(), taken()]);
        server.join().unwrap();
    }

    #[test]
    fn a_process_that_did_not_answer_is_a_failure() {
        for (body, is_good) in [
            (r#"{"disconnected":1}"#, true),
            (r#"{"disconnected":1,"processes_missing":[2]}"#, false),
        ] {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let target = Target::here(&[listener.local_addr().unwrap().into()], CUT_PATH);
            let server = thread::spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                assert!(stream.read(&mut [0; 4096]).unwrap() > 0);
                let length = body.len();
                let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}");
                stream.write_all(answer.as_bytes()).unwrap();
            });
            let done = command(vec![target], &["user"]).run();
            assert_eq!(done.is_ok(), is_good, "{body}");
            server.join().unwrap();
        }
    }

    #[test]
    fn the_latest_end_is_the_end_everywhere() {
        let responses = |texts: &[&str]| -> Vec<Response> {
            let responses = texts.iter().map(|text| Response {
                is_success: text.contains("refused"),
                text: (*text).to_owned(),
            });
            responses.collect()
        };
        let day = r#"{"disconnected":0,"refused":{"user":"x","until":100}}"#;
        let long = r#"{"disconnected":1,"refused":{"user":"x","until":100},"tokens_end":300}"#;
        let earlier_cut = r#"{"disconnected":0,"refused":{"user":"x","until":200}}"#;
        let command = command(Vec::new(), &["user"]);
        for (texts, end) in [
            (&[day, day][..], None),
            (&[day, "no connection"], None),
            (&[day, long], Some(300)),
            (&[long], Some(300)),
            (&[earlier_cut, day], Some(200)),
            (&["no connection"], None),
        ] {
            assert_eq!(command.later_end(&responses(texts)), end, "{texts:?}");
        }
        let asked = DisconnectCommand {
            until: Some(100),
            ..command
        };
        assert_eq!(
            asked.later_end(&responses(&[long, day])),
            None,
            "as asked for"
        );
    }

    #[test]
    fn a_cut_without_an_end_says_when_it_began() {
        for (conditions, says) in [
            (&["user"][..], true),
            (&["role", "address"], true),
            (&["role"], false),
            (&["session"], false),
            (&["session", "user"], false),
        ] {
            let command = command(Vec::new(), conditions);
            assert_eq!(command.body(None).contains("since"), says, "{conditions:?}");
            assert!(!command.body(Some(5)).contains("since"), "{conditions:?}");
        }
    }
}
