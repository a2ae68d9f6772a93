//! The state of one replay: how far the client has got the messages of its names, from where the next ones come, and what
//! ends it.

use std::mem;

use super::cut::ReplayCut;
use super::names::{ReplayedName, ReplayedNames};
use super::pauses::Pauses;
use weirgate_core::{
    CopyPosition, CopyRank, KeptCursor, KeptHead, Lacks, NotRecovered, PageCursor, Position,
    RetainedCut, StoredId, TopicName,
};
use weirgate_wire::admission::Permit;
use weirgate_wire::auth::NameSyntax;

/// The most questions in a row, each of a single page, after whose end the history lacks messages once more. A question of
/// several pages brings the client so much that another one may follow.
const SHORT_READS_MAX: u32 = 100;

/// How far a client has got all kept messages of names.
#[derive(Debug)]
pub(in super::super) struct Replay {
    pub(super) names: ReplayedNames,
    /// The name of its questions; empty for the whole stream.
    scope: TopicName,
    pub(super) cursor: KeptCursor,
    pub(super) cut: ReplayCut,
    pauses: Pauses,
    /// Whether these names are among those of the client's present question, or of one that it goes on with. One
    /// question is for all names of its scope that have come equally far.
    is_asked: bool,
    /// The question has brought messages since its last page. Only with the end of a page the bus says what is missing.
    is_in_page: bool,
    stream: StreamReading,
    /// The history lacks messages that do not come from the stream either, so the next page may begin after them.
    is_cut_short: bool,
    /// The client got a page behind messages that the history had forgotten.
    has_skipped: bool,
    /// The questions of a single page since one of several.
    short_reads: u32,
    /// The question before was refused, or had no answer in time.
    had_no_answer: bool,
    /// Whether the stream is read from its beginning because the position was of another epoch of it.
    has_begun_anew: bool,
}

/// How far the stream has been read for a replay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum StreamReading {
    /// No question has ended yet, but for one without an answer; or the stream is read once more from its beginning,
    /// because the position was of another epoch.
    Unread,
    /// A question has ended: the client has what it brought, and the rest is in the history. If the history lacks some
    /// of the rest, the stream is asked again.
    Read,
    /// The stream is not asked again.
    Over,
}

/// How a replay goes on for which the history has no page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WithoutPage {
    /// It waits for the bus, which brings what the history lacks.
    Waits,
    /// It goes on at once, with what the history has.
    Again,
    /// It pauses ([`PausedClients`](super::PausedClients)).
    Rests,
    /// It ends.
    Ends,
}

impl Replay {
    /// A replay of all kept messages of these names, or of those after `since`.
    pub(super) fn new(
        syntax: NameSyntax,
        names: Vec<ReplayedName>,
        since: Option<CopyPosition>,
        memory: Permit,
    ) -> Self {
        let names = ReplayedNames::new(names, memory);
        let scope = match (names.single(), syntax) {
            (Some(name), NameSyntax::Nats) => name.clone(),
            _ => TopicName::default(),
        };
        Self {
            names,
            scope,
            cursor: KeptCursor::after(since),
            cut: ReplayCut::default(),
            pauses: Pauses::default(),
            is_asked: false,
            is_in_page: false,
            stream: StreamReading::Unread,
            is_cut_short: false,
            has_skipped: false,
            short_reads: 0,
            had_no_answer: false,
            has_begun_anew: false,
        }
    }

    /// The name among the replays of the client; for several names an empty one, which no client can hold.
    pub(super) fn key(&self) -> TopicName {
        self.names.single().cloned().unwrap_or_default()
    }

    /// The name of its questions; empty for the whole stream.
    pub(super) fn scope(&self) -> &TopicName {
        &self.scope
    }

    pub(in super::super) fn names(&self) -> impl Iterator<Item = &TopicName> {
        self.names.as_slice().iter().map(ReplayedName::name)
    }

    pub(in super::super) fn has_patterns(&self) -> bool {
        self.names.has_patterns()
    }

    /// What the client lacks of what should have come so far: it is told at the end.
    pub(super) fn lacks(&self) -> Lacks {
        match self.is_cut_short {
            true => Lacks::More,
            false => self.cut.lacks(),
        }
    }

    pub(super) fn end_pause(&mut self) {
        self.pauses.end();
    }
}

/// Pages of the history.
impl Replay {
    /// Whether the history may be asked for the next page. `awaits_bus`: the bus brings a page of the client's question.
    pub(super) fn may_look(&self, awaits_bus: bool) -> bool {
        // A question that ended in a page is asked again: what the bus knew of this page is gone with it.
        let is_asked = self.is_asked && awaits_bus || self.is_in_page;
        // A client without a position first gets what the stream has from before the history.
        let is_unread = self.stream == StreamReading::Unread;
        let may_be_there = self.cursor.position().is_some() || !is_unread;
        !is_asked && !self.pauses.is_paused() && may_be_there
    }

    /// Handles a page of the history: up to where it reaches, and how many messages it has for each name.
    pub(super) fn paged(&mut self, reached: Option<KeptCursor>, counts: &[u64]) {
        self.pauses.paged();
        self.cursor = reached.unwrap_or(self.cursor);
        self.names.add_counts(counts);
        self.is_asked = false;
    }

