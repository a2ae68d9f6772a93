//! The limit that is the reason for the end of a connection, in the words of an operator.

use std::fmt;

/// The limit that has ended a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HitLimit {
    /// What operators change to change the limit.
    pub source: LimitOf,
    /// The number in force.
    pub max: u64,
}

/// What a limit comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitOf {
    /// A flag, without dashes.
    Flag(&'static str),
    /// A fixed share of `--memory-max`.
    Share(&'static str),
    /// The system, or a constant.
    Other(&'static str),
}

impl fmt::Display for HitLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let max = self.max;
        match self.source {
            LimitOf::Flag(flag) => write!(f, "--{flag} {max}"),
            LimitOf::Share(name) => write!(f, "{name} {max} (a share of --memory-max)"),
            LimitOf::Other(name) => write!(f, "{name} {max}"),
        }
    }
}
