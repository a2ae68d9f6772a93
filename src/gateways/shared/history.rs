//! The common part of gateways with a history. [`Since`], [`Follow`]: the `since` and the `last` of a request, and the
//! messages that follow the answer. [`Statuses`]: the status of the bus.
//!
//! A status says whether the bus is connected, and gives the newest position. Clients get a status when the bus goes
//! away or returns, every 10 s, after the newest messages of a `last`, and before the close of a stop. So a client on a
//! quiet name knows that nothing is missing, and has a recent position for a resume. Without a history, only clients
//! that ask for the status get it, when the bus goes away or returns. This module must not know a contract: the gateway
//! makes the frames.

use std::borrow::Cow;
use std::sync::Arc;

use sonic_rs::LazyValue;

use weirgate_core::{
    BusNotice, ByClient, CopyRank, Core, Frame, FrameBuilder, Missed, NotRecovered, Outcome, Place,
    Position, SessionKey, TopicName, Wanted,
};
use weirgate_wire::head::RequestHead;
use weirgate_wire::json;
use weirgate_wire::json::ObjectWriter;

/// With up to 25,000 clients each client gets a status this often, so that its position is recent enough to resume
/// from.
const INTERVAL_US: u64 = 10_000_000;
/// A round for losses alone begins this long after a loss or the last round, so that many losses share one round.
const LOSS_US: u64 = 1_000_000;

/// The time to the next status: longer with very many clients, and never longer than half of the history.
fn interval_us(core: &Core) -> u64 {
    let paced_us = core.paced_us(INTERVAL_US);
    paced_us.min(core.limits().history.keep_us / 2)
}

/// Reads a `since`. Anything but a position becomes an empty text: a client with a broken position gets an answer, and
/// live messages from then on.
pub(in crate::gateways) fn read_since(since: Option<&LazyValue<'_>>) -> Since {
    let Some(since) = since else {
        return Since::Absent;
    };
    let text: Option<Option<String>> = json::value(since).ok();
    match text {
        Some(None) => Since::Null,
        Some(Some(text)) => Since::At(short(&text).to_owned()),
        None => Since::At(String::new()),
    }
}

/// Returns the text, or an empty text if it is too long for a position.
pub(in crate::gateways) fn short(text: &str) -> &str {
    match text.len() <= Position::BYTES_MAX {
        true => text,
        false => "",
    }
}

/// The `since` of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::gateways) enum Since {
    /// The request has none.
    #[default]
    Absent,
    /// `null`: the names are new to the client.
    Null,
    /// Any text; empty if the value was not a text, or was too long for a position.
    At(String),
}

impl Since {
    /// The position from which the client resumes. A request without `since` resumes from the position of its event
    /// stream.
    pub(in crate::gateways) fn or(self, last_event_id: Option<&str>) -> Option<String> {
        match self {
            Self::Absent => last_event_id.map(str::to_owned),
            Self::Null => None,
            Self::At(text) => Some(text),
        }
    }
}

