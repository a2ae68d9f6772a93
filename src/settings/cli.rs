//! From arguments and environment to what is to be done.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

use clap::ArgMatches;
use clap::error::ErrorKind;

use super::command::{HEALTH_TAKES, command, flag, version};
use super::error::{SettingsError, Warning};
use super::kind::Kind;
use super::resolved::{
    ChannelsSettings, Checked, DemoSettings, EventsSettings, LevelsSettings, TradesSettings,
};
use super::setting::{Setting, Subcommand};
use super::typed::{Env, GATEWAY_ENV, collect, rows};
use crate::auth::Token;
use crate::health_check::HealthCheck;
use crate::token_command::{Claims, TokenAction, TokenCommand};

/// What is to be done.
#[derive(Debug)]
pub enum Invocation {
    /// Run the levels gateway.
    Levels(Box<LevelsSettings>),
    /// Run the trades gateway.
    Trades(Box<TradesSettings>),
    /// Run the channels gateway.
    Channels(Box<ChannelsSettings>),
    /// Run the events gateway.
    Events(Box<EventsSettings>),
    /// Run the demo.
    Demo(Box<DemoSettings>),
    /// Show the table of this file, or the built-in one.
    PrintAcl(Option<PathBuf>),
    /// Show the checked settings, and exit with 0.
    Check(String),
    /// Show the version, and exit with 0.
    Version(String),
    /// Ask a running gateway for its health.
    Health(HealthCheck),
    /// Make or judge a token.
    Token(Box<TokenCommand>),
}

