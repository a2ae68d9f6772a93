//! The command line of a program: from arguments to an invocation and the exit status.
//!
//! A [`Program`] is a list of gateways. Its subcommands, `--help`, `--check`, the environment name
//! `WEIRGATE_GATEWAY`, `health` and `token` are made from the list. Called by `main`.

mod args;
pub mod check;
pub mod health;
mod line;
pub mod pages;
mod program;
pub mod publish;
pub mod tail;
pub mod token;
pub mod top;

use std::ffi::OsString;
use std::fmt::Display;
use std::process::ExitCode;

use clap::ArgMatches;

use self::args::{For, flag};
use self::check::{CheckCommand, CheckFormat, CheckOptions, Outcome};
use self::health::HealthCheck;
use self::line::{command, health_rows, inspect_rows};
use self::pages::PageFiles;
pub use self::program::Exit;
use self::program::{complain, show, version_json, version_text};
use self::publish::PublishCommand;
use self::tail::TailCommand;
use self::token::{Claims, TokenAction, TokenCommand};
use self::top::TopCommand;
use crate::auth::Token;
use crate::run::{GatewayKind, Print, Program, RunError};
use crate::settings::typed::Env;
use crate::settings::{Checked, Kind, SettingsError};
use crate::telemetry::logging;

/// The action of a command line.
#[derive(Debug)]
pub enum Invocation {
    /// Run a gateway with these settings.
    Run(GatewayKind, Box<Checked>),
    /// Print a text of a gateway with these settings, and exit.
    Print(Print, Box<Checked>),
    /// Check the settings of a gateway, and the files in the settings.
    Check(Box<CheckCommand>),
    /// Print this text, and exit with 0.
    Show(String),
    /// Ask a running gateway for its health.
    Health(HealthCheck),
    /// Make or inspect a token.
    Token(Box<TokenCommand>),
    /// Print the messages of a gateway.
    Tail(Box<TailCommand>),
    /// Show running gateways.
    Top(Box<TopCommand>),
    /// Publish on a bus.
    Publish(Box<PublishCommand>),
    /// Write manual pages.
    Write(PageFiles),
}

/// Runs the command of the process's arguments and environment. The status: 0 after a signal, 1 after a
/// failure, 2 for wrong settings.
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
    // The last lines have the reason of the end.
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

impl Program {
    /// Reads arguments (the program's name first) and environment.
    ///
    /// # Errors
    /// Help was requested, or something is wrong: the text to show, and the exit status.
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
            Some(("tail", matches)) => {
                let command = tail::line::read(self, matches, &env)?;
                Ok(Invocation::Tail(Box::new(command)))
            }
            Some(("top", matches)) => {
                let command = top::line::read(self, matches, &env)?;
                Ok(Invocation::Top(Box::new(command)))
            }
            Some(("publish", matches)) => {
                let command = publish::line::read(matches).map_err(|e| Exit::wrong_use(&e))?;
                Ok(Invocation::Publish(Box::new(command)))
            }
            Some(("version", matches)) => Ok(Invocation::Show(match matches.get_flag("json") {
                true => version_json(self),
                false => version_text(self),
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

    /// Inserts a missing subcommand before the flags: the value of `WEIRGATE_GATEWAY`, or the only gateway.
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
        // The warnings are in the gateway's log already.
        let checked = self.checked(rows, matches, env, |_| Vec::new());
        let checked = checked.map_err(|errors| Exit::settings(&errors, 1))?;
        let check = HealthCheck::of(&checked);
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
        // The warnings belong to the gateway.
        let checked = self.checked(inspect_rows(gateway), matches, env, |_| Vec::new());
        let checked = checked.map_err(|errors| Exit::settings(&errors, 2))?;
        let action = match name {
            "mint" => TokenAction::Mint(Claims {
                role: flag(matches, "role"),
                user: flag(matches, "user"),
                channels: matches
                    .get_many("channel")
                    .map_or_else(Vec::new, |names| names.cloned().collect()),
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

    /// Returns the gateway that `weirgate token inspect` simulates.
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
}