/// Ends a JSON object that lacks its `}`, with the position as the last member.
pub(in crate::gateways) fn ended(
    frame: FrameBuilder,
    position: Option<Position>,
    copy: CopyRank,
) -> FrameBuilder {
    let frame = match position {
        Some(position) => frame
            .body(br#","pos":""#)
            .position(position, copy)
            .body(b"\""),
        None => frame,
    };
    frame.body(b"}")
}

/// The longest end of an object with a position.
pub(in crate::gateways) const END_BYTES_MAX: usize = r#","pos":""}"#.len() + Position::BYTES_MAX;

/// The messages that follow an answer. On an event stream they follow the answers to all requests in its query: the
/// stream resumes after its last `id`, whatever name that message had, so the messages of all requests come in the
/// order of the feed.
#[derive(Debug, Default)]
pub(in crate::gateways) struct Follow {
    messages: Missed,
    /// Bytes of other messages for the client, which count with these under the limit.
    beside: usize,
    /// The client resumes from a position: its own position, or that of the last of these messages, stays valid.
    has_recovered: bool,
}

impl Follow {
    /// No messages yet, beside others of so many bytes.
    pub(in crate::gateways) fn beside(bytes: usize) -> Self {
        Self {
            beside: bytes,
            ..Self::default()
        }
    }

    /// Whether the client resumes from a position.
    pub(in crate::gateways) fn has_recovered(&self) -> bool {
        self.has_recovered
    }

    /// Whether frames of the messages are still to be made.
    pub(in crate::gateways) fn has_unmade(&self) -> bool {
        self.messages.has_unmade()
    }

    /// Makes the next frames of the messages; `beside` are the bytes of others.
    pub(in crate::gateways) fn make_next(
        &mut self,
        core: &mut Core,
        key: SessionKey,
        beside: usize,
    ) -> Outcome {
        core.make_missed((key, beside), &mut self.messages)
    }

    /// Makes all frames of messages beside these.
    fn make_all(&self, core: &mut Core, key: SessionKey, messages: &mut Missed) -> Outcome {
        while messages.has_unmade() {
            core.make_missed((key, self.bytes()), messages)?;
        }
        Ok(())
    }

    /// Bytes of the messages, and of those beside.
    pub(in crate::gateways) fn bytes(&self) -> usize {
        self.messages.bytes() + self.beside
    }

    /// Drops up to `count` of the messages, which are not sent. Returns whether there are more.
    pub(in crate::gateways) fn drop_some(&mut self, count: usize) -> bool {
        self.messages.drop_some(count);
        !self.messages.is_empty()
    }

    /// Adds the messages of other answers.
    pub(in crate::gateways) fn merge(&mut self, other: Self) {
        self.messages.merge(other.messages);
        self.has_recovered |= other.has_recovered;
    }

    /// Adds the messages of these names after a position. Returns, for each name, whether all of its messages are
    /// there. Some of the frames may still have to be [made](Self::make_next).
    pub(in crate::gateways) fn missed(
        &mut self,
        core: &mut Core,
        key: SessionKey,
        since: &str,
        wanted: &[Wanted<'_>],
    ) -> Vec<Outcome> {
        let (missed, outcomes) = core.missed((key, self.bytes()), since, wanted);
        self.messages.merge(missed);
        self.has_recovered |= outcomes.iter().any(Result::is_ok);
        outcomes
    }

    /// Adds all messages of these few names after a position. If any is missing, adds none.
    pub(in crate::gateways) fn all_missed(
        &mut self,
        core: &mut Core,
        key: SessionKey,
        since: &str,
        names: &[TopicName],
    ) -> Outcome {
        let wanted: Vec<Wanted<'_>> = names.iter().map(Wanted::exact).collect();
        let (mut missed, mut outcomes) = core.missed((key, self.bytes()), since, &wanted);
        let made = self.make_all(core, key, &mut missed);
        for outcome in &mut outcomes {
            *outcome = outcome.and(made);
        }
        core.count_outcomes(&outcomes);
        outcomes.into_iter().collect::<Outcome>()?;
        self.messages.merge(missed);
        self.has_recovered = true;
        Ok(())
    }

    /// Adds the newest messages of each of these few names, if the client asks for any.
    pub(in crate::gateways) fn all_newest(
        &mut self,
        core: &mut Core,
        key: SessionKey,
        names: &[Wanted<'_>],
        last: Option<usize>,
    ) -> Outcome {
        let mut newest = Self::beside(self.bytes());
        newest.newest(core, key, names, last)?;
        self.make_all(core, key, &mut newest.messages)?;
        self.messages.merge(newest.messages);
        Ok(())
    }

    /// Adds the newest messages of each name, if the client asks for any. Some of the frames may still have to be
    /// [made](Self::make_next).
    pub(in crate::gateways) fn newest(
        &mut self,
        core: &mut Core,
        key: SessionKey,
        names: &[Wanted<'_>],
        last: Option<usize>,
    ) -> Outcome {
        if let Some(last) = last.filter(|_| !names.is_empty()) {
            let newest = core.newest((key, self.bytes()), names, last)?;
            self.messages.merge(newest);
        }
        Ok(())
    }

    /// The position for the last answer, if the client `holds` a name of the feed. `None` if the client continues from
    /// its own position, or if messages follow: each of these has a position.
    pub(in crate::gateways) fn position(
        &self,
        core: &Core,
        key: SessionKey,
        holds: bool,
    ) -> Option<Position> {
        let nothing_follows = self.messages.is_empty() && !core.sends_postponed(key);
        let is_reported = holds && !self.has_recovered && nothing_follows;
        core.position().filter(|_| is_reported)
    }

    /// Sends the messages. Returns true if the present position must follow them.
    pub(in crate::gateways) fn send(self, core: &mut Core, key: SessionKey) -> bool {
        core.send_missed(key, self.messages)
    }
}

/// Adds to `data`, the answer to a `since`, whether the missed messages follow; `why` is the reason if they do not.
pub(in crate::gateways) fn write_recovered(
    data: &mut ObjectWriter,
    is_recovered: Option<bool>,
    why: Option<NotRecovered>,
) {
    if let Some(is_recovered) = is_recovered {
        data.boolean("recovered", is_recovered);
    }
    if let Some(why) = why {
        data.string("why", why.label());
    }
}

/// The most messages of a topic that a client gets by `last`.
const LAST_MAX: usize = 100;

/// The error of a `last` out of range.
pub(in crate::gateways) const WRONG_LAST: &str = "last must be a whole number from 1 to 100";

/// Reads a `last`; `None` for `null`.
///
/// # Errors
/// The value is not a whole number in range.
pub(in crate::gateways) fn read_last(
    last: Option<&LazyValue<'_>>,
) -> Result<Option<usize>, &'static str> {
    let Some(last) = last else {
        return Ok(None);
    };
    let last: Option<usize> = json::value(last).map_err(|_| WRONG_LAST)?;
    match last {
        Some(last) if !(1..=LAST_MAX).contains(&last) => Err(WRONG_LAST),
        last => Ok(last),
    }
}

/// Whether a client with a `last` gets the newest messages. It does not if the missed messages follow, if the history
/// is off, or if the missed messages are too many.
pub(in crate::gateways) fn gets_newest(missed: Option<Outcome>) -> bool {
    match missed {
        None => true,
        Some(Ok(_)) => false,
        Some(Err(why)) => !matches!(why, NotRecovered::Off | NotRecovered::Large),
    }
}

/// The position that an event stream sends when it reconnects (`Last-Event-ID`, WHATWG HTML §9.2.5): the `since` of
/// each request in the query without a `since`. A program that can set no header has it as the last parameter of such
/// a name in the query. The header is newer: who sets it may come back to an address of before.
pub(in crate::gateways) fn last_event_id(head: &RequestHead<'_>) -> Option<Box<str>> {
    if !head.asks_event_stream() {
        return None;
    }
    let header = head.header("Last-Event-ID").filter(|id| !id.is_empty());
    let id = header.map(Cow::Borrowed).or_else(|| {
        let named = head
            .all_parameters()
            .filter(|(name, id)| names_last_event_id(name) && !id.is_empty());
        named.last().map(|(_, id)| id)
    })?;
    Some(short(&id).into())
}

/// `lastEventId` of EventSource polyfills, `lastEventID` and `Last-Event-ID` of Mercure, `last_event_id`.
fn names_last_event_id(name: &str) -> bool {
    let letters = name.bytes().filter(|byte| !b"-_".contains(byte));
    letters
        .map(|byte| byte.to_ascii_lowercase())
        .eq(*b"lasteventid")
}

/// Whether a request asks for statuses of the bus.
pub(in crate::gateways) fn read_status(status: Option<&LazyValue<'_>>) -> bool {
    status.is_some_and(|status| json::value(status) == Ok(true))
}

/// The contents of a status.
#[derive(Clone, Copy, Debug)]
pub(in crate::gateways) struct Status {
    /// Whether the bus is there.
    pub(in crate::gateways) is_up: bool,
    /// Whether messages were lost since the last status.
    pub(in crate::gateways) has_lost: bool,
    /// The position, for a client with a name of the feed.
    pub(in crate::gateways) position: Option<Position>,
}

impl Status {
    /// The value of `bus`.
    pub(in crate::gateways) fn bus(self) -> &'static str {
        match self.is_up {
            true => "up",
            false => "away",
        }
    }
}

/// A round over the clients of a gateway.
#[derive(Clone, Copy, Debug)]
struct StatusRound {
    next_slot: usize,
    /// The number of losses that all clients know of when the round ends.
    losses: u64,
}

/// The statuses of a gateway, and the rounds over its clients.
#[derive(Clone, Copy, Debug)]
pub(in crate::gateways) struct Statuses {
    /// Makes the frame of a status.
    make: fn(&Core, Status) -> Arc<Frame>,
    is_up: bool,
    round: Option<StatusRound>,
    /// The time of the next slice.
    due_us: Option<u64>,
}

impl Statuses {
    /// `make` makes the frame of a status.
    pub(in crate::gateways) fn new(make: fn(&Core, Status) -> Arc<Frame>) -> Self {
        Self {
            make,
            is_up: false,
            round: None,
            due_us: None,
        }
    }

    /// Whether the bus is there.
    pub(in crate::gateways) fn is_up(&self) -> bool {
        self.is_up
    }

    /// Handles a notice of the bus. If the bus goes away or returns, a round over the clients begins at once; after a
    /// loss alone, within a second. Until then the core reports the loss to each client before its next message.
    pub(in crate::gateways) fn note(&mut self, core: &mut Core, notice: &BusNotice) {
        let now_us = core.now().mono_us;
        let due_us = match notice {
            BusNotice::Up | BusNotice::Down => {
                self.is_up = *notice == BusNotice::Up;
                self.round = None;
                now_us
            }
            BusNotice::Gap => {
                core.lose();
                now_us + LOSS_US
            }
            BusNotice::GapBeside => {
                core.lose_beside();
                now_us + LOSS_US
            }
            _ => return,
        };
        self.due_us = Some(self.due_us.map_or(due_us, |due| due.min(due_us)));
        if core.is_notifying() {
            core.set_loss_frame(self.frame(core, true, None));
        }
    }

    /// Handles a request with `"status":true`. The client gets statuses from now on; if the bus is away, it gets a
    /// status at once.
    pub(in crate::gateways) fn ask(&self, core: &mut Core, key: SessionKey) {
        if core.ask_status(key) && !self.is_up {
            core.send(key, &self.frame(core, false, None));
        }
    }

    /// Whether clients get a message of this place. While kept names are subscribed again after a loss, messages have
    /// no position. They are not sent, because a client that resumes on another instance from its older position would
    /// get them twice.
    pub(in crate::gateways) fn passes(&self, place: Place) -> bool {
        self.is_up || place != Place::Kept(None)
    }

    /// The time of the next [`Self::handle_timeout`].
    pub(in crate::gateways) fn due_us(&self) -> Option<u64> {
        self.due_us
    }

    /// Notifies the next clients of losses and, with a history, of the status. `holds` returns whether a client has a
    /// name of the feed.
    pub(in crate::gateways) fn handle_timeout<C>(
        &mut self,
        core: &mut Core,
        clients: &mut ByClient<C>,
        mut holds: impl FnMut(&mut Core, SessionKey, &mut C) -> bool,
    ) {
        let now_us = core.now().mono_us;
        if self.due_us.is_none_or(|due| due > now_us) {
            return;
        }
        let has_history = core.has_history();
        let StatusRound { next_slot, losses } = self.round.unwrap_or_else(|| StatusRound {
            next_slot: 0,
            losses: core.losses(),
        });
        // A client without a name gets no position: it may still have an older position for the `since` of its first
        // request.
        let without_position = [false, true].map(|has_lost| self.frame(core, has_lost, None));
        let position = core.position();
        let with_position = [false, true].map(|has_lost| self.frame(core, has_lost, position));
        let next = core.walk(clients, next_slot, |core, key, client| {
            let by_loss = match holds(core, key, client) {
                true => &with_position,
                false => &without_position,
            };
            let has_lost = core.take_loss(key);
            if core.gets_status(key) {
                core.send(key, &by_loss[usize::from(has_lost)]);
            }
        });
        // Clients that connect during the round know of all losses.
        self.round = next.map(|next_slot| StatusRound { next_slot, losses });
        self.due_us = Some(now_us);
        if self.round.is_none() {
            core.note_losses_known(losses);
            self.due_us = match (core.is_notifying(), has_history) {
                (true, _) => Some(now_us + LOSS_US),
                (false, true) => Some(now_us + interval_us(core)),
                (false, false) => None,
            };
        }
    }

    /// Sends the messages that follow an answer; `holds`: the client has a name of the feed.
    pub(in crate::gateways) fn send_after_answer(
        &self,
        core: &mut Core,
        key: SessionKey,
        follow: Follow,
        holds: bool,
    ) {
        // The newest messages may be older than messages of other names that the client has, so the present position
        // follows.
        if follow.send(core, key) && holds && core.position().is_some() {
            self.send_last(core, key, true);
        }
    }

    /// Sends the status; nothing without a history. `holds`: the client has a name of the feed. From the position in a
    /// status before a close, the client can resume on another instance without a loss.
    pub(in crate::gateways) fn send_last(&self, core: &mut Core, key: SessionKey, holds: bool) {
        if core.has_history() {
            let has_lost = core.take_loss(key);
            let position = core.position().filter(|_| holds);
            core.send(key, &self.frame(core, has_lost, position));
        }
    }

    /// Notifies a client of a loss that concerns it and not all clients. `holds`: the client has a name of the feed.
    pub(in crate::gateways) fn send_loss(&self, core: &mut Core, key: SessionKey, holds: bool) {
        if core.gets_status(key) {
            core.take_loss(key);
            let position = core.position().filter(|_| holds);
            core.send(key, &self.frame(core, true, position));
        }
    }

    /// The frame of the present status.
    fn frame(&self, core: &Core, has_lost: bool, position: Option<Position>) -> Arc<Frame> {
        let is_up = self.is_up;
        let status = Status {
            is_up,
            has_lost,
            position,
        };
        (self.make)(core, status)
    }
}
