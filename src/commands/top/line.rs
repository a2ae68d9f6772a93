//! The flags of `weirgate top`.

use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use hyper::header::HeaderValue;

use super::TopCommand;
use super::fetch::PATH;
use crate::commands::link::Target;
use crate::commands::program::Exit;
use crate::commands::program::{For, arg, switch, value};
use crate::listening::ListenAddr;
use crate::run::Program;
use crate::settings::typed::Env;
use crate::settings::{ListenSettings, Rows, SecretText, Setting, TopSettings, flag};

/// The setting of `weirgate top` from a gateway.
const TAKES: &str = flag!("admin-addr");
/// The most processes: each has a line and a thread.
pub(super) const TARGETS_MAX: usize = 32;
const AFTER: &str = "\
Ctrl-C ends it. Without a terminal, and if TERM is dumb, --once is implied, unless --json is set.
Exit status: 0; with --once 1 if a process did not answer; 2 without an address.";

/// The rows of `weirgate top`.
fn rows() -> Vec<Setting> {
    let of_gateway = Rows::EVERY.settings().into_iter();
    let taken = of_gateway.filter(|row| row.flag == TAKES).map(|row| {
        row.help("Address of a gateway of this machine, if no URL is given")
            .more("Read as the gateway reads it, from the same env.")
    });
    taken.chain(Rows::TOP.settings()).collect()
}

/// The subcommand.
pub(in crate::commands) fn command(program: &Program, made_for: For) -> Command {
    let name = program.name;
    let examples = format!(
        "Examples:\n  {name} top 127.0.0.1:9100\n  {name} top http://a:9100 http://b:9100\n  \
         {name} top --once unix:/run/weirgate/admin.sock"
    );
    Command::new("top")
        .about("Show running gateways: rates, slow clients, limits; live in the terminal")
        .after_help(format!("{examples}\n\n{AFTER}"))
        .args_override_self(true)
        .arg(switch("once", "Print everything once and end"))
        .arg(switch(
            "json",
            "Print the state of each process as JSON, a line each",
        ))
        .arg(
            value(
                "interval-ms",
                "MS",
                "Time between two readings [default: 1000]",
            )
            .value_parser(value_parser!(u32).range(250..=60_000))
            .default_value("1000")
            .hide_default_value(true),
        )
        .args(address_args(made_for))
}

/// The arguments of a command that asks admin addresses.
pub(in crate::commands) fn address_args(made_for: For) -> impl Iterator<Item = Arg> {
    let urls = Arg::new("target")
        .value_name("URL")
        .action(ArgAction::Append)
        .num_args(0..)
        .help("Admin addresses: http://HOST:PORT, HOST:PORT or unix:PATH");
    let authorities =
        "PEM file with the certificates to trust for https:// [default: the system's]";
    let authorities = value("ca-file", "FILE", authorities).value_parser(value_parser!(PathBuf));
    let rows: Vec<Arg> = rows().iter().map(|row| arg(row, made_for)).collect();
    [urls, authorities].into_iter().chain(rows)
}

/// `weirgate top`, from its arguments.
///
/// # Errors
/// The error in the arguments, for the user.
pub(in crate::commands) fn read(
    program: &Program,
    matches: &ArgMatches,
    env: &Env,
) -> Result<TopCommand, Exit> {
    Ok(TopCommand {
        is_once: matches.get_flag("once"),
        is_json: matches.get_flag("json"),
        interval_ms: matches.get_one("interval-ms").copied().unwrap_or(1_000),
        ..addresses(program, matches, env, ("top", PATH))?
    })
}

