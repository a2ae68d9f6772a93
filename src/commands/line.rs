//! The command line, made from the list of gateways and their settings.

use clap::builder::PossibleValuesParser;
use clap::{Arg, ArgAction, Command, ValueHint, value_parser};

use super::args::{For, arg, switch, value, with_default};
use super::program::version_line;
use super::{check, pages};
use crate::run::{GatewayKind, Print, Program};
use crate::settings::typed::GATEWAY_ENV;
use crate::settings::{Kind, Rows, Setting};

/// The settings of `weirgate health` from the checked gateway.
const HEALTH_TAKES: [&str; 7] = [
    "listen",
    "port",
    "tls-port",
    "tls-cert",
    "tls-key",
    "trusted-proxies",
    "proxy-protocol",
];

/// The settings that `weirgate token inspect` takes from its gateway, beside the settings of tokens.
const INSPECT_TAKES: [&str; 6] = [
    "acl",
    "bus",
    "channel-name-bytes-max",
    "channels-max",
    "default-role",
    "symbols-max",
];

const SOURCES: &str = "\
Every flag has an environment name: --log-format is WEIRGATE_LOG_FORMAT, and some have the names in
[env: …] too. Precedence, highest first: flag, [env: …], WEIRGATE_*, default. An empty value is
unset.";

/// The whole command line.
pub(super) fn command(program: &Program, made_for: For) -> Command {
    let root = Command::new(program.name)
        .about(program.about)
        .version(version_line())
        .after_help(program.start_with)
        .max_term_width(100)
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand_value_name("COMMAND")
        .subcommand_help_heading("Commands");
    let gateways = program.gateways.iter();
    let root = gateways.fold(root, |root, kind| {
        root.subcommand(gateway(program, kind, made_for))
    });
    root.subcommand(health(program, made_for))
        .subcommand(token(program, made_for))
        .subcommand(super::tail::line::command(program, made_for))
        .subcommand(super::top::line::command(program, made_for))
        .subcommand(super::publish::line::command())
        .subcommand(version_command())
        .subcommand(completions())
        .subcommand(man(program))
}

fn gateway(program: &Program, kind: &GatewayKind, made_for: For) -> Command {
    let rows = kind.rows.settings();
    let shown = rows.iter().filter(|row| row.in_short_help).count();
    let words = program.words(kind);
    let short = format!(
        "{shown} of {} settings. {words} --help has all, in groups, with their environment names.",
        rows.len(),
    );
    Command::new(kind.name)
        .about(kind.about)
        .after_help(short)
        .after_long_help(SOURCES)
        .args_override_self(true)
        .args(check::args())
        .args(kind.prints.iter().map(|p: &Print| switch(p.flag, p.help)))
        .args(in_order(&rows, made_for).map(|row| of_gateway(row, made_for)))
}

/// The rows in the order of the help: `-h` begins with the rows that lead.
fn in_order(rows: &[Setting], made_for: For) -> impl Iterator<Item = &Setting> {
    let leads = move |row: &&Setting| made_for == For::ShortHelp && row.leads_short_help;
    let others = rows.iter().filter(move |row| !leads(row));
    rows.iter().filter(leads).chain(others)
}

/// A setting of a gateway; `-h` may leave the setting out.
fn of_gateway(setting: &Setting, made_for: For) -> Arg {
    let line = with_default(setting.help.to_owned(), setting);
    let arg = arg(setting, made_for).help(line);
    let arg = arg.hide_short_help(!setting.in_short_help);
    if made_for != For::ShortHelp {
        return arg;
    }
    // Only the first of several forms, to keep the column of flags narrow.
    let placeholder = setting.kind.placeholder();
    let first = match setting.kind {
        Kind::Form(_) => placeholder.split(['|', '[']).next(),
        _ => None,
    };
    arg.help_heading("Settings")
        .value_name(first.map_or_else(|| placeholder.clone(), str::to_owned))
}

/// The rows of `weirgate health`, for this gateway.
pub(super) fn health_rows(of: Option<&GatewayKind>) -> Vec<Setting> {
    let of = of.map_or(Rows::EVERY, |kind| kind.rows).settings();
    let taken = of.into_iter().filter(|s| HEALTH_TAKES.contains(&s.flag));
    taken.chain(Rows::HEALTH.settings()).collect()
}

fn health(program: &Program, made_for: For) -> Command {
    let names = program.names(", ");
    let first = program.gateways.first();
    let default = first.map_or("", |kind| kind.name);
    let which = Arg::new("gateway").value_name("GATEWAY").help(format!(
        "The gateway that runs: {names} [env: {GATEWAY_ENV}] [default: {default}]"
    ));
    let which = match made_for {
        For::Completions => which.value_parser(PossibleValuesParser::new(
            program.gateways.iter().map(|kind| kind.name),
        )),
        _ => which,
    };
    Command::new("health")
        .about("Check /health of a running gateway: exit status 0 for 200, otherwise 1")
        .after_help("Reads the address and the port as the gateway does, from the same env.")
        .args_override_self(true)
        .arg(which)
        .args(health_rows(first).iter().map(|row| arg(row, made_for)))
}