    /// Notes that messages before a page were forgotten. Returns whether that has happened before: the client is slower than
    /// the feed, and would never come to the end.
    pub(super) fn skipped(&mut self) -> bool {
        mem::replace(&mut self.has_skipped, true)
    }

    /// Decides how the replay goes on if the history has no page for it, and notes what the client will lack.
    pub(super) fn go_on_without_page(&mut self, why: NotRecovered) -> WithoutPage {
        match why {
            // The stream says whether the position is one of its own.
            NotRecovered::Ahead if self.stream == StreamReading::Unread => WithoutPage::Waits,
            NotRecovered::Ahead | NotRecovered::Large => match self.pauses.begin() {
                true => WithoutPage::Rests,
                false => self.end_for(RetainedCut::Limit),
            },
            NotRecovered::Off => self.end_for(RetainedCut::Off),
            // The stream has what the history lacks.
            _ if self.stream != StreamReading::Over => WithoutPage::Waits,
            _ if !self.is_cut_short => {
                self.is_cut_short = true;
                self.cut.note(RetainedCut::Limit);
                WithoutPage::Again
            }
            _ => WithoutPage::Ends,
        }
    }

    fn end_for(&mut self, cut: RetainedCut) -> WithoutPage {
        self.cut.note(cut);
        WithoutPage::Ends
    }
}

/// Questions to the bus.
impl Replay {
    /// Whether the bus may be asked for more now.
    pub(super) fn asks_bus(&self) -> bool {
        !self.pauses.is_paused() && self.stream != StreamReading::Over
    }

    /// Whether these names are among those of the client's present question, or of one that it goes on with.
    pub(super) fn is_asked(&self) -> bool {
        self.is_asked
    }

    /// From where the stream is read: after the message that the client has, which comes once more if the client may lack a
    /// copy of it; from its beginning if it has none. A question that began before that message would notice neither
    /// that the stream was made anew nor what it has removed since.
    pub(super) fn begins(&self) -> PageCursor {
        let stored = self.cursor.stored();
        PageCursor {
            repeats: stored.is_some_and(|(_, copy)| self.names.has_copy_after(copy)),
            ..PageCursor::after(stored.map(|(id, _)| id))
        }
    }

    /// Becomes a part of the client's next question.
    pub(super) fn join_question(&mut self) {
        self.is_asked = true;
    }

    /// The last message of the stream that the client has got, and the last copy of it.
    pub(super) fn has_read(&self) -> Option<(StoredId, CopyRank)> {
        self.cursor.stored()
    }

    /// Handles a message that the question has brought: the client has all copies of it.
    pub(super) fn read(&mut self, position: Position) {
        self.cursor.read(position);
        self.is_in_page = true;
    }

    /// Whether messages may be missing before those that the question brings now.
    pub(super) fn may_lack(&self, head: KeptHead) -> bool {
        self.lacks() != Lacks::Nothing || self.cursor.may_lack(head)
    }

    /// Handles the end of a page of the question.
    pub(super) fn page_ended(&mut self) {
        self.is_in_page = false;
    }

    /// Handles the end of a question: the client has all messages that this instance had read when it was asked. A
    /// question that is refused, perhaps only because the answer was late, is asked again once, from where the bus
    /// knows that nothing was missing. `is_short`: the question had no page before its end.
    pub(super) fn question_ended(&mut self, cut: Option<RetainedCut>, is_short: bool) {
        self.is_in_page = false;
        let has_no_answer = cut == Some(RetainedCut::Refused);
        let had_no_answer = mem::replace(&mut self.had_no_answer, has_no_answer);
        if has_no_answer && !had_no_answer {
            return;
        }
        self.is_asked = false;
        self.short_reads = if is_short { self.short_reads + 1 } else { 0 };
        if self.short_reads >= SHORT_READS_MAX {
            self.stream = StreamReading::Over;
        }
        match cut {
            Some(RetainedCut::Epoch) => return self.read_other_epoch(),
            // The stream gives no more, but the history may have some.
            Some(
                RetainedCut::Refused
                | RetainedCut::Unreadable
                | RetainedCut::Unnamed
                | RetainedCut::Off,
            ) => self.stream = StreamReading::Over,
            // `read_all` moves the cursor, and returns whether messages were lost after the position of the question.
            _ if self.cursor.read_all() => self.cut.note(RetainedCut::Window),
            _ => {}
        }
        self.stream = self.stream.max(StreamReading::Read);
        if let Some(cut) = cut {
            self.cut.note(cut);
        }
    }

    /// Handles a position of another epoch of the stream: it says nothing of this stream, which is read from its beginning
    /// on. But only once, or a stream that is made anew all the time, and a reading that is wrong about it, would have no
    /// end.
    fn read_other_epoch(&mut self) {
        // What the earlier epoch had is gone, and only what this instance has read of it is known.
        let has_all = !self.has_begun_anew && self.cursor.has_all_before_loss();
        self.cut.note(match has_all {
            true => RetainedCut::Epoch,
            false => RetainedCut::Window,
        });
        self.cursor.read_anew();
        if mem::replace(&mut self.has_begun_anew, true) {
            self.cursor.read_all();
            self.stream = StreamReading::Over;
        }
        if self.stream != StreamReading::Over {
            self.stream = StreamReading::Unread;
        }
    }
}
