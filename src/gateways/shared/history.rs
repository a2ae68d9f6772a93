//! The common part of gateways with a history: the `since` and the `last` of a request, and the messages that follow its
//! answer ([`Follow`]). Must not know a contract: the gateway makes the frames.

use std::borrow::Cow;
use std::collections::BTreeMap;

use sonic_rs::LazyValue;

use weirgate_core::{
    CopyRank, Core, FrameBuilder, Missed, NotRecovered, Outcome, Position, Recipient, RetainedCut,
    SessionKey, TopicName, Wanted,
};
use weirgate_wire::RequestHead;
use weirgate_wire::json::{Json, ObjectWriter};

/// Reads a `since`. Anything but a position becomes an empty text: a client with a broken position gets an answer, and
/// live messages from then on.
pub(in crate::gateways) fn read_since(since: Option<&LazyValue<'_>>) -> Since {
    let Some(since) = since else {
        return Since::Absent;
    };
    let text: Option<Option<String>> = Json::of(since).parse().ok();
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
    /// Whether [`or`](Self::or) has a position.
    pub(in crate::gateways) fn resumes(&self, last_event_id: Option<&str>) -> bool {
        match self {
            Self::Absent => last_event_id.is_some(),
            Self::Null => false,
            Self::At(_) => true,
        }
    }

    /// The position from which the client resumes; `None`: it does not resume. A request without `since` resumes from
    /// the position of its event stream.
    pub(in crate::gateways) fn or(self, last_event_id: Option<&str>) -> Option<String> {
        match self {
            Self::Absent => last_event_id.map(str::to_owned),
            Self::Null => None,
            Self::At(text) => Some(text),
        }
    }
}

