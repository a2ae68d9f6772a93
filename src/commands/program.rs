//! What all commands share: the program's gateways, output, build information, and exits.

use std::ffi::OsString;
use std::fmt::{self, Display};
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{self, Command};

use clap::ArgMatches;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use url::{Host, Url};

use super::args::texts;
use super::standard::{write_err_styled, write_out_styled};
use crate::commands::{GatewayKind, TokenUse};
use weirgate_server::build_info::BuildInfo;
use weirgate_server::settings::{
    Check, Checked, Env, Kind, Rows, SecretText, Setting, SettingsError, without_secrets,
};
use weirgate_wire::base::escaped;
use weirgate_wire::json::ObjectWriter;

/// A program: its name, its texts, and its gateways. The command line makes subcommands, `--help`, `--check`,
/// `WEIRGATE_GATEWAY` and `health` from the list.
#[derive(Clone, Copy, Debug)]
pub struct Program {
    /// The name on the command line.
    pub name: &'static str,
    /// One line for `--help`.
    pub about: &'static str,
    /// The end of `--help`.
    pub start_with: &'static str,
    /// The name of the gateway that most people need: the first in `--help`.
    pub most_used: &'static str,
    /// The gateways, in the order of the documents; not empty. `health` asks the first by default. If there is
    /// only one, the subcommand may be left out.
    pub gateways: &'static [GatewayKind],
}

impl Program {
    /// Returns the gateway with this name.
    pub fn gateway(&self, name: &str) -> Option<&'static GatewayKind> {
        self.gateways.iter().find(|gateway| gateway.name == name)
    }
}

/// The exit of a command line that starts nothing: help, or an error.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Exit {
    /// The exit status: 0 for help, 2 for wrong use or wrong settings. For wrong settings `health` exits with 1,
    /// because status 2 means nothing to the health check of a container.
    pub status: u8,
    /// The text for standard output if the status is 0, else for standard error. Help has colours.
    pub text: String,
}

impl Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Prints a text that may contain text from outside, with control characters escaped; see [`show_styled`].
pub(super) fn show(text: &str) {
    show_styled(&escaped(text, &['\n', '\t']));
}

/// Prints a text of this program. Its colours are kept on a terminal with colours, unless `NO_COLOR` is set.
///
/// A closed reader (`weirgate token inspect | head -1`) is no error. Otherwise a text that cannot be written, as on a full
/// disk, ends the process with status 1: half a file of settings must not pass for a whole one.
pub(super) fn show_styled(text: &str) {
    match write_out_styled(&format!("{text}\n")) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            complain_styled(&format!("error: cannot write to standard output: {error}"));
            process::exit(1);
        }
        Ok(_) | Err(_) => {}
    }
}

/// Writes an error or a message to standard error. It may contain text from outside; control characters are escaped.
pub(super) fn complain(text: &str) {
    complain_styled(&escaped(text, &['\n', '\t']));
}

/// As [`complain`], but keeps control characters: for texts made from this program and its arguments.
pub(super) fn complain_styled(text: &str) {
    let lines = text.lines().map(|line| match line.strip_prefix("error:") {
        // Formatted like the errors of clap.
        Some(rest) => format!("\x1b[1m\x1b[31merror:\x1b[0m{rest}\n"),
        None => format!("{line}\n"),
    });
    // There is nowhere left to say that it failed.
    let _ = write_err_styled(&lines.collect::<String>());
}

fn has_flag(kind: &GatewayKind, flag: &str) -> bool {
    let rows = kind.rows.settings();
    rows.iter().any(|row| row.is_flag() && row.flag == flag)
}

impl Program {
    /// The command that runs a gateway.
    pub(super) fn words(&self, gateway: &GatewayKind) -> String {
        match self.gateways {
            [_] => self.name.to_owned(),
            _ => format!("{} {}", self.name, gateway.name),
        }
    }

    /// Makes the exit for a command line that clap has refused. The text names the replacement of a removed flag, the
    /// gateways that have the setting if this one does not, and the flag for the address of a bus.
    pub(super) fn refused(&self, mut error: clap::Error, args: &[OsString]) -> Exit {
        let Some(ContextValue::String(arg)) = error.get(ContextKind::InvalidArg) else {
            return Exit::from_clap(error, args);
        };
        if let Some(error) = SettingsError::of_removed(arg) {
            return Exit::from(error.to_string());
        }
        let typed = arg.trim_start_matches("--").to_owned();
        let kinds: Vec<_> = self
            .gateways
            .iter()
            .filter(|kind| has_flag(kind, &typed))
            .map(|kind| kind.name)
            .collect();
        let tip = self.tip_of_address(arg, args).or_else(|| {
            (!kinds.is_empty())
                .then(|| format!("--{typed} is a setting of {}", kinds.join(" and ")))
        });
        if let Some(tip) = tip {
            // A similar flag is not the intended flag.
            error.remove(ContextKind::SuggestedArg);
            error.remove(ContextKind::Usage);
            let tips = ContextValue::StyledStrs(vec![tip.into()]);
            error.insert(ContextKind::Suggested, tips);
        }
        Exit::from_clap(error, args)
    }

