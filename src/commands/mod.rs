//! The command line of a program: what was typed, what is to be done, and the exit status.
//!
//! A [`Program`] is a list of gateways; its subcommands, `--help`, `--check`, the environment name
//! `WEIRGATE_GATEWAY`, `health` and `token` are made from the list. Called by `main`.

pub mod check;
pub mod health;
mod line;
pub mod pages;
pub mod publish;
mod secret_flag;
pub mod tail;
pub mod token;
pub mod top;
mod url_host;
mod version;

use std::ffi::OsString;
use std::fmt::{self, Display};
use std::io::Write;
use std::process::ExitCode;

use clap::ArgMatches;
use clap::error::{ContextKind, ContextValue, ErrorKind};

use self::check::{CheckCommand, CheckFormat, CheckOptions, Outcome};
use self::health::HealthCheck;
use self::line::{For, command, flag, health_rows, inspect_rows};
use self::pages::PageFiles;
use self::publish::PublishCommand;
use self::tail::TailCommand;
use self::token::{Claims, TokenAction, TokenCommand};
use self::top::TopCommand;
use crate::auth::Token;
use crate::run::{GatewayKind, Print, RunError, TokenUse};
use crate::settings::typed::{Env, GATEWAY_ENV, collect};
use crate::settings::{Check, Checked, Kind, Rows, Setting, SettingsError};
use crate::telemetry::logging;

/// A program: its words, and its gateways.
#[derive(Clone, Copy, Debug)]
pub struct Program {
    /// Its name on the command line.
    pub name: &'static str,
    /// One line for `--help`.
    pub about: &'static str,
    /// What `--help` ends with.
    pub start_with: &'static str,
    /// What it can run, in the order of `--help`; not empty. `health` asks the first where none is
    /// named. Where there is only one, its subcommand need not be typed.
    pub gateways: &'static [GatewayKind],
}

/// What is to be done.
#[derive(Debug)]
pub enum Invocation {
    /// Run a gateway with these settings.
    Run(GatewayKind, Box<Checked>),
    /// Show something of a gateway with these settings, and exit.
    Print(Print, Box<Checked>),
    /// Check the settings of a gateway, and what they name.
    Check(Box<CheckCommand>),
    /// Show this, and exit with 0.
    Show(String),
    /// Ask a running gateway for its health.
    Health(HealthCheck),
    /// Make or judge a token.
    Token(Box<TokenCommand>),
    /// Print what a gateway sends.
    Tail(Box<TailCommand>),
    /// Show running gateways.
    Top(Box<TopCommand>),
    /// Publish on a bus.
    Publish(Box<PublishCommand>),
    /// Write manual pages.
    Write(PageFiles),
}

/// The end of the process, without anything having been started.
#[derive(Debug, PartialEq, Eq)]
pub struct Exit {
    /// The exit status: 0 for help, 2 for wrong use or wrong settings. Wrong settings of `health`
    /// are 1: to a container's health check 2 means nothing.
    pub status: u8,
    /// What to show: on standard output with status 0, else on standard error. Help has colours.
    pub text: String,
}

impl Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Does what the process's arguments and environment ask for. The status: 0 after a signal, 1 after
/// a failure, 2 for wrong settings.
pub fn main(program: &'static Program) -> ExitCode {
    match program.parse(std::env::args_os(), std::env::vars_os()) {
        Ok(Invocation::Run(gateway, checked)) => ran(gateway.run(&checked)),
        Ok(Invocation::Print(print, checked)) => {
            ran((print.text)(&checked).map(|text| show(text.trim_end())))
        }
        Ok(Invocation::Check(command)) => checked(&command.run()),
        Ok(Invocation::Health(check)) => ended(check.run()),
        Ok(Invocation::Token(command)) => ended(command.run().map(|text| show(&text))),
        Ok(Invocation::Tail(command)) => ended(command.run()),
        Ok(Invocation::Top(command)) => ended(command.run()),
        Ok(Invocation::Publish(command)) => ended(command.run().map(|text| show(&text))),
        Ok(Invocation::Write(files)) => ended(files.write()),
        Ok(Invocation::Show(text)) => {
            show(text.trim_end());
            ExitCode::SUCCESS
        }
        Err(exit) => {
            let text = exit.text.trim_end();
            match exit.status {
                0 => show(text),
                _ => complain(text),
            }
            ExitCode::from(exit.status)
        }
    }
}

