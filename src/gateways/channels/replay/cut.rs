//! Why messages are missing from a replay, which the client is told at its end.

use weirgate_core::{Lacks, RetainedCut};

/// The reason for the client; `None`: no message is missing.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ReplayCut(Option<RetainedCut>);

impl ReplayCut {
    /// Notes a reason. The first one stays, but for [`RetainedCut::Epoch`]: with it no message is missing.
    pub(super) fn note(&mut self, cut: RetainedCut) {
        let before = self.0.filter(|before| *before != RetainedCut::Epoch);
        self.0 = before.or(Some(cut));
    }

    /// The reason for the client.
    pub(super) fn reason(self) -> Option<RetainedCut> {
        self.0
    }

    /// What the client lacks of what should have come so far.
    pub(super) fn lacks(self) -> Lacks {
        match self.0 {
            // It has all messages.
            None | Some(RetainedCut::Epoch) => Lacks::Nothing,
            Some(_) => Lacks::Earlier,
        }
    }
}
