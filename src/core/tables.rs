//! Tables by client: the key of a connection, and the tables that it is looked up in.

mod by_client;
mod shrink;
mod slot_set;

use std::fmt;

pub use by_client::ByClient;
pub(crate) use shrink::{SlabRoom, is_too_large, shrink, trim_slots};
pub(crate) use slot_set::SlotSet;

/// A connection, from accept to the end of the socket. The slot is free again only after the shell has
/// called `handle_released`; the generation tells the occupants of a slot apart, so that an event of an
/// ended socket never reaches the next occupant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionKey {
    /// Index in the table of sessions.
    pub slot: u32,
    /// The number of the occupant of the slot.
    pub generation: u32,
}

impl SessionKey {
    /// Returns the key as a 64-bit number, for a poll token.
    pub const fn to_bits(self) -> u64 {
        (self.generation as u64) << 32 | self.slot as u64
    }

    /// Reverses [`Self::to_bits`].
    pub const fn from_bits(bits: u64) -> Self {
        Self {
            slot: bits as u32,
            generation: (bits >> 32) as u32,
        }
    }
}

/// As operators see and name a connection.
impl fmt::Display for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.slot, self.generation)
    }
}
