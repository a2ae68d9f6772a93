//! The command line: from the arguments to the command to run, and to the exit status.
//!
//! It is made from a [`Program`], which is a list of gateways with their settings: the subcommands, `--help`,
//! `--check`, the environment name `WEIRGATE_GATEWAY`, `health` and `token`. Called by `main`.
//!
//! Begin with [`Program`] in `program.rs`, then `kind.rs`.
//!
//! | file | owns |
//! | --- | --- |
//! | `program`, `kind` | what all commands share; a gateway as a value |
//! | `args` | the arguments of a command line |
//! | `check`, `health`, `token`, `pages` | the check before a start; `GET /health`; a look into a token; completions and manual pages |
//! | `top`, `disconnect`, `admin`, `admin_http` | the commands for operators; their addresses, and requests to them |
//! | `tail`, `publish` | a client of a gateway in the terminal; a command that publishes on the bus |
//! | `link` | connections to gateways |
//! | `standard` | standard output and standard error, whose readers may pause |

mod admin;
mod admin_http;
mod args;
mod check;
mod disconnect;
pub(crate) mod health;
mod kind;
mod link;
mod pages;
mod program;
mod publish;
mod standard;
mod tail;
mod token;
mod top;

use self::args::{For, arg, flag, switch, with_default};
use self::check::{CheckCommand, CheckFormat, CheckOptions, CheckOutcome};
use self::disconnect::DisconnectCommand;
use self::health::HealthCheck;
pub use self::kind::GatewayKind;
pub(crate) use self::kind::{BusWord, Dialect, Print, RoleTable, TokenUse};
use self::pages::PageFiles;
pub(crate) use self::program::Exit;
pub use self::program::Program;
use self::program::{
    complain, complain_styled, show, show_styled, version_json, version_line, version_text,
};
use self::publish::PublishCommand;
use self::tail::TailCommand;
use self::token::TokenCommand;
use self::top::TopCommand;
use clap::{Arg, ArgMatches, Command};
use std::env;
use std::ffi::OsString;
use std::fmt::Display;
use std::io::{self, IsTerminal};
use std::process::ExitCode;
use weirgate_server::run::{RunError, default_signals, first_steps};
use weirgate_server::settings::Env;
use weirgate_server::settings::{Checked, Given, Kind, Setting};

const SOURCES: &str = "\
Every flag has an environment name: --log-format is WEIRGATE_LOG_FORMAT, and some have the names in [env: …] too. \
Precedence, highest first: flag, [env: …], WEIRGATE_*, default. An empty value is unset.";

/// The action of a command line.
#[derive(Debug)]
pub(crate) enum Invocation {
    /// Run a gateway with these settings.
    Run(GatewayKind, Box<Checked>),
    /// Print a text that is made from the gateway's settings, and exit.
    Print(Print, Box<Checked>),
    /// Check the settings of a gateway, and the files that they name.
    Check(Box<CheckCommand>),
    /// Print this text, and exit with 0.
    Show(String),
    /// Ask a running gateway for its health.
    Health(HealthCheck),
    /// Check a token.
    Token(Box<TokenCommand>),
    /// Print the messages of a gateway.
    Tail(Box<TailCommand>),
    /// Show running gateways.
    Top(Box<TopCommand>),
    /// Cut clients of running gateways off.
    Disconnect(Box<DisconnectCommand>),
    /// Publish on a bus.
    Publish(Box<PublishCommand>),
    /// Write manual pages.
    Write(PageFiles),
}

/// Prints the outcome of a check, and returns its exit code.
fn check_exit(outcome: &CheckOutcome) -> ExitCode {
    if !outcome.shown.is_empty() {
        show(outcome.shown.trim_end());
    }
    if !outcome.complaints.is_empty() {
        complain(outcome.complaints.trim_end());
    }
    ExitCode::from(outcome.status)
}

/// Returns the exit code of a gateway, and writes the reason of its end to standard error.
fn gateway_exit(result: Result<(), RunError>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format!("error: {error}"));
            ExitCode::from(error.exit_status())
        }
    }
}

