//! Names of things inside the core.

/// One connection, from accept to the end of its socket. The slot is free again only after the
/// shell said `released`; the generation tells its occupants apart, so that an event of a socket
/// that is gone never reaches its successor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionKey {
    /// Index in the table of sessions.
    pub slot: u32,
    /// Which occupant of the slot.
    pub generation: u32,
}

impl SessionKey {
    /// As one word, for a poll token.
    pub const fn to_bits(self) -> u64 {
        (self.generation as u64) << 32 | self.slot as u64
    }

    /// Back from [`Self::to_bits`].
    pub const fn from_bits(bits: u64) -> Self {
        Self {
            slot: bits as u32,
            generation: (bits >> 32) as u32,
        }
    }
}

/// One topic while it has members or a retained frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TopicKey(pub(super) u32);
