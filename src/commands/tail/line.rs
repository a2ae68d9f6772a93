//! The flags of `weirgate tail`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};

use super::{Style, TailCommand, Target};
use crate::commands::args::{For, arg, flag, switch, value};
use crate::commands::program::Exit;
use crate::commands::{Dialect, GatewayKind, Program};
use weirgate_bus::redis::RedisEndpoint;
use weirgate_server::flag as known;
use weirgate_server::settings::Env;
use weirgate_server::settings::{Checked, ListenSettings, Rows, Setting};

/// The settings of `weirgate tail` from the gateway.
const TAKES: [&str; 2] = [known!("listen"), known!("port")];
const AFTER: &str = "\
A gateway of this machine is found by its name, at the address and the port that it reads from the same env. Messages go \
to standard output, one on each line; the state of the connection goes to standard error.

Exit status: 0 after --count messages, after --timeout-s without --count, after Ctrl-C, and if standard output is \
closed; 1 if the connection ends or fails, and if --count messages are not there within --timeout-s.";

/// The rows of `weirgate tail`, for this gateway; `None`: those that every gateway has.
fn rows(gateway: Option<&GatewayKind>) -> Vec<Setting> {
    let rows = gateway.map_or(Rows::EVERY, |kind| kind.rows).settings();
    let taken = rows.into_iter().filter(|row| TAKES.contains(&row.flag));
    let taken = taken.map(|row| match row.flag {
        "listen" => row
            .help("Address that the gateway listens on, or unix:PATH")
            .more(""),
        _ => row.help("Port that the gateway listens on").more(""),
    });
    taken.chain(Rows::TAIL.settings()).collect()
}

/// The subcommand.
pub(in crate::commands) fn command(program: &Program, made_for: For) -> Command {
    let names = program.names(", ");
    let of_gateway = |row: &Setting| match TAKES.contains(&row.flag) {
        // The defaults differ between gateways.
        true => arg(&row.original_env(&[]), made_for).help(row.help),
        false => arg(row, made_for),
    };
    Command::new("tail")
        .about("Print what a gateway sends: a WebSocket client in the terminal")
        .after_help(format!("{}\n\n{AFTER}", examples(program)))
        .args_override_self(true)
        .arg(
            Arg::new("target")
                .value_name("GATEWAY|URL")
                .required(true)
                .help(format!(
                    "A gateway of this machine ({names}), or ws://HOST:PORT/PATH"
                )),
        )
        .args(own(program))
        .args(rows(program.gateways.first()).iter().map(of_gateway))
}

/// An example of each use, with the gateways of this program.
fn examples(program: &Program) -> String {
    let name = program.name;
    let mut text = "Examples:".to_owned();
    if let Some(first) = program.gateways.first() {
        text += &format!("\n  {name} tail {} --count 1 --pretty", first.name);
    }
    for (kind, dialect) in subscribed(program) {
        text += &format!("\n  {name} tail {kind} --subscribe {}", dialect.example);
    }
    text + &format!("\n  {name} tail wss://HOST/PATH --rate > /dev/null")
}

/// The gateways with subscriptions.
fn subscribed(program: &Program) -> impl Iterator<Item = (&'static str, Dialect)> {
    let kinds = program.gateways.iter();
    let kinds = kinds.filter(|kind| !kind.dialect.names.is_empty());
    kinds.map(|kind| (kind.name, kind.dialect))
}

