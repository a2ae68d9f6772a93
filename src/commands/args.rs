//! The arguments of a command line: one for each setting, and flags beside the settings.

use std::ffi::OsString;

use clap::builder::{PossibleValuesParser, StyledStr};
use clap::{Arg, ArgAction, ArgMatches, ValueHint};

use crate::settings::{Kind, Setting};

/// The purpose of a command line. Parsing is the same for all purposes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum For {
    /// Reading arguments; `--help`, with the settings in groups.
    Arguments,
    /// Reading arguments including `-h`: the dozen settings of `-h` are one list.
    ShortHelp,
    /// Completions: the words of a choice are listed.
    Completions,
}

impl For {
    /// Returns the purpose for these arguments. `-h` is help in every position: no flag takes `-h` as a
    /// value.
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
        .help(help(setting, false))
        .long_help(help(setting, true));
    let arg = match setting.kind {
        // `--ephemeral` alone is on; `--ephemeral=false` overrides an env value.
        Kind::Switch => arg
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true"),
        Kind::Path => arg.value_hint(ValueHint::FilePath),
        kind if kind.repeats() => arg.action(ArgAction::Append),
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

fn help(setting: &Setting, long: bool) -> StyledStr {
    let mut text = setting.help.to_owned();
    if long {
        text += &details(setting);
    }
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

/// The addition of the long help to the line.
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

/// Returns the text of a flag, if typed; the texts of a repeated flag are separated by space. The subcommand
/// must have the flag.
pub(super) fn flag(matches: &ArgMatches, flag: &str) -> Option<String> {
    let texts: Vec<_> = matches.get_many::<String>(flag)?.cloned().collect();
    Some(texts.join(" "))
}