/// Returns the exit code of another command, and writes its error to standard error.
fn command_exit<E: Display>(result: Result<(), E>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format!("error: {error}"));
            ExitCode::FAILURE
        }
    }
}

impl Program {
    /// Runs the command that the arguments and the environment name. Exit status: 0 after a signal, 1 after a failure, 2
    /// for wrong settings.
    pub fn main(&'static self) -> ExitCode {
        let env = match first_steps() {
            Ok(env) => env,
            Err(error) => {
                complain(&format!("error: the signals of the process: {error}"));
                return ExitCode::FAILURE;
            }
        };
        let invocation = self.parse(std::env::args_os(), env);
        if !matches!(invocation, Ok(Invocation::Run(..))) {
            default_signals();
        }
        match invocation {
            Ok(Invocation::Run(gateway, checked)) => gateway_exit(gateway.run(&checked)),
            Ok(Invocation::Print(print, checked)) => {
                gateway_exit((print.text)(&checked).map(|text| show(text.trim_end())))
            }
            Ok(Invocation::Check(command)) => check_exit(&command.run()),
            Ok(Invocation::Health(check)) => command_exit(check.run()),
            Ok(Invocation::Token(command)) => command_exit(command.run().map(|text| show(&text))),
            Ok(Invocation::Tail(command)) => command_exit(command.run()),
            Ok(Invocation::Top(command)) => command_exit(command.run()),
            Ok(Invocation::Disconnect(command)) => command_exit(command.run()),
            Ok(Invocation::Publish(command)) => command_exit(command.run().map(|text| show(&text))),
            Ok(Invocation::Write(files)) => command_exit(files.write()),
            Ok(Invocation::Show(text)) => {
                show_styled(text.trim_end());
                ExitCode::SUCCESS
            }
            Err(exit) => {
                let text = exit.text.trim_end();
                match exit.status {
                    0 => show_styled(text),
                    _ => complain_styled(text),
                }
                ExitCode::from(exit.status)
            }
        }
    }

    /// Parses the arguments, of which the first is the program's name, and the environment.
    ///
    /// # Errors
    /// Help was requested, or something is wrong: the text to show, and the exit status.
    pub(crate) fn parse<A: Into<OsString>>(
        &'static self,
        args: impl IntoIterator<Item = A>,
        env: Env,
    ) -> Result<Invocation, Exit> {
        let args = args.into_iter().map(Into::into).collect();
        let args = self.with_subcommand(args, &env)?;
        let matches = in_columns(command(self, For::arguments(&args)))
            .try_get_matches_from(&args)
            .map_err(|error| self.refused(error, &args))?;
        match matches.subcommand() {
            Some(("health", matches)) => health::read(self, matches, &env).map(Invocation::Health),
            Some(("token", matches)) => {
                let command = token::read(self, matches, &env)?;
                Ok(Invocation::Token(Box::new(command)))
            }
            Some(("tail", matches)) => {
                let command = tail::line::read(self, matches, &env)?;
                Ok(Invocation::Tail(Box::new(command)))
            }
            Some(("top", matches)) => {
                let command = top::read(self, matches, &env)?;
                Ok(Invocation::Top(Box::new(command)))
            }
            Some(("disconnect", matches)) => {
                let command = disconnect::read(self, matches, &env)?;
                Ok(Invocation::Disconnect(Box::new(command)))
            }
            Some(("publish", matches)) => {
                let command = publish::line::read(matches, &env)?;
                Ok(Invocation::Publish(Box::new(command)))
            }
            Some(("version", matches)) => Ok(Invocation::Show(match matches.get_flag("json") {
                true => version_json(self),
                false => version_text(self),
            })),
            Some(("completions", matches)) => self.completions(matches),
            Some(("man", matches)) => self.man(matches),
            Some((name, matches)) => match self.gateway(name) {
                Some(gateway) => self.gateway_invocation(gateway, matches, &env),
                None => Err(Exit::wrong_use(&format!("no such command: {name}"))),
            },
            None => Err(Exit::wrong_use("no command")),
        }
    }