/// The rows of `weirgate token inspect`, for this gateway.
pub(super) fn inspect_rows(of: Option<&GatewayKind>) -> Vec<Setting> {
    let Some(kind) = of else {
        return Rows::TOKEN.settings();
    };
    let of_tokens = Rows::TOKEN.settings();
    let is_taken = |row: &Setting| {
        INSPECT_TAKES.contains(&row.flag) || of_tokens.iter().any(|one| one.flag == row.flag)
    };
    kind.rows.settings().into_iter().filter(is_taken).collect()
}

/// The rows of `weirgate token inspect` for all gateways with tokens, beside the keys.
fn inspect_args(program: &Program, made_for: For) -> Vec<Arg> {
    let mut rows: Vec<Setting> = Vec::new();
    for row in program.with_tokens().flat_map(|kind| kind.rows.settings()) {
        let is_new = rows.iter().all(|known| known.flag != row.flag);
        if is_new && INSPECT_TAKES.contains(&row.flag) {
            rows.push(row);
        }
    }
    rows.iter().map(|row| arg(row, made_for)).collect()
}

fn version_command() -> Command {
    let json = "Show the same as a JSON object";
    Command::new("version")
        .about("Show version, commit, target, compiler and features")
        .arg(switch("json", json))
}

fn completions() -> Command {
    let shells = pages::SHELLS.map(|shell| shell.to_string());
    let shell = Arg::new("shell")
        .value_name("SHELL")
        .help("The shell")
        .required(true);
    Command::new("completions")
        .about("Write completions for a shell to standard output: bash, zsh or fish")
        .arg(shell.value_parser(PossibleValuesParser::new(shells)))
}

fn man(program: &Program) -> Command {
    let name = program.name;
    let help = format!("{name}, or a command: levels is {name}-levels(1)");
    let page = Arg::new("page").value_name("PAGE").default_value(name);
    let dir = "Write all pages into this directory, and make the directory if missing";
    Command::new("man")
        .about("Write manual pages: one to standard output, or all into a directory")
        .arg(page.help(help))
        .arg(
            value("dir", "DIR", dir)
                .value_hint(ValueHint::DirPath)
                .conflicts_with("page"),
        )
}

fn token(program: &Program, made_for: For) -> Command {
    let part = |name, about| {
        Command::new(name)
            .about(about)
            .after_help("The settings are the gateway's own, read from the same env.")
            .args_override_self(true)
            .args(Rows::TOKEN.settings().iter().map(|row| arg(row, made_for)))
    };
    let claim =
        |name, placeholder, help| Arg::new(name).long(name).value_name(placeholder).help(help);
    let number = |name, help| claim(name, "N", help).value_parser(value_parser!(u32));
    let mint = part("mint", "Make a test token, signed with JWT_SECRET (HS256)")
        .arg(claim("role", "ROLE", "Role of the token"))
        .arg(claim("user", "USER", "User of the token"))
        .arg(
            claim(
                "channel",
                "NAME",
                "Name or pattern that the token grants; may be repeated",
            )
            .action(ArgAction::Append),
        )
        .arg(number("symbols-max", "Symbol limit of the user"))
        .arg(
            number(
                "expires-in-s",
                "Lifetime in seconds; 0 for a token without end [default: 3600]",
            )
            .value_name("S")
            .default_value("3600")
            .hide_default_value(true),
        );
    let inspect = part(
        "inspect",
        "Check a token as a gateway with REQUIRE_AUTH=true does: exit status 0 if admitted",
    )
    .arg(
        Arg::new("token")
            .value_name("TOKEN")
            .help("The token; if missing or -, the token is read from standard input"),
    )
    .arg(inspect_gateway(program))
    .args(inspect_args(program, made_for));
    Command::new("token")
        .about("Make a test token, or check a token as a gateway does")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(mint)
        .subcommand(inspect)
}

fn inspect_gateway(program: &Program) -> Arg {
    let names: Vec<_> = program.with_tokens().map(|kind| kind.name).collect();
    let default = program.gateway_of_tokens().map_or("", |kind| kind.name);
    Arg::new("gateway")
        .long("gateway")
        .value_name("GATEWAY")
        .help(format!(
            "The gateway that the token is for: {} [env: {GATEWAY_ENV}] [default: {default}]",
            names.join(", ")
        ))
}
