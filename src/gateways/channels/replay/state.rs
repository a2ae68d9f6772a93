//! The state of one replay: how far the client has got the messages of its names, and from where the next ones come.
//!
//! A message that the client has already is left out: of the stream by its position, however often the stream is asked, of
//! the history by the history's number ([`KeptCursor`]), whatever is lost meanwhile.
//!
//! What the client may lack is said at the end. The bus sees what the stream has removed after the place where a question
//! begins, so no question begins before what the client has got. What this instance has lost after the client's position
//! counts too ([`KeptCursor::read_all`]).
//!
//! A replay has an end: a stream that brings nothing new is asked so many times, one that is made anew twice, and what the
//! history has is walked over once.

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
    stage: ReplayStage,
}

/// From where the next messages come.
#[derive(Debug)]
enum ReplayStage {
    /// From the history or, if it lacks some of them, from the stream.
    Stream(StreamReading),
    /// From the history: the stream is not asked again.
    History,
    /// From the history, which lacks messages that do not come from the stream either: the next page may begin after them.
    CutShort {
        /// The client got a page behind messages that the history had forgotten.
        has_skipped: bool,
    },
}

/// How far the stream has been read for a replay.
#[derive(Debug, Default)]
struct StreamReading {
    progress: Progress,
    question: Question,
    attempts: Attempts,
}

/// Whether the stream has been read up to what the history has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Progress {
    /// No question has ended yet, but for one without an answer; or the stream is read once more from its beginning,
    /// because the position was of another epoch.
    #[default]
    Unread,
    /// A question has ended: the client has what it brought, and the rest is in the history. If the history lacks some
    /// of the rest, the stream is asked again.
    Read,
}

/// Whether the names of a replay are among those of the client's present question, or of one that the client goes on
/// with. One question is for all names of its scope that have come equally far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Question {
    #[default]
    None,
    /// The question has brought nothing since its last page.
    Asked,
    /// The question has brought messages since its last page. Only with the end of a page the bus says what is missing.
    InPage,
}

/// What bounds the questions of a replay.
#[derive(Debug, Default)]
struct Attempts {
    /// The questions of a single page since one of several.
    short_reads: u32,
    /// The question before was refused, or had no answer in time.
    had_no_answer: bool,
    /// Whether the stream is read from its beginning because the position was of another epoch of it.
    has_begun_anew: bool,
}

impl Attempts {
    /// Counts the end of a question. Returns whether the question is asked again, because it had no answer, for the first
    /// time in a row.
    fn asks_again(&mut self, cut: Option<RetainedCut>) -> bool {
        let has_no_answer = cut == Some(RetainedCut::Refused);
        let had_no_answer = mem::replace(&mut self.had_no_answer, has_no_answer);
        has_no_answer && !had_no_answer
    }

    /// Counts a question that is not asked again. Returns whether there were too many that brought little.
    fn are_used_up(&mut self, is_short: bool) -> bool {
        self.short_reads = if is_short { self.short_reads + 1 } else { 0 };
        self.short_reads >= SHORT_READS_MAX
    }
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
            stage: ReplayStage::Stream(StreamReading::default()),
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
        match self.stage {
            ReplayStage::CutShort { .. } => Lacks::More,
            ReplayStage::Stream(_) | ReplayStage::History => self.cut.lacks(),
        }
    }

    pub(super) fn end_pause(&mut self) {
        self.pauses.end();
    }

    /// How far the stream has been read; `None` once the stream is not asked again.
    fn stream(&self) -> Option<&StreamReading> {
        match &self.stage {
            ReplayStage::Stream(stream) => Some(stream),
            ReplayStage::History | ReplayStage::CutShort { .. } => None,
        }
    }

    /// The question that the names are a part of.
    fn question(&self) -> Question {
        self.stream()
            .map_or(Question::None, |stream| stream.question)
    }

    fn set_question(&mut self, question: Question) {
        if let ReplayStage::Stream(stream) = &mut self.stage {
            stream.question = question;
        }
    }

    /// Whether what the stream has from before the history is still to come, or whether the position is one of the stream
    /// is still to be known.
    fn is_unread(&self) -> bool {
        let stream = self.stream();
        stream.is_some_and(|stream| stream.progress == Progress::Unread)
    }
}

/// Pages of the history.
impl Replay {
    /// Whether the history may be asked for the next page. `awaits_bus`: the bus brings a page of the client's question.
    pub(super) fn may_look(&self, awaits_bus: bool) -> bool {
        let waits_for_question = match self.question() {
            Question::None => false,
            Question::Asked => awaits_bus,
            // If the question has ended in the page, it is asked again: what the bus knew of the page is gone with it.
            Question::InPage => true,
        };
        // A client without a position first gets what the stream has from before the history.
        let may_be_there = self.cursor.position().is_some() || !self.is_unread();
        !waits_for_question && !self.pauses.is_paused() && may_be_there
    }

