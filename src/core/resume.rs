//! Resuming: what a client has missed.
//!
//! When a client resumes, its missed messages follow the answer to the request, before newer messages. In one call of the
//! gateway, the gateway finds the missed messages of a name and joins the client: no publication can come between. If the
//! request has more names than there is time for, the gateway goes on in a later turn. What comes meanwhile of the names
//! joined so far is postponed ([`Core::postpone`]), and follows with the missed messages, in the order of the feed. If
//! these are more than there is time for, the core goes on with them in later turns, and newer ones stay postponed.

use super::core::Core;
use super::history::{FrameBudget, Missed, merge_charge};
use super::session::Session;
use super::{KeptCursor, KeptHead, KeptPage, Lacks, NotRecovered, Outcome, SessionKey, Wanted};
use weirgate_wire::admission::Quota;

/// Up to so many bytes, both the missed messages of a client and the newer ones that were postponed during the search
/// wait outside of the limits of its send queue. Each kind has the limit [`Core::RESUME_BYTES_MAX`], so one search stays
/// below. Above, further postponed messages count for the limits of the send queue.
pub(super) const REPLAYED_BYTES_MAX: usize = 2 * Core::RESUME_BYTES_MAX;
/// The most missed messages that are put in a send queue at once.
const SENT_AT_ONCE: usize = 100;
/// Memory of a missed message in a send queue, bytes. The quota counts messages, so the memory of a search is charged as
/// the number of messages that take as much.
const RESUMED_MESSAGE_BYTES: usize = 16;
/// The bytes of a page of kept messages.
const KEPT_PAGE_BYTES: usize = 256 * 1024;

/// A client that gets missed messages.
#[derive(Clone, Copy, Debug)]
pub struct Recipient {
    /// The client.
    pub key: SessionKey,
    /// The bytes of the messages that were found for the client so far: they count towards the same limit.
    pub bytes_beside: usize,
}

impl Core {
    /// The most bytes of missed messages for a client, over all of its requests, until the client has them.
    pub const RESUME_BYTES_MAX: usize = 4 * 1024 * 1024;

    /// The missed messages that wait for resuming clients.
    pub fn resumed_messages(&self) -> &Quota {
        &self.resumed_messages
    }

    /// Finds the messages of these names after the position `since`, which is the client's text and may be no position.
    /// In the same call the gateway joins the client ([`join`](Self::join)), and sends its answer, then calls
    /// [`send_missed`](Self::send_missed); or it [postpones](Self::postpone) the newer messages of these names until it
    /// does so in a later turn.
    pub fn missed(
        &mut self,
        recipient: Recipient,
        since: &str,
        wanted: &[Wanted],
    ) -> (Missed, Vec<Outcome>) {
        let found = self.find_missed(recipient, since, wanted);
        found.unwrap_or_else(|why| (Missed::default(), vec![Err(why); wanted.len()]))
    }

    /// Goes on with a search, or makes the next frames of messages that were found.
    ///
    /// # Errors
    /// [`NotRecovered::Window`]: a message is no longer here. [`NotRecovered::Large`]: the messages are too many.
    pub fn make_missed(&mut self, recipient: Recipient, missed: &mut Missed) -> Outcome {
        let budget = self.frame_budget(recipient);
        let history = self.history.as_mut().ok_or(NotRecovered::Off)?;
        let charged = missed.len();
        history.make_next(missed, budget)?;
        self.charge_messages(recipient.key, missed, charged)
    }

    /// How far this instance has read the stream, for clients that get all kept messages; nowhere without a history, or
    /// while it is being filled.
    pub fn kept_head(&self) -> KeptHead {
        let history = self.history.as_ref().filter(|_| !self.is_filling);
        history.map(|history| history.head()).unwrap_or_default()
    }

