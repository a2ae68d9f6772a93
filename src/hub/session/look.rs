//! The state of a session, as operators see it.

use super::{PhaseKind, Sending, Session};
use crate::hub::{ClientLook, ClientState, Now, Traffic};

impl Session {
    /// How fast the client takes the messages.
    pub(in crate::hub) fn state(&self) -> ClientState {
        match self.phase() {
            PhaseKind::Head => return ClientState::Head,
            PhaseKind::Closing | PhaseKind::Gone => return ClientState::Closing,
            PhaseKind::Open => {}
        }
        if self.queue.is_empty() {
            ClientState::Idle
        } else if self.queue.over_soft_since().is_some() {
            ClientState::OverSoft
        } else if self.queue.is_conflating() {
            ClientState::Conflating
        } else if self.sending == Sending::Blocked {
            ClientState::Blocked
        } else {
            ClientState::Waiting
        }
    }

    /// Time since the oldest waiting message arrived, microseconds.
    pub(in crate::hub) fn oldest_us(&self, now: Now) -> Option<u64> {
        let oldest_at = self.queue.oldest_at()?;
        Some(now.mono_us.saturating_sub(oldest_at))
    }

    /// Messages in both directions since [`set_surveyed`](Self::set_surveyed).
    pub(in crate::hub) fn recent_messages(&self) -> u64 {
        self.messages() - self.cold.record.messages_surveyed
    }

    pub(in crate::hub) fn set_surveyed(&mut self) {
        self.cold.record.messages_surveyed = self.messages();
    }

    fn messages(&self) -> u64 {
        let traffic = self.traffic();
        traffic.messages_in + traffic.messages_out
    }

    /// The traffic so far.
    pub(super) fn traffic(&self) -> Traffic {
        Traffic {
            bytes_out: self.queue.bytes_out(),
            messages_out: self.queue.frames_out(),
            ..self.cold.record.traffic
        }
    }

    /// The client with its numbers, without its topics.
    pub(in crate::hub) fn look(&self, now: Now) -> ClientLook {
        let (queue, record) = (&self.queue, &self.cold.record);
        let waits = self.has_waiting();
        ClientLook {
            client: record.client,
            user: record.user.clone(),
            tls: record.tls,
            path: record.path().into(),
            state: self.state(),
            age_us: now.mono_us.saturating_sub(record.accepted_us()),
            queue_messages: self.queued_frames() as u64,
            queue_bytes: self.queued_bytes() as u64,
            oldest_us: self.oldest_us(now),
            stuck_us: waits.then(|| now.mono_us.saturating_sub(queue.progress_at())),
            traffic: self.traffic(),
            topics: 0,
            topic: None,
            recent_messages: 0,
        }
    }
}