    /// Handles a page of the history: up to where it reaches, and how many messages it has for each name.
    pub(super) fn paged(&mut self, reached: Option<KeptCursor>, counts: &[u64]) {
        self.pauses.paged();
        self.cursor = reached.unwrap_or(self.cursor);
        self.names.add_counts(counts);
        self.set_question(Question::None);
    }

    /// Notes that messages before a page were forgotten. Returns whether that has happened before: the client is slower than
    /// the feed, and would never come to the end.
    pub(super) fn skipped(&mut self) -> bool {
        match &mut self.stage {
            ReplayStage::CutShort { has_skipped } => mem::replace(has_skipped, true),
            // Before these pages nothing was forgotten, or the history would have none.
            ReplayStage::Stream(_) | ReplayStage::History => false,
        }
    }

    /// Decides how the replay goes on if the history has no page for it, and notes what the client will lack.
    pub(super) fn go_on_without_page(&mut self, why: NotRecovered) -> WithoutPage {
        match why {
            // The stream says whether the position is one of its own.
            NotRecovered::Ahead if self.is_unread() => WithoutPage::Waits,
            NotRecovered::Ahead | NotRecovered::Large => match self.pauses.begin() {
                true => WithoutPage::Rests,
                false => self.end_for(RetainedCut::Limit),
            },
            NotRecovered::Off => self.end_for(RetainedCut::Off),
            _ => match self.stage {
                // The stream has what the history lacks.
                ReplayStage::Stream(_) => WithoutPage::Waits,
                ReplayStage::History => {
                    self.stage = ReplayStage::CutShort { has_skipped: false };
                    self.cut.note(RetainedCut::Limit);
                    WithoutPage::Again
                }
                ReplayStage::CutShort { .. } => WithoutPage::Ends,
            },
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
        !self.pauses.is_paused() && self.stream().is_some()
    }

    /// Whether these names are among those of the client's present question, or of one that it goes on with.
    pub(super) fn is_asked(&self) -> bool {
        self.question() != Question::None
    }

    /// From where the stream is read: after the message that the client has, which comes once more if the client may lack a
    /// copy of it; from its beginning if it has none. A question that began before that message would notice neither
    /// that the stream was made anew nor what it has removed since.
    pub(super) fn begins(&self) -> PageCursor {
        let stored = self.cursor.stored();
        PageCursor {
            repeats: stored.is_some_and(|(_, copy)| self.names.has_copy_after(copy)),
            ..self.cursor.begins()
        }
    }

    /// Becomes a part of the client's next question.
    pub(super) fn join_question(&mut self) {
        self.set_question(Question::Asked);
    }

    /// The last message of the stream that the client has got, and the last copy of it.
    pub(super) fn has_read(&self) -> Option<(StoredId, CopyRank)> {
        self.cursor.stored()
    }

    /// Handles a message that the question has brought: the client has all copies of it.
    pub(super) fn read(&mut self, position: Position) {
        self.cursor.read(position);
        self.set_question(Question::InPage);
    }

    /// Whether messages may be missing before those that the question brings now.
    pub(super) fn may_lack(&self, head: KeptHead) -> bool {
        self.lacks() != Lacks::Nothing || self.cursor.may_lack(head)
    }

    /// Handles the end of a page of the question.
    pub(super) fn page_ended(&mut self) {
        self.set_question(Question::Asked);
    }

    /// Handles the end of a question: the client has all messages that this instance had read when it was asked. A
    /// question that is refused, perhaps only because the answer was late, is asked again once, from where the bus
    /// knows that nothing was missing. `is_short`: the question had no page before its end.
    pub(super) fn question_ended(&mut self, cut: Option<RetainedCut>, is_short: bool) {
        let ReplayStage::Stream(stream) = &mut self.stage else {
            return;
        };
        if stream.attempts.asks_again(cut) {
            stream.question = Question::Asked;
            return;
        }
        stream.question = Question::None;
        let mut is_over = stream.attempts.are_used_up(is_short);
        if cut == Some(RetainedCut::Epoch) {
            stream.progress = Progress::Unread;
            let is_first = !mem::replace(&mut stream.attempts.has_begun_anew, true);
            is_over |= !is_first;
            self.read_other_epoch(is_first);
        } else {
            stream.progress = Progress::Read;
            is_over |= self.read_stream(cut);
        }
        if is_over {
            self.stage = ReplayStage::History;
        }
    }

    /// The stream has been read as far as it gives messages. Returns whether it is not asked again.
    fn read_stream(&mut self, cut: Option<RetainedCut>) -> bool {
        // The stream gives nothing, but the history may have some of the messages.
        let is_over = matches!(
            cut,
            Some(
                RetainedCut::Refused
                    | RetainedCut::Unreadable
                    | RetainedCut::Unnamed
                    | RetainedCut::Off
            )
        );
        // `KeptCursor::read_all` moves the cursor, and returns whether messages were lost after the position of the
        // question.
        if !is_over && self.cursor.read_all() {
            self.cut.note(RetainedCut::Window);
        }
        if let Some(cut) = cut {
            self.cut.note(cut);
        }
        is_over
    }

    /// Handles a position of another epoch of the stream: it says nothing of this stream, which is read from its beginning
    /// on. But only once, or a stream that is made anew all the time, and a reading that is wrong about it, would have no
    /// end.
    fn read_other_epoch(&mut self, is_first: bool) {
        // What the earlier epoch had is gone, and only what this instance has read of it is known.
        let has_all = is_first && self.cursor.has_all_before_loss();
        self.cut.note(match has_all {
            true => RetainedCut::Epoch,
            false => RetainedCut::Window,
        });
        self.cursor.read_anew();
        if !is_first {
            self.cursor.read_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weirgate_wire::admission::{ClientAddr, Quota};

    fn replay() -> Replay {
        let quota = Quota::new("names", 1 << 20);
        let memory = quota.grant(ClientAddr::Unix, 1).expect("room");
        let name = ReplayedName::new(NameSyntax::Nats, TopicName::fixed("a"));
        Replay::new(NameSyntax::Nats, vec![name], None, memory)
    }

    fn ask(replay: &mut Replay, cut: Option<RetainedCut>, is_short: bool) {
        assert!(replay.asks_bus());
        replay.join_question();
        replay.question_ended(cut, is_short);
    }

    #[test]
    fn a_question_without_an_answer_is_asked_again_once() {
        let mut replay = replay();
        let refused = Some(RetainedCut::Refused);
        ask(&mut replay, refused, true);
        assert!(replay.is_asked());
        assert!(!replay.may_look(false), "nothing from before the history");
        ask(&mut replay, refused, true);
        assert!(!replay.is_asked() && !replay.asks_bus());
        assert!(replay.may_look(false));
        assert_eq!(replay.cut.reason(), refused);
    }

    #[test]
    fn questions_that_bring_little_come_to_an_end() {
        let mut replay = replay();
        for _ in 1..SHORT_READS_MAX {
            ask(&mut replay, None, true);
        }
        // One of several pages begins the count anew.
        ask(&mut replay, None, false);
        for _ in 0..SHORT_READS_MAX {
            ask(&mut replay, None, true);
        }
        assert!(!replay.asks_bus());
    }

    #[test]
    fn a_stream_is_read_anew_from_its_beginning_once() {
        let mut replay = replay();
        ask(&mut replay, Some(RetainedCut::Epoch), false);
        assert!(!replay.is_asked() && !replay.may_look(false));
        ask(&mut replay, Some(RetainedCut::Epoch), false);
        assert!(!replay.asks_bus() && replay.may_look(false));
    }

    #[test]
    fn in_a_page_of_the_stream_the_history_is_not_asked() {
        let mut replay = replay();
        ask(&mut replay, None, false);
        replay.join_question();
        assert!(replay.may_look(false) && !replay.may_look(true));
        let id = StoredId { major: 1, minor: 1 };
        replay.read(Position::stored(1, id));
        assert!(!replay.may_look(false));
        replay.page_ended();
        assert!(replay.may_look(false));
        replay.paged(None, &[1]);
        assert!(!replay.is_asked() && replay.asks_bus());
    }

    #[test]
    fn what_the_history_lacks_comes_from_the_stream_or_not_at_all() {
        let mut replay = replay();
        let without = |replay: &mut Replay| replay.go_on_without_page(NotRecovered::Window);
        assert_eq!(without(&mut replay), WithoutPage::Waits);
        assert!(!replay.skipped(), "not a page behind a hole");
        ask(&mut replay, Some(RetainedCut::Off), true);
        assert_eq!(replay.lacks(), Lacks::Earlier);
        assert_eq!(without(&mut replay), WithoutPage::Again);
        assert_eq!(replay.lacks(), Lacks::More);
        assert!(!replay.skipped() && replay.skipped());
        assert_eq!(without(&mut replay), WithoutPage::Ends);
    }
}
