//! `weirgate GATEWAY --check`: does all checks that a start does before listening, and shows the settings. With
//! `--connect` it also checks the addresses, the broker and the services.
//!
//! In a process of its own, which starts nothing. Called by `commands`.

use std::num::NonZeroU32;
use std::time::Duration;

use clap::builder::PossibleValuesParser;
use clap::{Arg, ArgMatches, value_parser};

use super::args::{switch, value};
use crate::commands::GatewayKind;
use weirgate_server::run::StartQuestion;
use weirgate_server::settings::{Checked, CheckedValue, Given, SettingsError, Value};
use weirgate_server::settings::{Env, Source};
use weirgate_wire::base::Finding;
use weirgate_wire::json::ObjectWriter;

/// The format of the outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CheckFormat {
    /// For people.
    Text,
    /// One JSON object for every outcome.
    Json,
    /// Lines for an `EnvironmentFile` of systemd; secrets and defaults are comments.
    Env,
}

/// What a check covers, and the format of its output.
#[derive(Debug)]
pub(crate) struct CheckOptions {
    /// Whether to show settings with default values too.
    pub all: bool,
    /// The format of the outcome.
    pub format: CheckFormat,
    /// If set, binds the addresses and asks the broker and the services, each with this time limit.
    pub connect: Option<Duration>,
}

/// `--check`, ready to run.
#[derive(Debug)]
pub(crate) struct CheckCommand {
    /// The command that runs the gateway.
    pub words: String,
    /// The gateway.
    pub gateway: GatewayKind,
    /// The settings, or the errors in the settings.
    pub settings: Result<Box<Checked>, Vec<SettingsError>>,
    /// What the check covers, and the format of its output.
    pub options: CheckOptions,
}

/// The output of a check, and the exit status.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct CheckOutcome {
    /// The exit status. 0: good. 2: a start would end with wrong settings, or the gateway could never work. 1: a start
    /// would fail for another reason, or an address, the broker or a service is not available.
    pub status: u8,
    /// For standard output.
    pub shown: String,
    /// For standard error.
    pub complaints: String,
}

/// The flags beside `--check`.
pub(super) fn args() -> [Arg; 5] {
    let with_check = |name, help| switch(name, help).requires("check");
    [
        switch(
            "check",
            "Check all that a start checks, show the settings with their sources, and exit",
        ),
        with_check(
            "all",
            "With --check: show also the settings that have their defaults",
        )
        .hide_short_help(true),
        value(
            "format",
            "FORMAT",
            "With --check: text, json, or env for an EnvironmentFile [default: text]",
        )
        .requires("check")
        .hide_short_help(true)
        .value_parser(PossibleValuesParser::new(["text", "json", "env"]))
        .hide_possible_values(true),
        with_check(
            "connect",
            "With --check: bind the addresses, and ask the broker and services",
        ),
        value(
            StartQuestion::TIMEOUT_FLAG,
            "MS",
            "Time limit for each question of --connect [default: 5000]",
        )
        .requires("connect")
        .hide_short_help(true)
        .value_parser(value_parser!(u64).range(1..=600_000)),
    ]
}

/// The default time limit for a question.
const CONNECT_TIMEOUT_MS: u64 = 5_000;

impl CheckOptions {
    /// Reads the flags; `None` without `--check`.
    pub(super) fn of(matches: &ArgMatches) -> Option<Self> {
        let format = matches.get_one::<String>("format").map(String::as_str);
        let timeout_ms = matches.get_one(StartQuestion::TIMEOUT_FLAG).copied();
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
    /// Checks, and returns the output.
    pub(crate) fn run(&self) -> CheckOutcome {
        let mut report = Report {
            command: self,
            errors: Vec::new(),
            warnings: Vec::new(),
            connections: Vec::new(),
        };
        let checked = match &self.settings {
            Ok(checked) => checked,
            Err(errors) => {
                report.errors.extend(errors.iter().map(ToString::to_string));
                return report.outcome(2);
            }
        };
        let (prepared, notices) = self.gateway.check_start(checked);
        // A gateway that logs an error at its start can never work.
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
                    // 1 if something is not available.
                    status = found.iter().any(Finding::is_error).into();
                    report.connections = found;
                }
            }
        }
        report.outcome(status)
    }
}

/// The findings so far.
struct Report<'a> {
    command: &'a CheckCommand,
    errors: Vec<String>,
    warnings: Vec<String>,
    connections: Vec<Finding>,
}

