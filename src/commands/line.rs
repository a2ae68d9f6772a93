//! The command line, made from the list of gateways and their settings.

use clap::builder::StyledStr;
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};

use super::{Program, check};
use crate::run::{GatewayKind, Print};
use crate::settings::typed::GATEWAY_ENV;
use crate::settings::{Kind, Rows, Setting};

/// What `weirgate health` takes of the gateway that it asks.
const HEALTH_TAKES: [&str; 2] = ["listen", "port"];

/// What `weirgate token inspect` takes of the gateway that it speaks for, beside the keys.
const INSPECT_TAKES: [&str; 3] = ["acl", "default-role", "symbols-max"];

const SOURCES: &str = "\
A flag goes over an [env: …] name, that over WEIRGATE_*, that over the default; an empty value is
unset. Every flag has a WEIRGATE_* name: --log-format is WEIRGATE_LOG_FORMAT.";

/// Version and features.
pub(super) fn version() -> String {
    let features = [
        ("nats", cfg!(feature = "nats")),
        ("redis", cfg!(feature = "redis")),
    ];
    let on: Vec<_> = features.iter().filter(|f| f.1).map(|f| f.0).collect();
    let features = match on.is_empty() {
        true => "none".to_owned(),
        false => on.join(", "),
    };
    format!("{} (features: {features})", env!("CARGO_PKG_VERSION"))
}

/// The whole command line.
pub(super) fn command(program: &Program) -> Command {
    let root = Command::new(program.name)
        .about(program.about)
        .version(version())
        .after_help(program.start_with)
        .max_term_width(100)
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand_value_name("COMMAND")
        .subcommand_help_heading("Commands");
    let gateways = program.gateways.iter();
    let root = gateways.fold(root, |root, kind| root.subcommand(gateway(kind)));
    root.subcommand(health(program))
        .subcommand(token(program))
        .subcommand(super::tail::line::command(program))
        .subcommand(super::publish::line::command())
        .subcommand(Command::new("version").about("Show the version and the features"))
}

fn gateway(kind: &GatewayKind) -> Command {
    let show = |name, help| {
        let arg = Arg::new(name).long(name).action(ArgAction::SetTrue);
        arg.help(help)
    };
    Command::new(kind.name)
        .about(kind.about)
        .after_help(SOURCES)
        .args_override_self(true)
        .args(check::args())
        .args(kind.prints.iter().map(|p: &Print| show(p.flag, p.help)))
        .args(kind.rows.settings().iter().map(arg))
}

/// The rows of `weirgate health`, for the gateway that it asks.
pub(super) fn health_rows(of: Option<&GatewayKind>) -> Vec<Setting> {
    let of = of.map_or(Rows::EVERY, |kind| kind.rows).settings();
    let taken = of.into_iter().filter(|s| HEALTH_TAKES.contains(&s.flag));
    taken.chain(Rows::HEALTH.settings()).collect()
}

fn health(program: &Program) -> Command {
    let names = program.names(", ");
    let first = program.gateways.first();
    let default = first.map_or("", |kind| kind.name);
    let which = Arg::new("gateway").value_name("GATEWAY").help(format!(
        "The gateway that runs: {names} [env: {GATEWAY_ENV}] [default: {default}]"
    ));
    Command::new("health")
        .about("Check /health of a running gateway: exit status 0 for 200, otherwise 1")
        .after_help("Reads the address and the port as the gateway does, from the same env.")
        .args_override_self(true)
        .arg(which)
        .args(health_rows(first).iter().map(arg))
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

/// The rows of `weirgate token inspect` for all gateways that take tokens, beside the keys.
fn inspect_args(program: &Program) -> Vec<Arg> {
    let mut rows: Vec<Setting> = Vec::new();
    for row in program.with_tokens().flat_map(|kind| kind.rows.settings()) {
        let is_new = rows.iter().all(|known| known.flag != row.flag);
        if is_new && INSPECT_TAKES.contains(&row.flag) {
            rows.push(row);
        }
    }
    rows.iter().map(arg).collect()
}

fn token(program: &Program) -> Command {
    let part = |name, about| {
        Command::new(name)
            .about(about)
            .after_help("The settings are the gateway's own, read from the same env.")
            .args_override_self(true)
            .args(Rows::TOKEN.settings().iter().map(arg))
    };
    let claim =
        |name, placeholder, help| Arg::new(name).long(name).value_name(placeholder).help(help);
    let number = |name, help| claim(name, "N", help).value_parser(value_parser!(u32));
    let mint = part("mint", "Make a test token, signed with JWT_SECRET (HS256)")
        .arg(claim("role", "ROLE", "Role of the token"))
        .arg(claim("user", "USER", "User of the token"))
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
    .args(inspect_args(program));
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

/// A flag without a value, that is no setting.
pub(super) fn switch(name: &'static str, help: &'static str) -> Arg {
    let arg = Arg::new(name).long(name).action(ArgAction::SetTrue);
    arg.help(help)
}

/// A flag with a value, that is no setting.
pub(super) fn value(
    name: &'static str,
    placeholder: &'static str,
    help: impl Into<StyledStr>,
) -> Arg {
    let arg = Arg::new(name).long(name).value_name(placeholder);
    arg.help(help.into())
}

/// The flag of a setting.
pub(super) fn arg(setting: &Setting) -> Arg {
    let arg = Arg::new(setting.flag)
        .long(setting.flag)
        .value_name(setting.kind.placeholder())
        .help_heading(setting.heading.0)
        .allow_negative_numbers(true)
        .help(help(setting, false))
        .long_help(help(setting, true));
    match setting.kind {
        // `--ephemeral` alone is on; `--ephemeral=false` overrides an env value.
        Kind::Switch => arg
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true"),
        kind if kind.repeats() => arg.action(ArgAction::Append),
        _ => arg,
    }
}

fn help(setting: &Setting, long: bool) -> StyledStr {
    let mut text = setting.help.to_owned();
    if long {
        text += &details(setting);
    }
    if !setting.original_env.is_empty() {
        text = format!("{text} [env: {}]", setting.original_env.join(", "));
    }
    if !setting.default.is_empty() && !matches!(setting.kind, Kind::Switch) {
        text = format!("{text} [default: {}]", setting.default);
    }
    text.into()
}

/// What the long help adds to the line.
fn details(setting: &Setting) -> String {
    let mut text = String::new();
    if !setting.more.is_empty() {
        text = format!(". {}", setting.more);
    }
    if let Some(limit) = setting.limit {
        let stop = if text.is_empty() { "." } else { "" };
        text += &format!("{stop} Over the limit: {}.", limit.beyond.replace('`', ""));
    }
    text
}

/// The text of a flag, if it was typed; of a repeated one all, with space between them. Only of
/// flags that the subcommand has.
pub(super) fn flag(matches: &ArgMatches, flag: &str) -> Option<String> {
    let texts: Vec<_> = matches.get_many::<String>(flag)?.cloned().collect();
    Some(texts.join(" "))
}