    /// The next kept messages of these names after a cursor, for a client that gets all of them: at most a page, and what a
    /// step of a search finds, which goes out with [`send_missed`](Self::send_missed). If it is the last one, the gateway
    /// joins the client in the same call.
    ///
    /// # Errors
    /// As of [`missed`](Self::missed). [`NotRecovered::Large`]: there is no room for a page now, or it is about to be known
    /// whether messages were lost.
    pub fn kept_page(
        &mut self,
        key: SessionKey,
        cursor: &KeptCursor,
        wanted: &[Wanted],
        lacks: Lacks,
    ) -> Result<KeptPage, NotRecovered> {
        if !self.may_begin_resume(key) {
            return Err(NotRecovered::Large);
        }
        if self.is_in_doubt_for(key) {
            self.end_doubt(key);
            return Err(NotRecovered::Gap);
        }
        let room = self.frame_budget(Recipient {
            key,
            bytes_beside: 0,
        });
        let budget = FrameBudget {
            bytes_max: KEPT_PAGE_BYTES.min(room.bytes_max),
            has_positions: lacks == Lacks::Nothing,
            ..room
        };
        let history = self.history.as_mut().filter(|history| !history.is_off);
        let history = history.ok_or(NotRecovered::Off)?;
        let mut page = history.page(cursor, wanted, lacks == Lacks::More, budget)?;
        // None of them is charged yet.
        self.charge_messages(key, &mut page.messages, 0)?;
        Ok(page)
    }

    /// Counts the outcomes that a client was notified of.
    pub fn count_outcomes(&mut self, outcomes: &[Outcome]) {
        for outcome in outcomes {
            match outcome {
                Ok(()) => self.clients.stats.resumes_recovered += 1,
                Err(why) => self.count_not_recovered(*why),
            }
        }
    }

    /// Whether a client can resume from `since` now, whatever the names.
    pub fn resumes_from(&self, key: SessionKey, since: &str) -> Outcome {
        self.may_resume(key)?;
        let history = self.history.as_ref().ok_or(NotRecovered::Off)?;
        history.check_position(since)
    }

    /// Checks that the history may be searched for a client now.
    ///
    /// # Errors
    /// The client has a rate of its own, there is no history, it is still being filled, or messages of the bus may be lost
    /// ([`super::doubts`]).
    fn may_resume(&self, key: SessionKey) -> Outcome {
        let session = self.clients.session(key);
        // With a rate of its own, the newest message of a key may wait in the throttle while later messages have been sent.
        let has_own_rate = session.is_none_or(Session::has_own_rate);
        let history = self.history.as_ref().filter(|history| !history.is_off);
        match history {
            Some(_) if has_own_rate => Err(NotRecovered::Off),
            None => Err(NotRecovered::Off),
            Some(_) if self.is_filling => Err(NotRecovered::Epoch),
            Some(_) if self.is_in_doubt_for(key) => Err(NotRecovered::Gap),
            Some(_) => Ok(()),
        }
    }

    /// Postpones the messages of the kept feed that come for a client, until
    /// [`postpone_no_longer`](Self::postpone_no_longer): the gateway goes on with its search in a later turn.
    pub fn postpone(&mut self, key: SessionKey) {
        // Postponed messages pass by the throttle, so what it holds of their names would come after them.
        self.clients.open_throttle(self.now, &self.limits, key);
        if let Some(session) = self.clients.session_mut(key) {
            session.postpone(self.now);
        }
    }

    /// Whether messages are postponed for a client. They no longer are if they became too many: then the client gets
    /// no missed messages, because it has got newer ones.
    pub fn postpones(&self, key: SessionKey) -> bool {
        self.clients.session(key).is_some_and(Session::postpones)
    }

    /// Whether missed or postponed messages wait for the client's next share.
    pub fn sends_postponed(&self, key: SessionKey) -> bool {
        let session = self.clients.session(key);
        session.is_some_and(Session::sends_postponed)
    }

    /// Finds the newest `count` messages of each topic that these names match: for a client without a position, or
    /// for names whose missed messages are not all there. The answer and [`send_missed`](Self::send_missed) follow as
    /// after [`missed`](Self::missed). A history that is off, or being filled, has none.
    ///
    /// # Errors
    /// [`NotRecovered::Large`]: the messages are too many.
    pub fn newest(
        &mut self,
        recipient: Recipient,
        wanted: &[Wanted],
        count: usize,
    ) -> Result<Missed, NotRecovered> {
        let budget = self.frame_budget(recipient);
        let history = self.history.as_mut().filter(|history| !history.is_off);
        let Some(history) = history.filter(|_| !self.is_filling) else {
            return Ok(Missed::default());
        };
        let (mut newest, found) = history.newest(wanted, count, budget);
        found?;
        // None of them is charged yet.
        self.charge_messages(recipient.key, &mut newest, 0)?;
        Ok(newest)
    }