    /// If the subcommand is missing, inserts it before the flags: the value of `WEIRGATE_GATEWAY`, or else the only
    /// gateway.
    fn with_subcommand(&self, mut args: Vec<OsString>, env: &Env) -> Result<Vec<OsString>, Exit> {
        let first = args.get(1).map(|arg| arg.to_string_lossy());
        // A command line without arguments counts as one with flags only.
        let first = first.as_deref().unwrap_or("-");
        // With a single gateway, `-h` means the help of that gateway.
        let of_root = match self.gateways {
            [_] => ["-V", "--version"].contains(&first),
            _ => ["-h", "--help", "-V", "--version"].contains(&first),
        };
        if !first.starts_with('-') || of_root {
            return Ok(args);
        }
        let named = self
            .env_gateway(env)
            .map_err(|error| Exit::settings(&[error], 2))?;
        let only = match self.gateways {
            [only] => Some(only),
            _ => None,
        };
        if let Some(gateway) = named.or(only) {
            // Behind the program's name, if there is one.
            let at = args.len().min(1);
            args.insert(at, gateway.name.into());
        }
        Ok(args)
    }

    /// The gateway of this command line, of which the first argument is the program's name, and the gateway's arguments.
    /// `None` for another command, or wrong arguments.
    fn gateway_of(
        &'static self,
        args: Vec<OsString>,
        env: &Env,
    ) -> Option<(&'static GatewayKind, ArgMatches)> {
        args.first()?;
        let args = self.with_subcommand(args, env).ok()?;
        let matches = command(self, For::Arguments).try_get_matches_from(args);
        let (name, matches) = matches.ok()?.remove_subcommand()?;
        Some((self.gateway(&name)?, matches))
    }

    /// What the arguments of a gateway ask for: its run, a check of its settings, or something to print.
    fn gateway_invocation(
        &self,
        gateway: &GatewayKind,
        matches: &ArgMatches,
        env: &Env,
    ) -> Result<Invocation, Exit> {
        let checked = self.checked(gateway.rows.settings(), matches, env, gateway.check);
        let options = CheckOptions::of(matches);
        let is_json = options
            .as_ref()
            .is_some_and(|o| o.format == CheckFormat::Json);
        let checked = match checked {
            // As JSON, the errors are a part of the check's outcome.
            Err(errors) if !is_json => return Err(Exit::settings(&errors, 2)),
            checked => checked.map(Box::new),
        };
        if let Some(options) = options {
            return Ok(Invocation::Check(Box::new(CheckCommand {
                words: self.words(gateway),
                gateway: *gateway,
                settings: checked,
                options,
            })));
        }
        let checked = checked.map_err(|errors| Exit::settings(&errors, 2))?;
        let asked_for = |print: &&Print| matches.get_flag(print.flag);
        Ok(match gateway.prints.iter().find(asked_for) {
            Some(print) => Invocation::Print(*print, checked),
            None => Invocation::Run(*gateway, checked),
        })
    }

    fn completions(&self, matches: &ArgMatches) -> Result<Invocation, Exit> {
        let shell = flag(matches, "shell").unwrap_or_default();
        let text = pages::completions(self, &shell);
        let text = text.ok_or_else(|| Exit::wrong_use("no such shell"))?;
        Ok(Invocation::Show(text))
    }

    fn man(&self, matches: &ArgMatches) -> Result<Invocation, Exit> {
        if let Some(dir) = flag(matches, "dir") {
            return Ok(Invocation::Write(pages::files(self, dir.as_ref())));
        }
        let name = flag(matches, "page").unwrap_or_default();
        Ok(Invocation::Show(pages::page(self, &name)?))
    }
}

/// The width of help that nobody gives a width to: a pipe, a file.
const PIPE_COLUMNS: usize = 80;

/// Sets the width of help. That of a terminal and `COLUMNS` are read by clap; without both it would take 100 columns.
fn in_columns(command: Command) -> Command {
    let is_terminal =
        io::stdout().is_terminal() || io::stderr().is_terminal() || io::stdin().is_terminal();
    match is_terminal || env::var_os("COLUMNS").is_some() {
        true => command,
        false => command.term_width(PIPE_COLUMNS),
    }
}

