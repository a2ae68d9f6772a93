//! The arguments of a command line: one for each setting, and further flags.

use std::ffi::OsString;

use clap::builder::{PossibleValuesParser, StyledStr};
use clap::{Arg, ArgAction, ArgMatches, ValueHint};

use weirgate_server::settings::{Kind, Setting};

/// How the arguments are shown; all variants parse the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum For {
    /// Parsing, and `--help`: the settings in groups.
    Arguments,
    /// `-h`: its dozen settings come first, in one list.
    ShortHelp,
    /// Completions: a choice lists its words.
    Completions,
}

impl For {
    /// Returns what these arguments need. `-h` means help in every position, because no flag takes `-h` as a value.
    pub(super) fn arguments(args: &[OsString]) -> Self {
        match args.iter().any(|arg| arg == "-h") {
            true => Self::ShortHelp,
            false => Self::Arguments,
        }
    }
}

/// A flag without a value, beside the settings.
pub(super) fn switch(name: &'static str, help: &'static str) -> Arg {
    let arg = Arg::new(name).long(name).action(ArgAction::SetTrue);
    arg.help(help)
}

/// A flag with a value, beside the settings.
pub(super) fn value(
    name: &'static str,
    placeholder: &'static str,
    help: impl Into<StyledStr>,
) -> Arg {
    let arg = Arg::new(name).long(name).value_name(placeholder);
    arg.help(help.into())
}

/// The flag of a setting.
pub(super) fn arg(setting: &Setting, made_for: For) -> Arg {
    let arg = Arg::new(setting.flag)
        .long(setting.flag)
        .value_name(setting.kind.placeholder())
        .help_heading(setting.heading.0)
        .allow_negative_numbers(true)
        .help(short_help(setting))
        .long_help(long_help(setting));
    let arg = match setting.kind {
        // `--ephemeral` alone is on; `--ephemeral=false` overrides an env value.
        Kind::Switch => arg
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true"),
        Kind::Path => arg.value_hint(ValueHint::FilePath),
        kind if kind.separator().is_some() => arg.action(ArgAction::Append),
        _ => arg,
    };
    match setting.kind {
        Kind::Choice(words) if made_for == For::Completions => {
            arg.value_parser(PossibleValuesParser::new(words))
        }
        Kind::Switch if made_for == For::Completions => {
            arg.value_parser(PossibleValuesParser::new(["true", "false"]))
        }
        _ => arg,
    }
}

fn short_help(setting: &Setting) -> StyledStr {
    with_env_and_default(setting.help.to_owned(), setting)
}

fn long_help(setting: &Setting) -> StyledStr {
    with_env_and_default(setting.help.to_owned() + &details(setting), setting)
}

/// Adds the names in the environment, and the default.
fn with_env_and_default(mut text: String, setting: &Setting) -> StyledStr {
    if !setting.original_env.is_empty() {
        text = format!("{text} [env: {}]", setting.original_env.join(", "));
    }
    with_default(text, setting).into()
}

/// A help text with the default at the end.
pub(super) fn with_default(text: String, setting: &Setting) -> String {
    match setting.default() {
        default if default.is_empty() || matches!(setting.kind, Kind::Switch) => text,
        default => format!("{text} [default: {default}]"),
    }
}

/// What the long help adds to the line of the short help.
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

/// Returns the text of a flag if it was typed. The subcommand must have the flag.
pub(super) fn flag(matches: &ArgMatches, flag: &str) -> Option<String> {
    matches.get_one::<String>(flag).cloned()
}

/// Returns the texts of a flag in the order in which they were typed. The subcommand must have the flag.
pub(super) fn texts(matches: &ArgMatches, flag: &str) -> Vec<String> {
    let texts = matches.get_many::<String>(flag);
    texts.unwrap_or_default().cloned().collect()
}