    /// Where this address of a bus belongs: the flag of the gateway that `args` names, or else the gateways that read such a
    /// bus. `None` for other texts.
    fn tip_of_address(&self, address: &str, args: &[OsString]) -> Option<String> {
        let kind = self.gateway(args.get(1)?.to_str()?)?;
        let scheme = address.split_once("://")?.0;
        let url = match scheme {
            "nats" | "tls" => "nats-url",
            "redis" | "rediss" | "unix" => "redis-url",
            _ => return None,
        };
        let flags = [url, "bus", "events-bus"];
        let flag_of = |kind: &GatewayKind| flags.into_iter().find(|flag| has_flag(kind, flag));
        if let Some(flag) = flag_of(kind) {
            return Some(format!("the address is the value of --{flag}"));
        }
        let others = self.gateways.iter().filter(|kind| flag_of(kind).is_some());
        let others: Vec<_> = others.map(|kind| kind.name).collect();
        (!others.is_empty()).then(|| format!("{scheme}:// is for {}", others.join(", ")))
    }

    /// Returns the gateway that `WEIRGATE_GATEWAY` names; `None` if it is unset.
    pub(super) fn env_gateway(
        &self,
        env: &Env,
    ) -> Result<Option<&'static GatewayKind>, SettingsError> {
        env.value(Env::GATEWAY)?
            .map(|value| self.named_gateway(Env::GATEWAY, value))
            .transpose()
    }

    pub(super) fn named_gateway(
        &self,
        name: &str,
        value: &str,
    ) -> Result<&'static GatewayKind, SettingsError> {
        chosen(name, value, self.gateways.iter())
    }

    /// Joins the names of the gateways.
    pub(super) fn names(&self, between: &str) -> String {
        let names: Vec<_> = self.gateways.iter().map(|gateway| gateway.name).collect();
        names.join(between)
    }

    /// Returns every row of every command, for checks of names in the environment.
    pub(super) fn known(&self) -> Vec<Setting> {
        let gateways = self.gateways.iter().map(|gateway| gateway.rows);
        let all = gateways.chain([Rows::TOKEN, Rows::TAIL, Rows::TOP]);
        all.flat_map(|rows| rows.settings()).collect()
    }

    /// The gateways with tokens.
    pub(super) fn with_tokens(&self) -> impl Iterator<Item = &'static GatewayKind> + Clone {
        self.gateways.iter().filter(|kind| kind.takes_tokens())
    }

    /// The gateway that a token is checked for by default: the first with a table of roles.
    pub(super) fn gateway_of_tokens(&self) -> Option<&'static GatewayKind> {
        let with_roles = |kind: &&GatewayKind| matches!(kind.tokens, TokenUse::Roles(_));
        let first = self.with_tokens().next();
        self.with_tokens().find(with_roles).or(first)
    }

    /// The settings of a command from its arguments and the environment, checked.
    pub(super) fn checked(
        &self,
        rows: Vec<Setting>,
        matches: &ArgMatches,
        env: &Env,
        check: Check,
    ) -> Result<Checked, Vec<SettingsError>> {
        let known = self.known();
        let mut warnings = env.unknown_names(&known);
        warnings.extend(env.near_names(&rows, &known));
        Checked::read(rows, |name| texts(matches, name), env, warnings, check)
    }
}

/// Finds a gateway by name among the allowed gateways. `name` is the setting that has the value, for the error.
pub(super) fn chosen(
    name: &str,
    value: &str,
    allowed: impl Iterator<Item = &'static GatewayKind> + Clone,
) -> Result<&'static GatewayKind, SettingsError> {
    let mut all = allowed.clone();
    let found = all.find(|kind| kind.name == value.trim());
    found.ok_or_else(|| {
        let value = Kind::Text.shown_when_wrong(value);
        let allowed: Vec<_> = allowed.map(|kind| kind.name).collect();
        let allowed = allowed.join(" or ");
        SettingsError::new(format!("{name} is {value}; allowed: {allowed}"))
    })
}

/// Other programs check their settings with a command of that name.
const CHECK_TIP: &str = "\n  tip: each gateway checks its settings: 'weirgate channels --check'\n";

