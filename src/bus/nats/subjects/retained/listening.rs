//! The subscription for answers. A server can refuse it, also later, and a refused one is not made again by the server. Pure.

use std::time::{Duration, Instant};

/// How long the subscription is not made again after the server has refused it: each attempt is an error in the log of the
/// server.
pub(super) const LISTEN_PAUSE: Duration = Duration::from_secs(5);

/// What the server has said of the subscription.
#[derive(Debug, Default)]
pub(super) struct Listening {
    step: ListenStep,
    /// If the server has refused or ended the subscription: when it may be made again, and the words of the server.
    refused: Option<(Instant, String)>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum ListenStep {
    #[default]
    Off,
    /// It was sent.
    Asked,
    /// A ping with this number was sent after it: an error before the PONG can be about it.
    Pinged(u64),
    On,
}

impl Listening {
    /// Whether answers come, as far as is known.
    pub(super) fn is_on(&self) -> bool {
        self.step != ListenStep::Off
    }

    /// Whether the subscription is to be sent now; then it counts as sent.
    pub(super) fn begins(&mut self, now: Instant) -> bool {
        let is_due = self.refused.as_ref().is_none_or(|(again, _)| now >= *again);
        let begins = !self.is_on() && is_due;
        if begins {
            self.step = ListenStep::Asked;
        }
        begins
    }

    /// Handles a refusal, with its words.
    pub(super) fn refused(&mut self, words: String, now: Instant) {
        self.step = ListenStep::Off;
        self.refused = Some((now + LISTEN_PAUSE, words));
    }

    /// The words of the last refusal.
    pub(super) fn words(&self) -> &str {
        self.refused.as_ref().map_or("", |(_, words)| words)
    }

    /// Whether a ping has to follow the subscription.
    pub(super) fn needs_ping(&self) -> bool {
        self.step == ListenStep::Asked
    }

    /// Notes the number of a ping that goes out now.
    pub(super) const fn note_ping(&mut self, ping: u64) {
        if matches!(self.step, ListenStep::Asked) {
            self.step = ListenStep::Pinged(ping);
        }
    }

    /// Handles answers to pings.
    pub(super) fn note_pongs(&mut self, is_answered: impl Fn(u64) -> bool) {
        if let ListenStep::Pinged(ping) = self.step
            && is_answered(ping)
        {
            self.step = ListenStep::On;
        }
    }

    /// Whether an error without a subject can be about the subscription: it is the oldest request without an answer, if
    /// `oldest` is the number of the ping after the oldest other one.
    pub(super) fn may_be_meant(&self, oldest: Option<u64>) -> bool {
        match self.step {
            ListenStep::Off | ListenStep::On => false,
            ListenStep::Asked => oldest.is_none(),
            ListenStep::Pinged(ping) => oldest.is_none_or(|oldest| ping < oldest),
        }
    }
}