impl Report<'_> {
    /// Adds the warnings and errors of the start's log.
    fn take_in(&mut self, notices: Vec<Finding>) {
        for notice in notices {
            match notice {
                Finding::Error(text) => self.errors.push(text),
                Finding::Warning(text) => self.warnings.push(text),
                Finding::Good(_) => {}
            }
        }
    }

    /// The output of all findings, with this exit status.
    fn outcome(&self, status: u8) -> CheckOutcome {
        let (shown, complaints) = match self.command.options.format {
            CheckFormat::Json => (self.json(status), String::new()),
            // A program that reads the settings needs all of them, or none.
            _ if !self.errors.is_empty() => (
                String::new(),
                lines("error", &self.errors) + &lines("warning", &self.warnings),
            ),
            CheckFormat::Text => (self.text(), self.failures()),
            CheckFormat::Env => (self.env(), self.failures()),
        };
        CheckOutcome {
            status,
            shown,
            complaints,
        }
    }

    /// The settings to show: all, or those that a flag or the environment sets.
    fn values(&self) -> impl Iterator<Item = &CheckedValue> {
        let all = self.command.options.all;
        let checked = self.command.settings.iter();
        let values = checked.flat_map(|checked| checked.values());
        values.filter(move |value| all || value.source != Source::Default)
    }

    /// Returns how many processes a start begins, and the part of this limit that each of them gets. `None`: one
    /// process serves alone, or each process has the whole value.
    fn in_each(&self, value: &CheckedValue) -> Option<(NonZeroU32, u64)> {
        let checked = self.command.settings.as_ref().ok()?;
        let (count, each) = checked.each_process()?;
        let mut found = each.values().iter();
        let found = found.find(|found| found.setting.flag == value.setting.flag)?;
        match (&value.value, &found.value) {
            (Value::Number(of_all), &Value::Number(of_each)) if *of_all != of_each => {
                Some((count, of_each))
            }
            _ => None,
        }
    }

    /// The source of a value; if the processes share the value, also the part that each of them gets.
    fn source(&self, value: &CheckedValue) -> String {
        let source = &value.source;
        match self.in_each(value) {
            Some((count, number)) => {
                format!("{source}; in each of {count} processes {number}")
            }
            None => source.to_string(),
        }
    }

    /// Returns the output for people: the settings with their sources, the warnings, and what `--connect` has found.
    /// Errors of `--connect` are not in it.
    fn text(&self) -> String {
        let rows: Vec<_> = self
            .values()
            .map(|v| (v.setting.name(), shown(v), self.source(v)))
            .collect();
        let flag_width = rows.iter().map(|row| row.0.len()).max().unwrap_or(0);
        let value_width = rows.iter().map(|row| row.1.chars().count()).max();
        let value_width = value_width.unwrap_or(0);
        let mut text = format!("{}: the settings are good\n", self.command.words);
        for (flag, value, source) in &rows {
            text += &format!("  {flag:flag_width$}  {value:value_width$}  {source}\n");
        }
        let all = self.command.settings.iter();
        let all: usize = all.map(|checked| checked.values().len()).sum();
        if all > rows.len() {
            let more = all - rows.len();
            text += &format!("  {more} settings have their defaults: --all shows them\n");
        }
        text += &lines("warning", &self.warnings);
        for finding in self.connections.iter().filter(|one| !one.is_error()) {
            text += &format!("{}: {}\n", finding.label(), finding.text());
        }
        text
    }

    /// Lines for environment files. Systemd, a shell and `docker --env-file` read them in the same way if no value
    /// needs quotes.
    fn env(&self) -> String {
        let mut text = lines("# warning", &self.warnings);
        text += &format!("{}={}\n", Env::GATEWAY, self.command.gateway.name);
        // Left out are constants, and what follows from `--memory-max` or from the memory limit.
        let is_typed = |value: &&CheckedValue| {
            let is_typed = matches!(
                value.source,
                Source::Flag | Source::Env(_) | Source::File(..) | Source::Default
            );
            is_typed && value.setting.given != Given::Nowhere
        };
        for value in self.values().filter(is_typed) {
            if let Source::File(name, path) = &value.source {
                text += &format!("{name}={}\n", quoted(&path.display().to_string()));
                continue;
            }
            let name = match &value.source {
                Source::Env(name) => name.clone(),
                // The first name: that of the replaced gateway, if the setting has one.
                _ => value.setting.env_names().swap_remove(0),
            };
            // A value that is set may mean more than the same value as a default, so a default is only a comment.
            let comment = match value.source {
                Source::Default => "# ",
                _ => "",
            };
            text += &match is_secret(&value.value) {
                true => format!("# {name}={} (secret, not shown)\n", value.value),
                false => format!("{comment}{name}={}\n", quoted(&typed(&value.value))),
            };
        }
        for finding in self.connections.iter().filter(|one| !one.is_error()) {
            text += &format!("# {}: {}\n", finding.label(), finding.text());
        }
        text
    }

    /// The errors of `--connect`, a line for each.
    fn failures(&self) -> String {
        let failed = self.connections.iter().filter(|one| one.is_error());
        let texts: Vec<_> = failed.map(|one| one.text().to_owned()).collect();
        lines("error", &texts)
    }

    /// Returns all findings as a line of JSON, of bad settings too. `status` is the exit code.
    fn json(&self, status: u8) -> String {
        let mut object = ObjectWriter::new();
        object.string("gateway", self.command.gateway.name);
        object.number("status", status);
        object.strings("errors", self.errors.iter().map(String::as_str));
        object.strings("warnings", self.warnings.iter().map(String::as_str));
        let checked = self.command.settings.as_ref().ok();
        if let Some((count, _)) = checked.and_then(|checked| checked.each_process()) {
            object.number("processes", count.get());
        }
        let setting = |value| setting(value, self.in_each(value));
        object.raw("settings", &list(self.values().map(setting)));
        if self.command.options.connect.is_some() {
            object.raw(
                "connections",
                &list(self.connections.iter().map(connection)),
            );
        }
        object.finish() + "\n"
    }
}

