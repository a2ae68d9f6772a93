//! What is reported to the loop: messages, whether they are old, that the reader has caught up, and how far it is behind. Pure.

use super::super::entry::{StreamEntry, message};
use super::super::prints::EntryPrint;
use crate::kept::KeptEvent;
use weirgate_core::StoredId;

/// What was reported of the stream so far.
#[derive(Debug, Default)]
pub(super) struct Reports {
    /// The newest entry that was handed over, or the newest of the stream if it has a lower id.
    pub(super) reached: Option<StoredId>,
    /// The newest entry at the first inspection, until it is read: entries up to here are old.
    old_until: Option<StoredId>,
    /// Whether [`KeptEvent::CaughtUp`] was reported on this connection.
    is_caught_up: bool,
    /// Whether the last [`KeptEvent::Lag`] on this connection says that all was read.
    says_end: bool,
}

impl Reports {
    /// Handles a new connection.
    pub(super) fn connected(&mut self) {
        (self.is_caught_up, self.says_end) = (false, false);
    }

    /// Handles the first inspection, which has found this newest entry.
    pub(super) fn begin(&mut self, newest: Option<StoredId>) {
        self.old_until = newest;
    }

    /// Handles that the stream is another one, of which the loop knows entries up to `reached`. None of its entries is old.
    pub(super) fn begin_anew(&mut self, reached: Option<StoredId>) {
        (self.reached, self.old_until) = (reached, None);
    }

    /// Hands an entry over, which has this print.
    pub(super) fn hand_over(
        &mut self,
        entry: StreamEntry,
        print: EntryPrint,
        out: &mut Vec<KeptEvent>,
    ) {
        let hash = print.hash_of(&entry);
        let StreamEntry { id, fields } = entry;
        let is_old = self.old_until.is_some_and(|until| id <= until);
        if !is_old {
            self.report_old_ended(out);
        }
        out.push(match message(fields) {
            Ok((subject, payload)) => KeptEvent::Message {
                id,
                hash,
                subject,
                payload,
                is_deletion: false,
                is_old,
            },
            Err(why) => KeptEvent::Bad { id, why },
        });
        if self.old_until == Some(id) {
            self.report_old_ended(out);
        }
    }

    /// Reports, once on a connection, that the reader has caught up, unless old entries have to be read first.
    pub(super) fn report_unless_old(&mut self, out: &mut Vec<KeptEvent>) {
        if self.old_until.is_none() {
            self.report_caught_up(out);
        }
    }

    /// Handles that no old entries will come: all were read, or the others were trimmed or deleted.
    pub(super) fn report_old_ended(&mut self, out: &mut Vec<KeptEvent>) {
        self.old_until = None;
        self.report_caught_up(out);
    }

    fn report_caught_up(&mut self, out: &mut Vec<KeptEvent>) {
        if !self.is_caught_up {
            self.is_caught_up = true;
            out.push(KeptEvent::CaughtUp);
        }
    }

    /// Reports how far the reader is behind the newest entry: messages, if that is known, and milliseconds.
    pub(super) fn report_lag(&mut self, messages: Option<u64>, ms: u64, out: &mut Vec<KeptEvent>) {
        self.says_end = false;
        out.push(KeptEvent::Lag { messages, ms });
    }

    /// Reports that the reader has read all entries.
    pub(super) fn report_end(&mut self, out: &mut Vec<KeptEvent>) {
        self.says_end = true;
        out.push(KeptEvent::Lag {
            messages: Some(0),
            ms: 0,
        });
    }

    /// Reports that the reader has read all entries, once it has caught up and if that is news.
    pub(super) fn report_end_again(&mut self, out: &mut Vec<KeptEvent>) {
        if self.is_caught_up && !self.says_end {
            self.report_end(out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::model::{ModelStep, StreamServer};
    use super::super::rig::{Log, is_old, read, reading};
    use super::*;

    #[test]
    fn old_entries_come_before_it_stands() {
        let mut server = StreamServer::new();
        let mut reader = reading(1_000);
        assert_eq!(
            read(&mut reader, &mut server),
            [KeptEvent::CaughtUp],
            "empty"
        );
        server.step(&ModelStep::Add(2));
        let mut reader = reading(1_000);
        let mut log = Log::default();
        log.take(&mut reader, &mut server);
        assert_eq!(log.events, []);
        server.step(&ModelStep::Add(1));
        let events = read(&mut reader, &mut server);
        let events: Vec<_> = events.iter().map(is_old).collect();
        assert_eq!(events, [Some(true), Some(true), None, Some(false)]);
    }

    /// The old entries go while the reader is away, before it has read one.
    #[test]
    fn a_stream_that_was_emptied_before_it_was_read_is_caught_up() {
        let mut server = StreamServer::new();
        server.step(&ModelStep::Add(2));
        let mut reader = reading(1_000);
        let mut log = Log::default();
        log.take(&mut reader, &mut server);
        assert_eq!(log.events, [], "old entries come first");
        server.step(&ModelStep::Trim(2));
        reader.connected();
        assert_eq!(read(&mut reader, &mut server), [KeptEvent::CaughtUp]);
    }
}
