//! `weirgate GATEWAY --check`: all that a start does before it listens, and the settings; with
//! `--connect` also the addresses, the broker and the services.
//!
//! A process of its own; nothing is started. Called by `main`.

mod report;

use std::time::Duration;

use clap::builder::PossibleValuesParser;
use clap::{Arg, ArgAction, ArgMatches, value_parser};

use self::report::Report;
use crate::base::Finding;
use crate::run::{GatewayKind, TIMEOUT_FLAG};
use crate::settings::{Checked, SettingsError};

/// How the outcome is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckFormat {
    /// For people.
    Text,
    /// One JSON object, whatever the outcome.
    Json,
    /// Lines for an `EnvironmentFile` of systemd; secrets are comments.
    Env,
}

/// What is to be checked, and how it is shown.
#[derive(Debug)]
pub struct CheckOptions {
    /// The settings that have their defaults too.
    pub all: bool,
    /// How the outcome is shown.
    pub format: CheckFormat,
    /// Bind the addresses, and ask the broker and the services, each within this time.
    pub connect: Option<Duration>,
}

/// `--check`, ready to run.
#[derive(Debug)]
pub struct CheckCommand {
    /// What is typed to run the gateway.
    pub words: String,
    /// The gateway.
    pub gateway: GatewayKind,
    /// Its settings, or what is wrong with them.
    pub settings: Result<Box<Checked>, Vec<SettingsError>>,
    /// What is to be checked, and how it is shown.
    pub options: CheckOptions,
}

/// What a check shows, and the exit status.
#[derive(Debug, PartialEq, Eq)]
pub struct Outcome {
    /// 0; 2 if a start would end with wrong settings, or could never work; 1 if a start would fail
    /// for another reason, or an address, the broker or a service is not there.
    pub status: u8,
    /// For standard output.
    pub shown: String,
    /// For standard error.
    pub complaints: String,
}

/// The flags beside `--check`.
pub(super) fn args() -> [Arg; 5] {
    let with_check = |name: &'static str| Arg::new(name).long(name).requires("check");
    let flag = |name| with_check(name).action(ArgAction::SetTrue);
    [
        Arg::new("check")
            .long("check")
            .action(ArgAction::SetTrue)
            .help("Check all that a start checks, show the settings with their sources, and exit"),
        flag("all")
            .hide_short_help(true)
            .help("With --check: show also the settings that have their defaults"),
        with_check("format")
            .hide_short_help(true)
            .value_name("FORMAT")
            .value_parser(PossibleValuesParser::new(["text", "json", "env"]))
            .help("With --check: text, json, or env for an EnvironmentFile [default: text]")
            .hide_possible_values(true),
        flag("connect").help("With --check: bind the addresses, and ask the broker and services"),
        Arg::new(TIMEOUT_FLAG)
            .long(TIMEOUT_FLAG)
            .value_name("MS")
            .requires("connect")
            .hide_short_help(true)
            .value_parser(value_parser!(u64).range(1..=600_000))
            .help("Time limit for each question of --connect [default: 5000]"),
    ]
}

/// Time limit for a question, where nobody set another.
const CONNECT_TIMEOUT_MS: u64 = 5_000;

impl CheckOptions {
    /// What was typed; `None` without `--check`.
    pub(super) fn of(matches: &ArgMatches) -> Option<Self> {
        let format = matches.get_one::<String>("format").map(String::as_str);
        let timeout_ms = matches.get_one(TIMEOUT_FLAG).copied();
        let timeout = Duration::from_millis(timeout_ms.unwrap_or(CONNECT_TIMEOUT_MS));
        matches.get_flag("check").then(|| Self {
            all: matches.get_flag("all"),
            format: match format {
                Some("json") => CheckFormat::Json,
                Some("env") => CheckFormat::Env,
                _ => CheckFormat::Text,
            },
            connect: matches.get_flag("connect").then_some(timeout),
        })
    }
}

impl CheckCommand {
    /// Checks, and returns what to show.
    pub fn run(&self) -> Outcome {
        let mut report = Report::new(self);
        let checked = match &self.settings {
            Ok(checked) => checked,
            Err(errors) => {
                report.errors.extend(errors.iter().map(ToString::to_string));
                return report.outcome(2);
            }
        };
        let (prepared, notices) = self.gateway.check_start(checked);
        // What a start logs as an error can never work.
        let mut status = if notices.iter().any(Finding::is_error) {
            2
        } else {
            0
        };
        report.take_in(notices);
        match prepared {
            Err(error) => {
                status = error.exit_status();
                report.errors.push(error.to_string());
            }
            Ok(prepared) => {
                if let Some(limit) = self.options.connect.filter(|_| status == 0) {
                    let found = prepared.ask(limit);
                    status = found.iter().any(Finding::is_error).into();
                    report.connections = found;
                }
            }
        }
        report.outcome(status)
    }
}
