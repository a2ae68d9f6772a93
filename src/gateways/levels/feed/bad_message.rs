//! The faults of bad messages.

use thiserror::Error;

use crate::gateways::shared::feed::TooLarge;
use weirgate_wire::json::JsonError;

/// Why a message is skipped completely. Always its publisher's fault (publish-levels.md, "What is wrong").
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum BadMessage {
    /// Over the limit on bus messages.
    #[error(transparent)]
    TooLarge(#[from] TooLarge),
    /// Not JSON, or nested deeper than allowed.
    #[error(transparent)]
    NotJson(#[from] JsonError),
    /// A fault that was found before the loop got the message, in words.
    #[error("{0}")]
    Found(Box<str>),
    /// A `levels.signals` message that is not an object.
    #[error("not an object")]
    NotAnObject,
    /// A field whose value has a type that the contract does not take.
    #[error("`{field}` has a wrong type")]
    WrongType {
        /// The field.
        field: &'static str,
    },
    /// A `ts` out of the range of the session clock.
    #[error("`ts` is out of range")]
    TsOutOfRange,
    /// `barrier.depth_in_zone` is no finite double, and `wall_ratio` is computed from it.
    #[error("`barrier.depth_in_zone` is out of range")]
    DepthInZoneOutOfRange,
    /// The message is within the limit on the bus, but its output, with all defaults filled in, is too large.
    #[error("normalised, it is larger than the allowed {bytes_max} bytes")]
    NormalisedTooLarge {
        /// The limit.
        bytes_max: usize,
    },
}

impl BadMessage {
    pub(super) const fn wrong(field: &'static str) -> Self {
        Self::WrongType { field }
    }
}
