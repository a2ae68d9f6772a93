//! The kept feed on a connection: positions as soon as all names are subscribed, and marks
//! once the channel of the marks is.

use std::time::Instant;

use super::Kept;
use super::connection::Connection;
use super::error::{RedisError, Stop};
use super::handshake::shown;
use super::marks::is_lone_master;
use super::resp::Value;
use super::session::{Expected, Session};
use crate::feeds::{Place, Subscription};
use crate::telemetry::BusStatus;

impl Kept {
    /// Handles a new connection, before its first subscription. Returns whether marks of other instances
    /// count there.
    pub(super) fn connected(
        &mut self,
        connection: &mut Connection<'_>,
        status: &BusStatus,
    ) -> Result<bool, RedisError> {
        status.set_positions_shared(false);
        self.feed.connected();
        self.marks.connected();
        is_lone_master(connection, Instant::now() + super::HANDSHAKE_TIMEOUT)
    }
}

impl Session<'_, '_> {
    /// Begins to count, if all names of the feed are subscribed: from a mark of this connection alone, and
    /// from published marks as soon as their channel is subscribed, if the server permits.
    pub(super) fn begin_feed(&mut self) -> Result<(), Stop> {
        let Some(kept) = self.kept.as_mut().filter(|kept| kept.feed.may_begin()) else {
            return Ok(());
        };
        self.relay.link.send(kept.feed.begin())?;
        if self.may_share {
            let channel = &*kept.marks.channel;
            self.connection.queue(["SUBSCRIBE", channel].iter());
            self.state.expected.push_back(Expected::Marks);
        }
        Ok(())
    }

    /// Notes the answer for a name.
    pub(super) fn settle_kept(&mut self, subscription: &Subscription, stands: bool) {
        if let Some(kept) = &mut self.kept {
            kept.feed.settle(subscription, stands);
        }
    }

    /// Handles the confirmation of the marks' channel: marks of all instances count from here on.
    pub(super) fn marks_confirmed(&mut self, name: &Value) -> Result<(), Stop> {
        self.state.expected.pop_front();
        match (&mut self.kept, name) {
            (Some(kept), Value::Bulk(name)) if *name == kept.marks.channel.as_bytes() => {
                kept.marks.begin();
                Ok(())
            }
            _ => Err(self.wrong("a confirmation of what was not asked")),
        }
    }

    /// Handles the refusal of the marks' channel.
    pub(super) fn marks_refused(&mut self, words: &str) {
        let channel = self.kept.as_ref().map(|kept| &*kept.marks.channel);
        tracing::warn!(
            channel,
            reason = shown(words),
            "this user may not subscribe to the marks (&CHANNEL), so positions are valid on this \
             connection only"
        );
    }

    /// Whether a message on this channel is a mark. No client gets marks.
    pub(super) fn is_mark(&self, channel: &str) -> bool {
        self.kept
            .as_ref()
            .is_some_and(|kept| *kept.marks.channel == *channel)
    }

    /// Takes a message on the marks' channel. A copy by a pattern is no mark.
    pub(super) fn take_mark(&mut self, is_copy: bool, payload: &[u8]) -> Result<(), Stop> {
        if let Some(kept) = &mut self.kept
            && !is_copy
            && kept.marks.may_share()
            && let Some(event) = kept.feed.marked(payload)
        {
            kept.marks.is_shared = true;
            self.relay.status.set_positions_shared(true);
            self.relay.link.send(event)?;
        }
        Ok(())
    }

    /// Publishes the mark that is due, and counts from a mark of this connection alone if published marks count
    /// no longer. Returns the time of the next mark.
    pub(super) fn mark(&mut self) -> Result<Option<Instant>, Stop> {
        let Some(kept) = &mut self.kept else {
            return Ok(None);
        };
        if kept.marks.was_demoted() {
            let server = self.connection.server().to_owned();
            return Err(RedisError::Moved { server }.into());
        }
        if kept.marks.is_shared && !kept.marks.may_share() {
            kept.marks.is_shared = false;
            self.relay.status.set_positions_shared(false);
            self.relay.link.send(kept.feed.begin())?;
        }
        let due = kept.marks.due();
        if due.is_some_and(|due| due <= Instant::now()) {
            let mark = kept.feed.next_mark();
            kept.marks.publish(mark);
        }
        Ok(kept.marks.due())
    }

    /// The place of a message; `None` for a copy.
    pub(super) fn place(&mut self, pattern: Option<&str>, subject: &str) -> Option<Place> {
        let Some(kept) = &mut self.kept else {
            return Some(Place::Outside);
        };
        match pattern {
            Some(pattern) => kept.feed.place(pattern, true, subject),
            None => kept.feed.place(subject, false, subject),
        }
    }

    /// The place of a message with a cut channel name.
    ///
    /// # Errors
    /// Nobody can say whether an earlier name of the feed matches the whole name, so the count is lost.
    pub(super) fn place_of_cut(&mut self, by: &Subscription) -> Result<Place, Stop> {
        let Some(kept) = &mut self.kept else {
            return Ok(Place::Outside);
        };
        let place = kept.feed.place_of_unknown(by);
        place.ok_or_else(|| self.wrong("a channel whose name is too long"))
    }
}