/// The admin addresses of a command line, for requests of `path`. `words`: the command, for its errors.
///
/// # Errors
/// The error in the arguments, for the user.
pub(in crate::commands) fn addresses(
    program: &Program,
    matches: &ArgMatches,
    env: &Env,
    (words, path): (&str, &str),
) -> Result<TopCommand, Exit> {
    let checked = program.checked(rows(), matches, env, |_| Vec::new());
    let checked = checked.map_err(|errors| Exit::settings(&errors, 2))?;
    let typed = matches.get_many::<String>("target").unwrap_or_default();
    let parsed: Result<Vec<Target>, String> = typed.map(|text| parse(text, path)).collect();
    let mut targets = parsed?;
    if targets.is_empty() {
        let admin_addr = checked.get::<ListenSettings>().admin_addr;
        targets.extend(admin_addr.map(|addr| here(addr, path)));
    }
    let authorization = checked.get::<TopSettings>().authorization;
    let is_header = |text: &SecretText| HeaderValue::from_str(text.expose()).is_ok();
    if !authorization.as_ref().is_none_or(is_header) {
        return Err("--authorization is not a value of a header"
            .to_owned()
            .into());
    }
    let name = program.name;
    match targets.len() {
        0 => Err(Exit::from(format!(
            "no address to ask: start the gateway with --admin-addr 127.0.0.1:9100, then use \
             {name} {words} 127.0.0.1:9100"
        ))),
        n if n > TARGETS_MAX => {
            Err(format!("{n} addresses; allowed: at most {TARGETS_MAX}").into())
        }
        _ => Ok(TopCommand {
            targets,
            is_once: true,
            is_json: false,
            interval_ms: 1_000,
            ca_file: matches.get_one("ca-file").cloned(),
            authorization,
        }),
    }
}

/// A path of the process of this machine with this admin address.
fn here(addr: ListenAddr, path: &str) -> Target {
    let mut target = Target::here(std::slice::from_ref(&addr), path);
    let mut loopback = addr.to_connect().into_iter();
    target.shown = loopback.next().unwrap_or(addr).to_string();
    target
}

/// Parses `http://HOST:PORT[/PATH]`, `https://…`, `HOST:PORT` or `unix:PATH`.
///
/// # Errors
/// The error, without the URL: the URL may contain a password.
fn parse(text: &str, wanted: &str) -> Result<Target, String> {
    match text.strip_prefix("unix:") {
        Some("") => return Err("unix: needs the path of a socket".to_owned()),
        Some(path) => return Ok(here(ListenAddr::Unix(path.into()), wanted)),
        None => {}
    }
    let mut target = Target::parse(text, "--authorization")?;
    let path = target.path.split('?').next().unwrap_or_default();
    // People copy the address of the operator's page.
    let base = path.trim_end_matches('/').trim_end_matches("/operator");
    let scheme = if target.tls { "https://" } else { "" };
    target.shown = format!("{scheme}{}{base}", target.authority);
    target.path = format!("{base}{wanted}");
    Ok(target)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_a_person_has_them() {
        for (text, shown, base, authority, tls) in [
            ("http://h:9100", "h:9100", "", "h:9100", false),
            ("h:9100", "h:9100", "", "h:9100", false),
            ("h:9100/operator/", "h:9100", "", "h:9100", false),
            ("http://[::1]:9/", "[::1]:9", "", "[::1]:9", false),
            ("HTTPS://h/a/operator?x#y", "https://h/a", "/a", "h", true),
            (
                "unix:/run/a.sock",
                "unix:/run/a.sock",
                "",
                "localhost",
                false,
            ),
        ] {
            let target = parse(text, PATH).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(target.to_string(), shown, "{text}");
            let want = (format!("{base}{PATH}"), authority, tls);
            assert_eq!(
                (target.path, &*target.authority, target.tls),
                want,
                "{text}"
            );
        }
        let all = ListenAddr::from(std::net::SocketAddr::from(([0, 0, 0, 0], 9100)));
        assert_eq!(here(all, PATH).to_string(), "127.0.0.1:9100");
    }

    #[test]
    fn what_is_no_address_is_refused_without_being_repeated() {
        for text in [
            "",
            "ftp://secret",
            "http://u:secret@h",
            "http://",
            "http://h:secret",
            "unix:",
        ] {
            let error = parse(text, PATH).expect_err(text);
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