    /// Ends the search: in the same call the gateway sends its answer, and then the missed messages
    /// ([`send_missed`](Self::send_missed)), with which the postponed ones go out.
    pub fn postpone_no_longer(&mut self, key: SessionKey) {
        if let Some(session) = self.clients.session_mut(key) {
            session.let_out();
        }
    }

    /// The frames that the client may still get, less the messages that wait for it, and those that were found.
    fn frame_budget(&self, recipient: Recipient) -> FrameBudget {
        let Recipient { key, bytes_beside } = recipient;
        let waiting = self.clients.session(key).map(Session::replayed_bytes);
        FrameBudget {
            content: self.content(key),
            bytes_max: Self::RESUME_BYTES_MAX
                .saturating_sub(waiting.unwrap_or_default() + bytes_beside),
            has_positions: true,
        }
    }

    /// Charges the messages, beyond so many that are charged already, to the client's address until they have left, and what
    /// their search remembers. Live messages do not count here: they have the limits of the send queues.
    fn charge_messages(&self, key: SessionKey, missed: &mut Missed, charged: usize) -> Outcome {
        let Some(address) = self.client_addr(key) else {
            return Ok(());
        };
        let quota = &self.resumed_messages;
        let more = missed.len().saturating_sub(charged) as u64;
        if more > 0 {
            let granted = quota.grant(address, more).ok_or(NotRecovered::Large)?;
            merge_charge(&mut missed.charge, Some(granted));
        }
        missed.charge_search(|bytes| {
            let messages = bytes.div_ceil(RESUMED_MESSAGE_BYTES);
            quota.grant_spare(address, messages as u64)
        });
        Ok(())
    }

    /// Counts a name that is not resumed because the gateway does not allow the resume.
    pub fn count_not_recovered(&mut self, why: NotRecovered) {
        self.clients.stats.resumes_refused[why as usize] += 1;
    }

    /// Puts missed messages in the client's send queue, outside of its limits: in the order of the feed, and as many as
    /// the client has time for. The rest follows in later turns, before any newer message of the feed. Returns true if
    /// messages of [`newest`](Self::newest) are among them: then the gateway has to send the current position next.
    pub fn send_missed(&mut self, key: SessionKey, mut missed: Missed) -> bool {
        let has_newest = missed.has_newest;
        let Some(session) = self.clients.session_mut(key) else {
            return has_newest;
        };
        session.hold_resumed(missed.charge.take());
        self.end_doubt(key);
        self.notify_loss(key);
        if missed.has_frames() {
            // Some of these messages may be newer than the messages that the client's throttle holds.
            self.clients.open_throttle(self.now, &self.limits, key);
        }
        if let Some(session) = self.clients.session_mut(key) {
            session.add_missed(self.now, missed);
        }
        if self.send_postponed(key) {
            self.wait_for_share(key);
        }
        has_newest
    }

    /// Puts the next missed and postponed messages in the send queue, while the client has a share. Returns whether more
    /// wait.
    pub(super) fn send_postponed(&mut self, key: SessionKey) -> bool {
        while self
            .clients
            .send_postponed(self.now, &self.limits, key, SENT_AT_ONCE)
        {
            if !self.has_share() {
                return true;
            }
        }
        false
    }

    /// Begins a search for missed messages.
    ///
    /// # Errors
    /// As of [`Self::may_resume`]; or the client holds one of the names, or has no room.
    fn find_missed(
        &mut self,
        recipient: Recipient,
        since: &str,
        wanted: &[Wanted],
    ) -> Result<(Missed, Vec<Outcome>), NotRecovered> {
        // A member of the topic already gets its live messages, and would get them twice.
        let mut held = wanted
            .iter()
            .map(|wanted| self.topics.has(recipient.key, &wanted.name));
        if held.any(|is_held| is_held) {
            return Err(NotRecovered::Off);
        }
        self.may_resume(recipient.key)?;
        let budget = self.frame_budget(recipient);
        let history = self.history.as_mut().ok_or(NotRecovered::Off)?;
        let (mut missed, outcomes) = history.missed(since, wanted, budget);
        // None of them is charged yet.
        self.charge_messages(recipient.key, &mut missed, 0)?;
        Ok((missed, outcomes))
    }
}
