//! The flags of `weirgate top`.

use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};

use super::TopCommand;
use super::target::Target;
use crate::commands::args::{For, arg, switch, value};
use crate::commands::program::Exit;
use crate::run::Program;
use crate::settings::typed::Env;
use crate::settings::{Rows, Setting};

/// The setting of `weirgate top` from a gateway.
const TAKES: &str = "admin-addr";
/// The most processes: each has a line and a thread.
pub(super) const TARGETS_MAX: usize = 32;
const AFTER: &str = "\
Keys: q ends, Tab and 1 to 5 choose the table, s sorts, p pauses, + and - change the interval,
arrows choose the process. Without a terminal, and if TERM is dumb, --once is implied. Exit status:
0; with --once 1 if a process did not answer; 2 without an address.";

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
    let urls = Arg::new("target")
        .value_name("URL")
        .action(ArgAction::Append)
        .num_args(0..);
    let authorities =
        "PEM file with the certificates to trust for https:// [default: the system's]";
    Command::new("top")
        .about("Show running gateways: rates, slow clients, limits; live in the terminal")
        .after_help(format!("{examples}\n\n{AFTER}"))
        .args_override_self(true)
        .arg(urls.help("Admin addresses: http://HOST:PORT, HOST:PORT or unix:PATH"))
        .arg(switch("once", "Print one plain table and end"))
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
        .arg(value("ca-file", "FILE", authorities).value_parser(value_parser!(PathBuf)))
        .args(rows().iter().map(|row| arg(row, made_for)))
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
    let checked = program.checked(rows(), matches, env, |_| Vec::new());
    let checked = checked.map_err(|errors| Exit::settings(&errors, 2))?;
    let typed = matches.get_many::<String>("target").unwrap_or_default();
    let parsed: Result<Vec<Target>, String> = typed.map(|text| Target::parse(text)).collect();
    let mut targets = parsed?;
    if targets.is_empty() {
        targets.extend(checked.admin_addr().as_ref().map(Target::here));
    }
    let name = program.name;
    match targets.len() {
        0 => Err(Exit::from(format!(
            "no address to ask: start the gateway with --admin-addr 127.0.0.1:9100, then use \
             {name} top 127.0.0.1:9100"
        ))),
        n if n > TARGETS_MAX => {
            Err(format!("{n} addresses; allowed: at most {TARGETS_MAX}").into())
        }
        _ => Ok(TopCommand {
            targets,
            is_once: matches.get_flag("once"),
            interval_ms: matches.get_one("interval-ms").copied().unwrap_or(1_000),
            ca_file: matches.get_one("ca-file").cloned(),
            authorization: checked.secret("authorization"),
        }),
    }
}
