//! The first stage: the text of each setting, and where it comes from. The text and its source are found from the table,
//! the flags and the environment ([`Env`]).
//!
//! This stage interprets one kind of value: a port that Kubernetes has injected counts as unset, so the next source
//! applies. Then limits over all clients get their parts of the memory and of several processes (`memory_share`,
//! `processes`).

use std::fmt;
use std::path::PathBuf;

use super::env::{Env, is_service_address};
use super::error::SettingsError;
use super::kind::{Kind, Value};
use super::setting::Setting;

/// Where the value of a setting comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The command line.
    Flag,
    /// The environment, under this name.
    Env(String),
    /// The file that the environment names under this name, such as `JWT_SECRET_FILE`.
    File(String, PathBuf),
    /// The default in the table.
    Default,
    /// A fixed part of another flag.
    PartOf(&'static str),
    /// Three quarters of the memory that the system allows the process.
    MemoryLimit,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag => f.write_str("flag"),
            Self::Env(name) => write!(f, "env {name}"),
            Self::File(name, path) => write!(f, "file {}, env {name}", path.display()),
            Self::Default => f.write_str("default"),
            Self::PartOf(flag) => write!(f, "share of --{flag}"),
            Self::MemoryLimit => f.write_str("3/4 of the memory limit"),
        }
    }
}

/// A setting with text and source.
#[derive(Clone, Debug)]
pub(super) struct Typed {
    /// The row of the table.
    pub setting: Setting,
    /// The text as typed. It may be a secret, so only [`Typed::read`] reads it.
    text: String,
    /// Where the text comes from: the flag, a name in the environment, or the default.
    pub source: Source,
}

impl Typed {
    /// Parses the text.
    ///
    /// # Errors
    /// The value is not allowed.
    pub(super) fn read(&self) -> Result<Value, SettingsError> {
        let kind = self.setting.kind;
        kind.parse(&self.text).ok_or_else(|| {
            SettingsError::value(&self.setting, &self.source, &kind.refused(&self.text))
        })
    }

    /// The number in the text; `None` if the text is not allowed, or not a whole number.
    pub(super) fn number(&self) -> Option<u64> {
        match self.read() {
            Ok(Value::Number(number)) => Some(number),
            _ => None,
        }
    }

    /// Takes another value in place of the text.
    pub(super) fn replace(&mut self, value: impl ToString, source: Source) {
        self.text = value.to_string();
        self.source = source;
    }
}

/// Finds the text of each row. Precedence, highest first: flag, names in the environment in their order, default.
///
/// # Errors
/// The value that applies is not UTF-8, or a removed setting is set.
pub(super) fn collect(
    rows: impl IntoIterator<Item = Setting>,
    flag: impl Fn(&str) -> Vec<String>,
    env: &Env,
    warnings: &mut Vec<String>,
) -> Result<Vec<Typed>, Vec<SettingsError>> {
    let mut all = Vec::new();
    let mut errors: Vec<_> = env.removed_names().collect();
    for setting in rows {
        let typed = setting.is_flag().then(|| flag(setting.flag));
        let typed = typed.and_then(|values| setting.kind.joined(values));
        let found = match typed {
            Some(text) => Ok(Some((text, Source::Flag))),
            None => from_env(&setting, env, warnings),
        };
        match found {
            Ok(found) => {
                let default = || (setting.default(), Source::Default);
                let (text, source) = found.unwrap_or_else(default);
                all.push(Typed {
                    setting,
                    text,
                    source,
                });
            }
            Err(error) => errors.push(error),
        }
    }
    warnings.extend(env.mistaken_names(&all));
    match errors.is_empty() {
        true => Ok(all),
        false => Err(errors),
    }
}

/// Finds the text of a row in the environment; `None` if none of its names is set.
fn from_env(
    setting: &Setting,
    env: &Env,
    warnings: &mut Vec<String>,
) -> Result<Option<(String, Source)>, SettingsError> {
    for name in setting.env_names() {
        if setting.kind.may_be_secret()
            && let Some(found) = env.secret_of_file(setting, &name)?
        {
            return Ok(Some(found));
        }
        let named = |_| SettingsError::not_text(&setting.named(&Source::Env(name.clone())));
        let Some(value) = env.value(&name).map_err(named)? else {
            continue;
        };
        if matches!(setting.kind, Kind::Port | Kind::PortOrOff) && is_service_address(value) {
            let value = value.trim();
            warnings.push(format!(
                "{name}={value} is ignored: Kubernetes sets it for a service; set a port number, or rename the service"
            ));
            continue;
        }
        return Ok(Some((value.to_owned(), Source::Env(name))));
    }
    Ok(None)
}
