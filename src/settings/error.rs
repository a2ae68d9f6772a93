//! What can be wrong with settings, in words for the person who typed them.

use super::kind::Refused;
use super::setting::Setting;
use super::typed::Source;

/// One wrong setting. Its text never holds a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// A value that is not allowed.
    #[error("{name} is {value}; allowed: {allowed}")]
    Value {
        /// The flag, with the env name if that holds the value.
        name: String,
        /// The value, quoted; `***` where it may be secret.
        value: String,
        /// What is allowed.
        allowed: String,
    },
    /// An env value that is no UTF-8.
    #[error("{name} is not UTF-8 text")]
    NotText {
        /// The env name, behind the flag if the name belongs to one.
        name: String,
    },
    /// A setting that there is no default for.
    #[error("--{flag} (env {env}) is needed; allowed: {allowed}")]
    Missing {
        /// The flag.
        flag: &'static str,
        /// The env name that one would set.
        env: String,
        /// What is allowed.
        allowed: String,
    },
    /// Two settings that say the same in different ways.
    #[error("--{one} ({one_from}) and --{other} ({other_from}) are both set; allowed: one of them")]
    Either {
        /// A flag.
        one: &'static str,
        /// The source of its value.
        one_from: Source,
        /// The other flag.
        other: &'static str,
        /// The source of its value.
        other_from: Source,
    },
    /// A setting that is half of something.
    #[error("--{one} ({one_from}) is set without --{other}; allowed: both or none")]
    Alone {
        /// The flag.
        one: &'static str,
        /// The source of its value.
        one_from: Source,
        /// The flag that is missing.
        other: &'static str,
    },
    /// Two values that do not fit together.
    #[error(
        "--{low} is {low_value} ({low_from}); allowed: at most --{high}, {high_value} ({high_from})"
    )]
    Order {
        /// The flag that is too large.
        low: &'static str,
        /// Its value.
        low_value: u64,
        /// The source of its value.
        low_from: Source,
        /// The flag that limits it.
        high: &'static str,
        /// Its value.
        high_value: u64,
        /// The source of its value.
        high_from: Source,
    },
}

impl SettingsError {
    /// A value of `setting` that is not allowed.
    pub(super) fn value(setting: &Setting, source: &Source, refused: &Refused) -> Self {
        Self::Value {
            name: match source {
                Source::Env(_) => setting.named(source),
                _ => format!("--{}", setting.flag),
            },
            value: setting.kind.shown_when_wrong(&refused.item),
            allowed: refused.allowed.clone(),
        }
    }
}

/// Something that does not stop the start, but should be read. For the log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Warning {
    /// An address that Kubernetes injects for a service of that name.
    #[error(
        "{name}={value} is ignored: Kubernetes sets it for a service; set a port number, or rename the service"
    )]
    ServiceAddress {
        /// The env name.
        name: String,
        /// The value, such as `tcp://10.0.0.1:80`.
        value: String,
    },
    /// Limits by address that do not tell the clients of a proxy apart.
    #[error(
        "--listen has a unix socket and --trusted-proxies does not have unix: --{flag} applies to all clients of the socket together"
    )]
    TogetherOverUnix {
        /// The flag of the limit.
        flag: &'static str,
    },
    /// A port is shared, and there is none.
    #[error(
        "--reuse-port has no effect: --listen has no IP address; give each process a unix socket"
    )]
    NoPortToShare,
    /// An env name with our prefix that is no setting.
    #[error("{name} is no setting and is ignored{}", nearest.as_ref().map_or_else(String::new, |n| format!("; did you mean {n}?")))]
    Unknown {
        /// The env name.
        name: String,
        /// The setting that was probably meant.
        nearest: Option<String>,
    },
}