fn list(objects: impl Iterator<Item = ObjectWriter>) -> String {
    let objects: Vec<_> = objects.map(ObjectWriter::finish).collect();
    format!("[{}]", objects.join(","))
}

fn connection(finding: &Finding) -> ObjectWriter {
    let mut object = ObjectWriter::new();
    object.string("outcome", finding.label());
    object.string("text", finding.text());
    object
}

fn lines(label: &str, texts: &[String]) -> String {
    let lines = texts.iter().map(|text| format!("{label}: {text}\n"));
    lines.collect()
}

/// The value as people see it; `unset` if the setting has neither a value nor a default.
fn shown(value: &CheckedValue) -> String {
    match is_unset(value) {
        true => "unset".to_owned(),
        false => value.value.to_string(),
    }
}

fn is_unset(value: &CheckedValue) -> bool {
    value.source == Source::Default && value.setting.default().is_empty()
}

/// A setting as JSON. `in_each` is the number of processes, and the part of the value that each of them gets.
fn setting(value: &CheckedValue, in_each: Option<(NonZeroU32, u64)>) -> ObjectWriter {
    let mut object = ObjectWriter::new();
    object.string("flag", value.setting.flag);
    match &value.value {
        _ if is_unset(value) => object.raw("value", "null"),
        &Value::Number(number) => object.number("value", number),
        &Value::Switch(on) => object.boolean("value", on),
        other => object.string("value", &other.to_string()),
    }
    if let Some((_, number)) = in_each {
        object.number("each_process", number);
    }
    object.string("source", &value.source.to_string());
    object.boolean("secret", is_secret(&value.value));
    object
}

/// Whether a part of the value is hidden.
fn is_secret(value: &Value) -> bool {
    match value {
        Value::Secret(text) => !text.expose().is_empty(),
        Value::Urls(urls) => urls.to_string() != *urls.expose(),
        _ => false,
    }
}

/// The value in the syntax of the command line, which differs from the shown text for the values that mean all or none.
fn typed(value: &Value) -> String {
    let text = value.to_string();
    match value {
        Value::Origins(origins) if origins.is_empty() => "*".to_owned(),
        Value::Networks(_) if text == "any" => "*".to_owned(),
        Value::Networks(_) | Value::List(_) if text == "none" => String::new(),
        _ => text,
    }
}

/// Adds quotes if systemd needs them (systemd.exec(5), `EnvironmentFile=`).
fn quoted(text: &str) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || "-_./:,@%+=*[]".contains(c);
    if text.chars().all(is_plain) {
        return text.to_owned();
    }
    let mut quoted = String::from('"');
    for c in text.chars() {
        if matches!(c, '"' | '\\' | '$' | '`') {
            quoted.push('\\');
        }
        quoted.push(c);
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_quoted_where_systemd_needs_it() {
        for (text, want) in [
            ("", ""),
            ("nats://a:4222,b", "nats://a:4222,b"),
            ("*", "*"),
            ("a b", "\"a b\""),
            ("#a", "\"#a\""),
            ("a\"$`\\", r#""a\"\$\`\\""#),
        ] {
            assert_eq!(quoted(text), want);
        }
    }
}
