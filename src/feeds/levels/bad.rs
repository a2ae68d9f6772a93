//! What makes a message bad.

use thiserror::Error;

use crate::feeds::TooLarge;
use crate::wire::json::JsonError;

/// Why a message is skipped whole. Always its publisher's fault (contract: "Bad is").
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum BadMessage {
    /// Over the limit on bus messages.
    #[error(transparent)]
    TooLarge(#[from] TooLarge),
    /// Not JSON, or nested deeper than allowed.
    #[error(transparent)]
    NotJson(#[from] JsonError),
    /// A `levels.signals` message that is no object.
    #[error("not an object")]
    NotAnObject,
    /// A field whose value has a type that the contract does not take.
    #[error("`{field}` has a wrong type")]
    WrongType {
        /// The field.
        field: &'static str,
    },
    /// A `ts` that is no moment which the session clock knows.
    #[error("`ts` is out of range")]
    TsOutOfRange,
    /// A `barrier.depth_in_zone` that no double holds, where `wall_ratio` needs it.
    #[error("`barrier.depth_in_zone` is out of range")]
    DepthInZoneOutOfRange,
    /// Small on the bus, too large with all defaults filled in.
    #[error("normalised, it is larger than the allowed {bytes_max} bytes")]
    NormalisedTooLarge {
        /// The limit.
        bytes_max: usize,
    },
}

impl BadMessage {
    /// A field of a wrong type.
    pub(super) const fn wrong(field: &'static str) -> Self {
        Self::WrongType { field }
    }
}