/// The end of the process, without anything having been started.
#[derive(Debug, PartialEq, Eq)]
pub struct Exit {
    /// The exit status: 0 for help, 2 for wrong use or wrong settings. Wrong settings of `health`
    /// are 1: to a container's health check 2 means nothing.
    pub status: u8,
    /// What to show: on standard output with status 0, else on standard error.
    pub text: String,
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Reads arguments (the program's name first) and environment.
///
/// # Errors
/// Help was asked for, or something is wrong: what to show, and the exit status.
pub fn parse<A, K, V>(
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
    let args = with_subcommand(args, &env)?;
    let matches = command()
        .try_get_matches_from(&args)
        .map_err(|error| Exit::from_clap(&error, &args))?;
    match matches.subcommand() {
        Some(("health", matches)) => health(matches, &env),
        Some(("token", matches)) => token(matches, &env),
        Some(("version", _)) => Ok(Invocation::Version(format!("weirgate {}", version()))),
        Some((name, matches)) => match Subcommand::gateway(name) {
            Some(subcommand) => gateway(subcommand, matches, &env),
            None => Err(Exit::wrong_use(&format!("no such command: {name}"))),
        },
        None => Err(Exit::wrong_use("no command")),
    }
}

/// Puts the subcommand that `WEIRGATE_GATEWAY` names before the flags, where none is typed.
fn with_subcommand(mut args: Vec<OsString>, env: &Env) -> Result<Vec<OsString>, Exit> {
    let first = args.get(1).map(|arg| arg.to_string_lossy());
    let of_root = ["-h", "--help", "-V", "--version"];
    let typed = first.is_some_and(|a| !a.starts_with('-') || of_root.contains(&a.as_ref()));
    if !typed && let Some(subcommand) = env_gateway(env).map_err(|e| Exit::settings(&[e], 2))? {
        let at = args.len().min(1);
        args.insert(at, subcommand.name().into());
    }
    Ok(args)
}

fn env_gateway(env: &Env) -> Result<Option<Subcommand>, SettingsError> {
    env.value(GATEWAY_ENV)?
        .map(|value| named_gateway(GATEWAY_ENV, value))
        .transpose()
}

fn named_gateway(name: &str, value: &str) -> Result<Subcommand, SettingsError> {
    Subcommand::gateway(value.trim()).ok_or_else(|| SettingsError::Value {
        name: name.to_owned(),
        value: Kind::Text.shown_when_wrong(value),
        allowed: Subcommand::GATEWAYS.map(Subcommand::name).join(" or "),
    })
}

fn gateway(subcommand: Subcommand, matches: &ArgMatches, env: &Env) -> Result<Invocation, Exit> {
    let (checked, warnings) = checked(rows(subcommand), matches, env, 2)?;
    if matches.get_flag("check") {
        return Ok(Invocation::Check(report(subcommand, &checked, &warnings)));
    }
    if subcommand == Subcommand::Channels && matches.get_flag("print-acl") {
        return Ok(Invocation::PrintAcl(checked.acl_file()));
    }
    Ok(match subcommand {
        Subcommand::Trades => Invocation::Trades(Box::new(checked.trades(warnings))),
        Subcommand::Channels => Invocation::Channels(Box::new(checked.channels(warnings))),
        Subcommand::Events => Invocation::Events(Box::new(checked.events(warnings))),
        Subcommand::Demo => Invocation::Demo(Box::new(checked.demo(warnings))),
        _ => Invocation::Levels(Box::new(checked.levels(warnings))),
    })
}

fn health(matches: &ArgMatches, env: &Env) -> Result<Invocation, Exit> {
    let of = match matches.get_one::<String>("gateway") {
        Some(name) => named_gateway("GATEWAY", name).map(Some),
        None => env_gateway(env),
    };
    let of = of.map_err(|error| Exit::settings(&[error], 1))?;
    let of = rows(of.unwrap_or(Subcommand::Levels)).filter(|s| HEALTH_TAKES.contains(&s.flag));
    // Its warnings are the gateway's own, and are in its log already.
    let (checked, _) = checked(of.chain(rows(Subcommand::Health)), matches, env, 1)?;
    let check = HealthCheck::new(checked.listen(), checked.health_timeout_ms());
    Ok(Invocation::Health(check))
}

fn token(matches: &ArgMatches, env: &Env) -> Result<Invocation, Exit> {
    let Some((name, matches)) = matches.subcommand() else {
        return Err(Exit::wrong_use("no command of token"));
    };
    // Its warnings are the gateway's own.
    let (checked, _) = checked(rows(Subcommand::Token), matches, env, 2)?;
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
    Ok(Invocation::Token(Box::new(TokenCommand { action, auth })))
}

fn checked(
    rows: impl Iterator<Item = &'static Setting>,
    matches: &ArgMatches,
    env: &Env,
    status: u8,
) -> Result<(Checked, Vec<Warning>), Exit> {
    let mut warnings = env.unknown_names();
    let checked = collect(rows, |name| flag(matches, name), env, &mut warnings)
        .and_then(Checked::new)
        .map_err(|errors| Exit::settings(&errors, status))?;
    Ok((checked, warnings))
}

/// What `--check` shows: a line for each setting, with its value and where that came from.
fn report(subcommand: Subcommand, checked: &Checked, warnings: &[Warning]) -> String {
    let values: Vec<_> = checked
        .values()
        .iter()
        .map(|v| (v.setting.flag, v.value.to_string(), &v.source))
        .collect();
    let flag_width = values.iter().map(|v| v.0.len()).max().unwrap_or(0);
    let value_width = values
        .iter()
        .map(|v| v.1.chars().count())
        .max()
        .unwrap_or(0);
    let mut text = format!("weirgate {}: the settings are good\n", subcommand.name());
    for (flag, value, source) in values {
        text += &format!("  --{flag:flag_width$}  {value:value_width$}  {source}\n");
    }
    for warning in warnings {
        text += &format!("warning: {warning}\n");
    }
    text
}

impl Exit {
    /// The parser repeats what it does not know, and that may be a URL or a token in the wrong
    /// place: of arguments with an `@`, or that begin as each JWT does, nothing is shown.
    fn from_clap(error: &clap::Error, args: &[OsString]) -> Self {
        let mut text = error.to_string();
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
