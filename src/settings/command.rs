//! The command line, generated from the table.

use clap::builder::StyledStr;
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};

use super::kind::Kind;
use super::setting::{Setting, Subcommand};
use super::typed::{GATEWAY_ENV, rows};

/// What `weirgate health` takes of the gateway that it asks.
pub(super) const HEALTH_TAKES: [&str; 2] = ["listen", "port"];

const START_WITH: &str = "\
Start with:
  weirgate demo            then open http://localhost:8000/
  weirgate levels          with NATS_URL set
  weirgate levels --check  to see its settings, and where each comes from

Exit status: 0 after a signal, 1 after a failure, 2 for wrong settings.
WEIRGATE_GATEWAY names the subcommand where none is given.";

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
pub(super) fn command() -> Command {
    let root = Command::new("weirgate")
        .about("One process between a message bus and WebSocket clients")
        .version(version())
        .after_help(START_WITH)
        .max_term_width(100)
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand_value_name("COMMAND")
        .subcommand_help_heading("Commands");
    let root = Subcommand::GATEWAYS
        .into_iter()
        .fold(root, |root, g| root.subcommand(gateway(g)));
    root.subcommand(health())
        .subcommand(token())
        .subcommand(Command::new("version").about("Show the version and the features"))
}

fn gateway(subcommand: Subcommand) -> Command {
    let check = Arg::new("check")
        .long("check")
        .action(ArgAction::SetTrue)
        .help("Check the settings, show them with their sources, and exit");
    let print_acl = Arg::new("print-acl")
        .long("print-acl")
        .action(ArgAction::SetTrue)
        .help("Show the table of who may subscribe to what, as JSON, and exit");
    Command::new(subcommand.name())
        .about(subcommand.about())
        .after_help(SOURCES)
        .args_override_self(true)
        .arg(check)
        .args((subcommand == Subcommand::Channels).then_some(print_acl))
        .args(rows(subcommand).map(arg))
}

fn health() -> Command {
    let names = Subcommand::GATEWAYS.map(Subcommand::name).join(", ");
    let which = Arg::new("gateway").value_name("GATEWAY").help(format!(
        "The gateway that runs: {names} [env: {GATEWAY_ENV}] [default: levels]"
    ));
    let of_gateway = rows(Subcommand::Levels).filter(|s| HEALTH_TAKES.contains(&s.flag));
    Command::new(Subcommand::Health.name())
        .about(Subcommand::Health.about())
        .after_help("Reads the address and the port as the gateway does, from the same env.")
        .args_override_self(true)
        .arg(which)
        .args(of_gateway.chain(rows(Subcommand::Health)).map(arg))
}

fn token() -> Command {
    let part = |name, about| {
        Command::new(name)
            .about(about)
            .after_help("The settings are the gateway's own, read from the same env.")
            .args_override_self(true)
            .args(rows(Subcommand::Token).map(arg))
    };
    let claim =
        |name, placeholder, help| Arg::new(name).long(name).value_name(placeholder).help(help);
    let number = |name, help| claim(name, "N", help).value_parser(value_parser!(u32));
    let mint = part(
        "mint",
        "Make a token for trying out, signed with JWT_SECRET (HS256)",
    )
    .arg(claim("role", "ROLE", "Its role"))
    .arg(claim("user", "USER", "Its user"))
    .arg(number("symbols-max", "The user's symbol limit"))
    .arg(
        number(
            "expires-in-s",
            "Seconds until it ends; 0 for never [default: 3600]",
        )
        .value_name("S")
        .default_value("3600")
        .hide_default_value(true),
    );
    let inspect = part(
        "inspect",
        "Say what a gateway would say of a token: exit 0 when it is good",
    )
    .arg(
        Arg::new("token")
            .value_name("TOKEN")
            .help("The token; without it, or as -, it is read from standard input"),
    );
    Command::new(Subcommand::Token.name())
        .about(Subcommand::Token.about())
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(mint)
        .subcommand(inspect)
}

fn arg(setting: &'static Setting) -> Arg {
    let arg = Arg::new(setting.flag)
        .long(setting.flag)
        .value_name(setting.kind.placeholder())
        .help_heading(setting.heading.title())
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
        text += &format!("{stop} Beyond it: {}.", limit.beyond.replace('`', ""));
    }
    text
}

/// The text of a flag, if it was typed; of a repeated one all, with space between them. Only of
/// flags that the subcommand has.
pub(super) fn flag(matches: &ArgMatches, flag: &str) -> Option<String> {
    let texts: Vec<_> = matches.get_many::<String>(flag)?.cloned().collect();
    Some(texts.join(" "))
}