/// Ends a JSON object that lacks its `}`; a position, if given, becomes the last member. A client with several matching
/// names gets a copy of a message for each: `copy` says which of these copies the object is.
pub(in crate::gateways) fn append_end(
    frame: &mut FrameBuilder,
    position: Option<Position>,
    copy: CopyRank,
) {
    match position {
        Some(position) => {
            frame.payload().extend_from_slice(br#","pos":""#);
            frame.position(position, copy);
            frame.payload().push(b'"');
        }
        None => frame.without_position(copy),
    }
    frame.payload().push(b'}');
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
    /// The client waits for a position in the answer, or for a status after the messages.
    ends_with_status: bool,
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

    /// Whether there are no messages, and none are still to be found.
    pub(in crate::gateways) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Whether messages are still to be found, or their frames to be made.
    pub(in crate::gateways) fn has_unmade(&self) -> bool {
        self.messages.has_unmade()
    }

    /// Finds the next messages, or makes the next frames; `beside` are the bytes of others.
    pub(in crate::gateways) fn make_next(
        &mut self,
        core: &mut Core,
        key: SessionKey,
        beside: usize,
    ) -> Outcome {
        let recipient = Recipient {
            key,
            bytes_beside: beside,
        };
        core.make_missed(recipient, &mut self.messages)
    }

    /// Finds all messages beside these, and makes all frames.
    fn make_all(&self, core: &mut Core, key: SessionKey, messages: &mut Missed) -> Outcome {
        while messages.has_unmade() {
            core.make_missed(self.recipient(key), messages)?;
        }
        Ok(())
    }

    /// Bytes of the messages, and of those beside.
    pub(in crate::gateways) fn bytes(&self) -> usize {
        self.messages.bytes() + self.beside
    }

    /// The client, for which these messages were found.
    fn recipient(&self, key: SessionKey) -> Recipient {
        Recipient {
            key,
            bytes_beside: self.bytes(),
        }
    }

    /// Drops up to `count` of the messages, which are not sent. Returns whether there are more.
    pub(in crate::gateways) fn drop_some(&mut self, count: usize) -> bool {
        self.messages.drop_some(count);
        !self.messages.is_empty()
    }

    /// Lets a status follow also if no message does, unless the answer has the position.
    pub(in crate::gateways) fn end_with_status(&mut self) {
        self.ends_with_status = true;
    }

    /// Adds the messages of other answers.
    pub(in crate::gateways) fn merge(&mut self, other: Self) {
        self.messages.merge(other.messages);
        self.has_recovered |= other.has_recovered;
        self.ends_with_status |= other.ends_with_status;
    }

    /// Adds the messages of these names after a position. Returns, for each name, whether all of its messages are
    /// there. Some messages may still have to be found, and frames to be made ([`make_next`](Self::make_next)).
    pub(in crate::gateways) fn missed(
        &mut self,
        core: &mut Core,
        key: SessionKey,
        since: &str,
        wanted: &[Wanted],
    ) -> Vec<Outcome> {
        let (missed, outcomes) = core.missed(self.recipient(key), since, wanted);
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
        let wanted: Vec<Wanted> = names.iter().map(Wanted::exact).collect();
        let (mut missed, mut outcomes) = core.missed(self.recipient(key), since, &wanted);
        let made = self.make_all(core, key, &mut missed);
        for outcome in &mut outcomes {
            // A fault in making the frames concerns all names.
            *outcome = outcome.and(made);
        }
        core.count_outcomes(&outcomes);
        outcomes.into_iter().collect::<Outcome>()?;
        self.messages.merge(missed);
        self.has_recovered = true;
        Ok(())
    }

    /// Adds the newest messages of each of these few names, if the client asks for any (`last`). Returns why messages
    /// of one of the names are missing; `None` if none are.
    ///
    /// # Errors
    /// The reason why no message was added.
    pub(in crate::gateways) fn all_newest(
        &mut self,
        core: &mut Core,
        key: SessionKey,
        names: &[Wanted],
        last: Option<usize>,
    ) -> Result<Option<RetainedCut>, NotRecovered> {
        let mut newest = Self::beside(self.bytes());
        newest.newest(core, key, names, last)?;
        self.make_all(core, key, &mut newest.messages)?;
        let cuts = newest.take_cuts();
        self.messages.merge(newest.messages);
        Ok(cuts.into_values().next())
    }

    /// Adds the newest messages of each name, if the client asks for any. Some may still have to be found, and frames to be
    /// made ([`make_next`](Self::make_next)).
    pub(in crate::gateways) fn newest(
        &mut self,
        core: &mut Core,
        key: SessionKey,
        names: &[Wanted],
        last: Option<usize>,
    ) -> Outcome {
        if let Some(last) = last.filter(|_| !names.is_empty()) {
            let newest = core.newest(self.recipient(key), names, last)?;
            self.messages.merge(newest);
        }
        Ok(())
    }

    /// Takes the names of which the newest messages are not whole, with the reasons.
    pub(in crate::gateways) fn take_cuts(&mut self) -> BTreeMap<TopicName, RetainedCut> {
        self.messages.take_cuts()
    }

    /// The position for the last answer, if the client `holds` a name of the feed. `None` if the client continues from
    /// its own position, or if messages follow: each of these has a position.
    pub(in crate::gateways) fn position(
        &self,
        core: &Core,
        key: SessionKey,
        holds: bool,
    ) -> Option<Position> {
        let is_reported = holds && !self.has_recovered && self.nothing_follows(core, key);
        core.position().filter(|_| is_reported)
    }

    /// Whether neither these messages nor postponed ones follow the answer.
    fn nothing_follows(&self, core: &Core, key: SessionKey) -> bool {
        self.messages.is_empty() && !core.sends_postponed(key)
    }

    /// Sends the messages. Returns true if a status must follow them, for a client that holds a name of the feed.
    pub(in crate::gateways) fn send(self, core: &mut Core, key: SessionKey) -> bool {
        // `true`: the caller sends the status only to a client that holds a name of the feed.
        let is_awaited = self.ends_with_status && self.position(core, key, true).is_none();
        core.send_missed(key, self.messages) || is_awaited
    }
}

/// Adds to `data`, the answer to a `since`, whether the missed messages follow; `why` is the reason if they do not.
pub(in crate::gateways) fn write_recovered(
    data: &mut ObjectWriter,
    is_recovered: Option<bool>,
    why: Option<&str>,
) {
    if let Some(is_recovered) = is_recovered {
        data.boolean("recovered", is_recovered);
    }
    if let Some(why) = why {
        data.string("why", why);
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
    let last: Option<usize> = Json::of(last).parse().map_err(|_| WRONG_LAST)?;
    match last {
        Some(last) if !(1..=LAST_MAX).contains(&last) => Err(WRONG_LAST),
        last => Ok(last),
    }
}

/// Whether a client with a `last` gets the newest messages. It does not if the missed messages follow, if the history
/// is off, or if the missed messages are too many. `missed` is the outcome of the `since`; `None` without a `since`.
pub(in crate::gateways) fn gets_newest(missed: Option<Outcome>) -> bool {
    match missed {
        None => true,
        Some(Ok(_)) => false,
        Some(Err(why)) => !matches!(why, NotRecovered::Off | NotRecovered::Large),
    }
}

/// The position that an event stream sends when it reconnects (`Last-Event-ID`, WHATWG HTML §9.2.5): the `since` of
/// each request in the query without a `since`. A program that can set no header sends it as a parameter of the query,
/// of which the last one counts. The header overrides the parameter: a client that sets the header may reconnect to the
/// URL of its first connection, which still has the older position.
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

/// Whether a parameter of the query has a name for the last event id: `lastEventId` of EventSource polyfills,
/// `lastEventID` and `Last-Event-ID` of Mercure, `last_event_id`.
fn names_last_event_id(name: &str) -> bool {
    let letters = name.bytes().filter(|byte| !b"-_".contains(byte));
    letters
        .map(|byte| byte.to_ascii_lowercase())
        .eq(*b"lasteventid")
}