fn checked(outcome: &Outcome) -> ExitCode {
    if !outcome.shown.is_empty() {
        show(outcome.shown.trim_end());
    }
    if !outcome.complaints.is_empty() {
        complain(outcome.complaints.trim_end());
    }
    ExitCode::from(outcome.status)
}

fn ran(result: Result<(), RunError>) -> ExitCode {
    // The last lines say how it ended.
    logging::flush();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format!("error: {error}"));
            ExitCode::from(error.exit_status())
        }
    }
}

fn ended<E: Display>(result: Result<(), E>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format!("error: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// A reader that has gone away (`weirgate --help | head -1`) is no failure, and no panic. Colours stay
/// in a terminal that has them, without `NO_COLOR`.
fn show(text: &str) {
    let _ = writeln!(anstream::stdout(), "{text}");
}

fn complain(text: &str) {
    let mut err = anstream::stderr();
    for line in text.lines() {
        // As clap marks its own.
        let _ = match line.strip_prefix("error:") {
            Some(rest) => writeln!(err, "\x1b[1m\x1b[31merror:\x1b[0m{rest}"),
            None => writeln!(err, "{line}"),
        };
    }
}

impl Program {
    /// Reads arguments (the program's name first) and environment.
    ///
    /// # Errors
    /// Help was asked for, or something is wrong: what to show, and the exit status.
    pub fn parse<A, K, V>(
        &'static self,
        args: impl IntoIterator<Item = A>,
        env: impl IntoIterator<Item = (K, V)>,
    ) -> Result<Invocation, Exit>
    where
        A: Into<OsString>,
        K: Into<OsString>,
        V: Into<OsString>,
    {
        let env = Env::new(env);
        let args = args.into_iter().map(Into::into).collect();
        let args = self.with_subcommand(args, &env)?;
        let matches = command(self, For::arguments(&args))
            .try_get_matches_from(&args)
            .map_err(|error| Exit::from_clap(self.with_tip(error), &args))?;
        match matches.subcommand() {
            Some(("health", matches)) => self.health(matches, &env),
            Some(("token", matches)) => self.token(matches, &env),
            Some(("tail", matches)) => self.tail(matches, &env),
            Some(("top", matches)) => self.top(matches, &env),
            Some(("publish", matches)) => {
                let command = publish::line::read(matches).map_err(|e| Exit::wrong_use(&e))?;
                Ok(Invocation::Publish(Box::new(command)))
            }
            Some(("version", matches)) => Ok(Invocation::Show(match matches.get_flag("json") {
                true => version::json(self),
                false => version::text(self),
            })),
            Some(("completions", matches)) => self.completions(matches),
            Some(("man", matches)) => self.man(matches),
            Some((name, matches)) => match self.gateway(name) {
                Some(gateway) => self.run(gateway, matches, &env),
                None => Err(Exit::wrong_use(&format!("no such command: {name}"))),
            },
            None => Err(Exit::wrong_use("no command")),
        }
    }

    /// The gateway of that name.
    pub fn gateway(&self, name: &str) -> Option<&'static GatewayKind> {
        self.gateways.iter().find(|gateway| gateway.name == name)
    }

    /// What is typed to run a gateway.
    fn words(&self, gateway: &GatewayKind) -> String {
        match self.gateways {
            [_] => self.name.to_owned(),
            _ => format!("{} {}", self.name, gateway.name),
        }
    }

    /// Puts the subcommand before the flags, where none is typed: the one that `WEIRGATE_GATEWAY`
    /// names, or the only one.
    fn with_subcommand(&self, mut args: Vec<OsString>, env: &Env) -> Result<Vec<OsString>, Exit> {
        let first = args.get(1).map(|arg| arg.to_string_lossy());
        let first = first.as_deref().unwrap_or("-");
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
            let at = args.len().min(1);
            args.insert(at, gateway.name.into());
        }
        Ok(args)
    }

    /// Tells who typed a setting of another gateway which gateways have the setting.
    fn with_tip(&self, mut error: clap::Error) -> clap::Error {
        let Some(ContextValue::String(arg)) = error.get(ContextKind::InvalidArg) else {
            return error;
        };
        let typed = arg.trim_start_matches("--").to_owned();
        let has = |kind: &&GatewayKind| kind.rows.settings().iter().any(|row| row.flag == typed);
        let of: Vec<_> = self
            .gateways
            .iter()
            .filter(has)
            .map(|kind| kind.name)
            .collect();
        if !of.is_empty() {
            // What only looks like it is not meant.
            error.remove(ContextKind::SuggestedArg);
            error.remove(ContextKind::Usage);
            let tip = format!("--{typed} is a setting of {}", of.join(" and "));
            let tips = ContextValue::StyledStrs(vec![tip.into()]);
            error.insert(ContextKind::Suggested, tips);
        }
        error
    }

    fn env_gateway(&self, env: &Env) -> Result<Option<&'static GatewayKind>, SettingsError> {
        env.value(GATEWAY_ENV)?
            .map(|value| self.named_gateway(GATEWAY_ENV, value))
            .transpose()
    }

    fn named_gateway(
        &self,
        name: &str,
        value: &str,
    ) -> Result<&'static GatewayKind, SettingsError> {
        self.gateway(value.trim())
            .ok_or_else(|| SettingsError::Value {
                name: name.to_owned(),
                value: Kind::Text.shown_when_wrong(value),
                allowed: self.names(" or "),
            })
    }

    /// The gateways' names.
    fn names(&self, between: &str) -> String {
        let names: Vec<_> = self.gateways.iter().map(|gateway| gateway.name).collect();
        names.join(between)
    }

    /// Every row of every command, for names in the environment.
    fn known(&self) -> Vec<Setting> {
        let gateways = self.gateways.iter().map(|gateway| gateway.rows);
        let all = gateways.chain([Rows::TOKEN, Rows::HEALTH, Rows::TAIL, Rows::TOP]);
        all.flat_map(|rows| rows.settings()).collect()
    }

    fn run(
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

    fn health(&self, matches: &ArgMatches, env: &Env) -> Result<Invocation, Exit> {
        let of = match matches.get_one::<String>("gateway") {
            Some(name) => self.named_gateway("GATEWAY", name).map(Some),
            None => self.env_gateway(env),
        };
        let of = of.map_err(|error| Exit::settings(&[error], 1))?;
        let rows = health_rows(of.or_else(|| self.gateways.first()));
        // Its warnings are the gateway's own, and are in its log already.
        let checked = self.checked(rows, matches, env, |_| Vec::new());
        let checked = checked.map_err(|errors| Exit::settings(&errors, 1))?;
        let check = HealthCheck::new(&checked.listen(), checked.number("health-timeout-ms"));
        Ok(Invocation::Health(check))
    }

    fn token(&self, matches: &ArgMatches, env: &Env) -> Result<Invocation, Exit> {
        let Some((name, matches)) = matches.subcommand() else {
            return Err(Exit::wrong_use("no command of token"));
        };
        let gateway = match name {
            "mint" => None,
            _ => self.inspecting(matches, env),
        };
        let gateway = gateway
            .transpose()
            .map_err(|error| Exit::settings(&[error], 2))?;
        // Its warnings are the gateway's own.
        let checked = self.checked(inspect_rows(gateway), matches, env, |_| Vec::new());
        let checked = checked.map_err(|errors| Exit::settings(&errors, 2))?;
        let action = match name {
            "mint" => TokenAction::Mint(Claims {
                role: flag(matches, "role"),
                user: flag(matches, "user"),
                symbols_max: matches.get_one("symbols-max").copied(),
                expires_in_s: matches.get_one("expires-in-s").copied().filter(|s| *s > 0),
            }),
            _ => {
                let token = flag(matches, "token").filter(|token| token != "-");
                TokenAction::Inspect(token.and_then(Token::new))
            }
        };
        let auth = checked.auth();
        let judge = gateway.map(|gateway| (*gateway, checked));
        Ok(Invocation::Token(Box::new(TokenCommand {
            action,
            auth,
            judge,
        })))
    }

    /// The gateway that `weirgate token inspect` speaks for.
    fn inspecting(
        &self,
        matches: &ArgMatches,
        env: &Env,
    ) -> Option<Result<&'static GatewayKind, SettingsError>> {
        let Some(name) = matches.get_one::<String>("gateway") else {
            let named = self.env_gateway(env);
            return match named {
                Err(error) => Some(Err(error)),
                Ok(Some(kind)) if kind.takes_tokens() => Some(Ok(kind)),
                Ok(_) => self.gateway_of_tokens().map(Ok),
            };
        };
        let found = self.with_tokens().find(|kind| kind.name == name.trim());
        Some(found.ok_or_else(|| {
            let names: Vec<_> = self.with_tokens().map(|kind| kind.name).collect();
            SettingsError::Value {
                name: "--gateway".to_owned(),
                value: Kind::Text.shown_when_wrong(name),
                allowed: names.join(" or "),
            }
        }))
    }

    /// The gateways whose clients bring tokens.
    fn with_tokens(&self) -> impl Iterator<Item = &'static GatewayKind> {
        self.gateways.iter().filter(|kind| kind.takes_tokens())
    }

    /// The gateway that a token is for where none is named: the first with a table of roles.
    fn gateway_of_tokens(&self) -> Option<&'static GatewayKind> {
        let with_roles = |kind: &&GatewayKind| matches!(kind.tokens, TokenUse::Roles(_));
        let first = self.with_tokens().next();
        self.with_tokens().find(with_roles).or(first)
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
        let page = pages::page(self, &name).map_err(|error| Exit::wrong_use(&error))?;
        Ok(Invocation::Show(page))
    }

    fn checked(
        &self,
        rows: Vec<Setting>,
        matches: &ArgMatches,
        env: &Env,
        check: Check,
    ) -> Result<Checked, Vec<SettingsError>> {
        let known = self.known();
        let mut warnings = env.unknown_names(&known);
        warnings.extend(env.near_names(&rows, &known));
        let typed = collect(rows, |name| flag(matches, name), env, &mut warnings)?;
        Checked::new(typed, warnings, check)
    }
}

impl Exit {
    /// The parser repeats what it does not know, and that may be a URL or a token in the wrong
    /// place: of arguments with an `@`, or that begin as each JWT does, nothing is shown.
    fn from_clap(error: clap::Error, args: &[OsString]) -> Self {
        let mut text = error.render().ansi().to_string();
        for arg in args.iter().map(|arg| arg.to_string_lossy()) {
            let value = arg.split_once('=').map_or(&*arg, |(_, value)| value);
            if value.contains('@') || value.starts_with("eyJ") {
                text = text.replace(arg.as_ref(), "***").replace(value, "***");
            }
        }
        let status = match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => 0,
            _ => 2,
        };
        Self { status, text }
    }

    fn settings(errors: &[SettingsError], status: u8) -> Self {
        let lines = errors.iter().map(|error| format!("error: {error}\n"));
        Self {
            status,
            text: lines.collect(),
        }
    }

    fn wrong_use(text: &str) -> Self {
        Self {
            status: 2,
            text: format!("error: {text}\n"),
        }
    }
}