/// The whole command line.
fn command(program: &Program, made_for: For) -> Command {
    let root = Command::new(program.name)
        .about(program.about)
        .version(version_line())
        .after_help(program.start_with)
        .max_term_width(100)
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand_value_name("COMMAND")
        .subcommand_help_heading("Commands");
    let gateways = program.gateways.iter().enumerate();
    let root = gateways.fold(root, |root, (at, kind)| {
        // 0, so that the most used gateway comes first.
        let rank = if kind.name == program.most_used {
            0
        } else {
            at + 1
        };
        root.subcommand(gateway_command(program, kind, made_for).display_order(rank))
    });
    root.subcommand(health::command(program, made_for))
        .subcommand(token::command(program, made_for))
        .subcommand(tail::line::command(program, made_for))
        .subcommand(top::command(program, made_for))
        .subcommand(disconnect::command(program, made_for))
        .subcommand(publish::line::command())
        .subcommand(version_command())
        .subcommand(pages::completions_command())
        .subcommand(pages::man_command(program))
}

/// Returns the subcommand of a gateway, with all of its flags. `--help` describes all of them, `-h` only a few.
fn gateway_command(program: &Program, kind: &GatewayKind, made_for: For) -> Command {
    let mut rows = kind.rows.settings();
    rows.retain(Setting::is_flag);
    let shown = rows.iter().filter(|row| row.in_short_help).count();
    let words = program.words(kind);
    let short = format!(
        "{shown} of {} settings. {words} --help has all, in groups, with their environment names.",
        rows.len(),
    );
    Command::new(kind.name)
        .about(kind.about)
        .after_help(short)
        .after_long_help(format!("{}{SOURCES}", env_only(kind)))
        .args_override_self(true)
        .args(check::args())
        .args(kind.prints.iter().map(|p: &Print| switch(p.flag, p.help)))
        .args(in_order(&rows, made_for).map(|row| of_gateway(row, made_for)))
}

/// The lines of `--help` about settings that only the environment has: names of the replaced gateway.
fn env_only(kind: &GatewayKind) -> String {
    let rows = kind.rows.settings().into_iter();
    let rows = rows.filter(|row| row.given == Given::OriginalEnv);
    let lines = rows.map(|row| {
        format!(
            "  {:28}{}\n",
            row.name(),
            with_default(row.help.to_owned(), &row)
        )
    });
    let lines: String = lines.collect();
    match lines.is_empty() {
        true => lines,
        false => format!("Only in the environment:\n{lines}\n"),
    }
}

/// The rows in the order of the help. `-h` begins with the rows that [lead](Setting::leads_short_help).
fn in_order(rows: &[Setting], made_for: For) -> impl Iterator<Item = &Setting> {
    let leads = move |row: &&Setting| made_for == For::ShortHelp && row.leads_short_help;
    let others = rows.iter().filter(move |row| !leads(row));
    rows.iter().filter(leads).chain(others)
}

/// The flag of a gateway's setting. `-h` shows only some of them.
fn of_gateway(setting: &Setting, made_for: For) -> Arg {
    let line = with_default(setting.help.to_owned(), setting);
    let arg = arg(setting, made_for).help(line);
    let arg = arg.hide_short_help(!setting.in_short_help);
    if made_for != For::ShortHelp {
        return arg;
    }
    // In `-h` only the first of several forms, so that the column of flags stays narrow.
    let placeholder = setting.kind.placeholder();
    let first = match setting.kind {
        Kind::Form(_) => placeholder.split(['|', '[']).next(),
        _ => None,
    };
    arg.help_heading("Settings")
        .value_name(first.map_or_else(|| placeholder.clone(), str::to_owned))
}

fn version_command() -> Command {
    let json = "Show the same as a JSON object";
    Command::new("version")
        .about("Show version, commit, target, compiler and features")
        .arg(switch("json", json))
}