impl Exit {
    /// Clap repeats unknown arguments, and one may be a URL or a token in the wrong place. So the secrets of URLs, of
    /// arguments with an `@`, and of arguments that begin like a JWT are hidden.
    pub(super) fn from_clap(error: clap::Error, args: &[OsString]) -> Self {
        let mut text = error.render().ansi().to_string();
        for arg in args.iter().map(|arg| arg.to_string_lossy()) {
            let value = arg.split_once('=').map_or(&*arg, |(_, value)| value);
            if value.contains('@') || value.contains("://") || value.starts_with("eyJ") {
                text = text.replace(value, &without_secrets(value));
            }
        }
        let is_first = |word: &str| args.get(1).is_some_and(|arg| arg == word);
        if error.use_stderr() && ["check", "--check"].into_iter().any(is_first) {
            text.push_str(CHECK_TIP);
        }
        let status = match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => 0,
            _ => 2,
        };
        Self { status, text }
    }

    pub(super) fn settings(errors: &[SettingsError], status: u8) -> Self {
        let lines = errors.iter().map(|error| format!("error: {error}\n"));
        Self {
            status,
            text: lines.collect(),
        }
    }

    pub(super) fn wrong_use(text: &str) -> Self {
        Self {
            status: 2,
            text: format!("error: {text}\n"),
        }
    }
}

/// The text is an error in the arguments.
impl From<String> for Exit {
    fn from(text: String) -> Self {
        Self::wrong_use(&text)
    }
}

/// If a secret was given as a flag, takes it out of the list of processes, as [`start_again`] does, under the environment
/// name of the row of `flag`.
pub(super) fn hide_secret(flag: &str, rows: Rows, secret: Option<&SecretText>) {
    let Some(secret) = secret else { return };
    let args = without(flag, std::env::args_os().skip(1));
    let rows = rows.settings();
    let row = rows.iter().find(|row| format!("--{}", row.flag) == flag);
    let name = row.map(Setting::weirgate_env).unwrap_or_default();
    start_again(
        args,
        &name,
        &secret.expose(),
        &format!("the value of {flag}"),
    );
}

/// Starts the program again with `args` and with a secret in the environment, which other users cannot read, unless these
/// are its arguments already. If that fails, the secret, called `what`, stays visible.
pub(super) fn start_again(args: Vec<OsString>, name: &str, secret: &str, what: &str) {
    let Ok(program) = std::env::current_exe() else {
        return;
    };
    if args.iter().cloned().eq(std::env::args_os().skip(1)) {
        return;
    }
    let error = Command::new(program).args(args).env(name, secret).exec();
    complain(&format!(
        "{what} stays visible in the list of processes: {error}"
    ));
}

/// The arguments without `FLAG VALUE` and `FLAG=VALUE`.
fn without(flag: &str, args: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut kept = Vec::new();
    let mut is_value = false;
    for arg in args {
        let is_flag = arg == flag;
        let with_value = arg.to_string_lossy().starts_with(&format!("{flag}="));
        if !is_flag && !is_value && !with_value {
            kept.push(arg);
        }
        is_value = is_flag;
    }
    kept
}

/// Parses a URL that a person typed. Also returns its host: a name or an address, without the brackets of an IPv6
/// address. The URL may not have a user or a password; the error names the flag to use, `instead`.
///
/// # Errors
/// The error, without the URL: the URL may contain a secret.
pub(super) fn parse_url(text: &str, instead: &str) -> Result<(Url, String), String> {
    let url = Url::parse(text).map_err(|error| format!("the URL cannot be read: {error}"))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(format!("the URL has a user or a password; use {instead}"));
    }
    let host = match url.host() {
        Some(Host::Domain(name)) if !name.is_empty() => name.to_owned(),
        Some(Host::Ipv4(address)) => address.to_string(),
        Some(Host::Ipv6(address)) => address.to_string(),
        _ => return Err("the URL names no host".to_owned()),
    };
    Ok((url, host))
}

/// The version and the features on one line.
pub(super) fn version_line() -> String {
    format!(
        "{} (features: {})",
        BuildInfo::THIS.version,
        BuildInfo::THIS.features.replace(',', ", ")
    )
}

/// The line of `--version`, followed by further facts for a bug report.
pub(super) fn version_text(program: &Program) -> String {
    let (name, line) = (program.name, version_line());
    let BuildInfo {
        commit,
        target,
        rustc,
        ..
    } = BuildInfo::THIS;
    format!("{name} {line}\n  commit: {commit}\n  target: {target}\n  rustc:  {rustc}")
}

/// The facts of [`version_text`] as one JSON object.
pub(super) fn version_json(program: &Program) -> String {
    let mut object = ObjectWriter::new();
    object.string("name", program.name);
    object.string("version", BuildInfo::THIS.version);
    object.string("commit", BuildInfo::THIS.commit);
    object.string("target", BuildInfo::THIS.target);
    object.string("rustc", BuildInfo::THIS.rustc);
    object.strings("features", BuildInfo::THIS.features.split(','));
    object.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_secret_is_taken_out_of_the_arguments() {
        let args = ["tail", "trades", "--token", "s", "--rate", "--token=t", "x"];
        let kept = without("--token", args.into_iter().map(OsString::from));
        assert_eq!(kept, ["tail", "trades", "--rate", "x"]);
        let end = without("--token", ["--token"].into_iter().map(OsString::from));
        assert!(end.is_empty());
    }
}
