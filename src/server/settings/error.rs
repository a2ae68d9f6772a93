//! The errors in settings, in words for the operator.

use super::kind::RefusedValue;
use super::removed::replacement_of;
use super::setting::Setting;
use super::typed::Source;

/// The error of one setting, or of several that contradict each other. The text never contains a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SettingsError(String);

impl SettingsError {
    /// An error in these words.
    pub fn new(words: impl Into<String>) -> Self {
        Self(words.into())
    }

    /// A value of `setting` that is not allowed.
    pub(super) fn value(setting: &Setting, source: &Source, refused: &RefusedValue) -> Self {
        let name = match source {
            Source::Env(_) | Source::File(..) => setting.named(source),
            _ => setting.name(),
        };
        let value = setting.kind.shown_when_wrong(&refused.item);
        Self(format!("{name} is {value}; allowed: {}", refused.allowed))
    }

    /// A setting that weirgate no longer has: what replaced it. `None` for all other names. `name` is the flag with its
    /// dashes, or the name in the environment.
    pub fn of_removed(name: &str) -> Option<Self> {
        let instead = replacement_of(name)?;
        Some(Self(format!("{name} is gone: {instead}")))
    }

    /// A required setting is not set.
    pub fn missing(setting: &Setting, allowed: &str) -> Self {
        // The first name is that of the replaced gateway, if there is one.
        let (flag, env) = (setting.flag, setting.env_names().swap_remove(0));
        Self(format!(
            "--{flag} (env {env}) is needed; allowed: {allowed}"
        ))
    }

    /// The env value of this name is not UTF-8.
    pub(super) fn not_text(name: &str) -> Self {
        Self(format!("{name} is not UTF-8 text"))
    }
}
