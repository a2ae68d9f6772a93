//! The subscription for answers. A server can refuse it, also later, and a refused one is not made again by the server. Pure.

use std::time::{Duration, Instant};

/// How long the subscription is not made again after the server has refused it: each attempt is an error in the log of the
/// server.
pub(super) const LISTEN_PAUSE: Duration = Duration::from_secs(5);

/// The subscription for answers on a connection.
#[derive(Debug, Default)]
pub(super) enum Listening {
    /// It was not sent yet.
    #[default]
    Off,
    /// It was sent.
    Asked,
    /// A ping with this number was sent after it: an error before the PONG can be about it.
    Pinged(u64),
    On,
    /// The server has refused or ended it.
    Refused {
        /// When it may be made again.
        again: Instant,
        /// The words of the server.
        words: String,
    },
}

impl Listening {
    /// Whether the subscription is to be sent now; then it counts as sent.
    pub(super) fn begins(&mut self, now: Instant) -> bool {
        let begins = match self {
            Self::Off => true,
            Self::Refused { again, .. } => now >= *again,
            Self::Asked | Self::Pinged(_) | Self::On => false,
        };
        if begins {
            *self = Self::Asked;
        }
        begins
    }

    /// Handles a refusal, with its words.
    pub(super) fn refused(&mut self, words: String, now: Instant) {
        let again = now + LISTEN_PAUSE;
        *self = Self::Refused { again, words };
    }

    /// The words of the refusal; `None`: answers come, as far as is known.
    pub(super) fn refused_with(&self) -> Option<&str> {
        match self {
            Self::Refused { words, .. } => Some(words),
            Self::Off | Self::Asked | Self::Pinged(_) | Self::On => None,
        }
    }

    /// Whether a ping has to follow the subscription.
    pub(super) const fn needs_ping(&self) -> bool {
        matches!(self, Self::Asked)
    }

    /// Notes the number of a ping that goes out now.
    pub(super) fn note_ping(&mut self, ping: u64) {
        if self.needs_ping() {
            *self = Self::Pinged(ping);
        }
    }

    /// Handles answers to pings.
    pub(super) fn note_pongs(&mut self, is_answered: impl Fn(u64) -> bool) {
        if let Self::Pinged(ping) = self
            && is_answered(*ping)
        {
            *self = Self::On;
        }
    }

    /// Whether an error without a subject can be about the subscription: it is the oldest request without an answer, if
    /// `oldest` is the number of the ping after the oldest other one.
    pub(super) fn may_be_meant(&self, oldest: Option<u64>) -> bool {
        match self {
            Self::Off | Self::On | Self::Refused { .. } => false,
            Self::Asked => oldest.is_none(),
            Self::Pinged(ping) => oldest.is_none_or(|oldest| *ping < oldest),
        }
    }
}
