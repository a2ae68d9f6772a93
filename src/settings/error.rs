//! Errors in settings, in words for the operator.

use super::kind::Refused;
use super::setting::Setting;
use super::typed::Source;

/// One wrong setting. The text never contains a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// A value that is not allowed.
    #[error("{name} is {value}; allowed: {allowed}")]
    Value {
        /// The flag, plus the env name if the value is from the environment.
        name: String,
        /// The value, quoted; `***` for a value with a possible secret.
        value: String,
        /// The allowed values.
        allowed: String,
    },
    /// An env value that is not UTF-8.
    #[error("{name} is not UTF-8 text")]
    NotText {
        /// The env name, behind the flag of its setting, if any.
        name: String,
    },
    /// A required setting is not set.
    #[error("--{flag} (env {env}) is needed; allowed: {allowed}")]
    Missing {
        /// The flag.
        flag: &'static str,
        /// The env name to set.
        env: String,
        /// The allowed values.
        allowed: String,
    },
    /// The env name of a setting that went.
    #[error("{name} is gone: {instead}")]
    Gone {
        /// The env name.
        name: String,
        /// What took the place of the setting.
        instead: &'static str,
    },
    /// Two exclusive settings are both set.
    #[error("{one} and {other} are both set; allowed: one of them")]
    Either {
        /// A flag with the source of its value.
        one: String,
        /// The other flag with the source of its value.
        other: String,
    },
    /// A setting without its counterpart.
    #[error("{one} is set without --{other}; allowed: both or none")]
    Alone {
        /// The flag with the source of its value.
        one: String,
        /// The missing flag.
        other: &'static str,
    },
    /// Two inconsistent values.
    #[error(
        "{low} is {low_value} ({low_from}); allowed: at most {high}, {high_value} ({high_from})"
    )]
    Order {
        /// The setting with the too large value.
        low: String,
        /// The value of `low`.
        low_value: u64,
        /// The source of `low_value`.
        low_from: Source,
        /// The setting of the upper bound.
        high: String,
        /// The value of `high`.
        high_value: u64,
        /// The source of `high_value`.
        high_from: Source,
    },
}

impl SettingsError {
    /// A value of `setting` that is not allowed.
    pub(super) fn value(setting: &Setting, source: &Source, refused: &Refused) -> Self {
        Self::Value {
            name: match source {
                Source::Env(_) => setting.named(source),
                _ => setting.name(),
            },
            value: setting.kind.shown_when_wrong(&refused.item),
            allowed: refused.allowed.clone(),
        }
    }
}

/// A problem that does not prevent the start. For the log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Warning {
    /// An address from Kubernetes, for a service of the same name.
    #[error(
        "{name}={value} is ignored: Kubernetes sets it for a service; set a port number, or rename the service"
    )]
    ServiceAddress {
        /// The env name.
        name: String,
        /// The value, such as `tcp://10.0.0.1:80`.
        value: String,
    },
    /// Limits by address that count all clients of a proxy together.
    #[error(
        "--listen has a unix socket and --trusted-proxies does not have unix: --{flag} applies to all clients of the socket together"
    )]
    TogetherOverUnix {
        /// The flag of the limit.
        flag: &'static str,
    },
    /// `--reuse-port` without a TCP port.
    #[error(
        "--reuse-port has no effect: --listen has no IP address; give each process a unix socket"
    )]
    NoPortToShare,
    /// An env name with weirgate's prefix that is not a setting.
    #[error("{name} is not a setting of this gateway and was ignored{}", nearest.as_ref().map_or_else(String::new, |n| format!("; did you mean {n}?")))]
    Unknown {
        /// The env name.
        name: String,
        /// The nearest setting, probably the intended one.
        nearest: Option<String>,
    },
}