/// The flags beside the settings.
fn own(program: &Program) -> [Arg; 9] {
    let names = subscribed(program).map(|(kind, dialect)| format!("{} ({kind})", dialect.names));
    let names = names.collect::<Vec<_>>().join(", ");
    let sent = "Message to send after the subscriptions; repeatable";
    let raw = "Print each message as it came, and greetings and responses of the gateway too";
    let authorities = "PEM file with the certificates to trust for wss:// [default: the system's]";
    [
        value(
            "subscribe",
            "NAME",
            format!("What to subscribe to; repeatable: {names}"),
        )
        .num_args(1..)
        .action(ArgAction::Append),
        value("send", "TEXT", sent).action(ArgAction::Append),
        value("count", "N", "End with status 0 after N messages")
            .value_parser(value_parser!(u64).range(1..)),
        value("timeout-s", "S", "End after S seconds")
            .alias("timeout")
            .value_parser(value_parser!(u32).range(1..)),
        switch("reconnect", "Connect again after the end of a connection"),
        switch("pretty", "Print JSON over several lines, indented"),
        switch("raw", raw).conflicts_with("pretty"),
        switch(
            "rate",
            "Print messages and bytes per second on standard error",
        ),
        value("ca-file", "FILE", authorities).value_parser(value_parser!(PathBuf)),
    ]
}

/// Reads the arguments of `weirgate tail`.
///
/// # Errors
/// The error in the arguments, for the user.
pub(in crate::commands) fn read(
    program: &Program,
    matches: &ArgMatches,
    env: &Env,
) -> Result<TailCommand, Exit> {
    let gateway = flag(matches, "target").and_then(|name| program.gateway(&name));
    // The listener's settings count for a gateway of this machine only. PORT is a name that other programs set too.
    let rows = match gateway {
        Some(kind) => rows(Some(kind)),
        None => Rows::TAIL.settings(),
    };
    // No gateway starts, so there is no check of its own.
    let checked = program.checked(rows, matches, env, |_| Vec::new());
    let checked = checked.map_err(|errors| Exit::settings(&errors, 2))?;
    let target = target(program, matches, gateway, &checked)?;
    let many = |name: &str| matches.get_many::<String>(name).unwrap_or_default();
    let subscribe: Vec<String> = many("subscribe").cloned().collect();
    if let Some(kind) =
        gateway.filter(|kind| kind.dialect.names.is_empty() && !subscribe.is_empty())
    {
        let name = kind.name;
        let error = format!("{name} sends everything by itself: leave --subscribe out");
        return Err(error.into());
    }
    let is_on = |name: &str| matches.get_flag(name);
    let timeout_s: Option<u32> = matches.get_one("timeout-s").copied();
    Ok(TailCommand {
        target,
        dialect: gateway.map(|kind| kind.dialect),
        known: program
            .gateways
            .iter()
            .map(|kind| (kind.name, kind.dialect))
            .collect(),
        subscribe,
        send: many("send").cloned().collect(),
        token: checked.tail_token(),
        ca_file: matches.get_one("ca-file").cloned(),
        style: match (is_on("pretty"), is_on("raw")) {
            (true, _) => Style::Pretty,
            (_, true) => Style::Raw,
            _ => Style::Line,
        },
        rate: is_on("rate"),
        count: matches.get_one("count").copied(),
        timeout: timeout_s.map(|s| Duration::from_secs(s.into())),
        reconnect: is_on("reconnect"),
    })
}

/// Returns the target of the connection.
fn target(
    program: &Program,
    matches: &ArgMatches,
    gateway: Option<&GatewayKind>,
    checked: &Checked,
) -> Result<Target, String> {
    let text = flag(matches, "target").unwrap_or_default();
    match gateway {
        Some(kind) => match checked.get::<ListenSettings>().addrs() {
            addrs if addrs.is_empty() => Err(format!(
                "{0} has no port without TLS here: give the URL, wss://HOST:PORT{1}",
                kind.name, kind.dialect.path
            )),
            addrs => Ok(Target::here(&addrs, kind.dialect.path)),
        },
        None if !text.contains(['.', ':', '/']) => {
            let names = program.names(", ");
            Err(format!(
                "{text:?} is neither a gateway ({names}) nor a URL such as ws://HOST:PORT/PATH"
            ))
        }
        None => match text.split_once("://") {
            Some((scheme, _))
                if ["nats", "tls"].contains(&scheme) || RedisEndpoint::has_scheme(scheme) =>
            {
                Err(
                    "the URL is that of a broker; tail connects to a gateway, for example \
                     ws://HOST:8000/ws"
                        .to_owned(),
                )
            }
            _ => Target::parse(&text, "--token"),
        },
    }
}
