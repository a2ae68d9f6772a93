//! The newest messages of a kept feed, for clients that resume.
//!
//! Each message of the feed has a number ([`topics`]); messages that no topic gets (bad messages) have no entry. All
//! topics share one list, in the order of the feed; a resume walks the list from the position on and takes the messages
//! of the topics. So keeping a message costs the same however many topics there are, and the messages of several topics
//! come in the order of the feed.
//!
//! The newest message of each topic stays when the list has to become shorter for its memory, however many messages other
//! topics have ([`NewestOnly`]): for clients that ask for the newest messages, if the gateway has such requests.
//!
//! A resume is whole or refused: [`NotRecovered`] says why.
//!
//! | file | owns |
//! | --- | --- |
//! | `message`, `copies` | a kept message; the frames that were made of it |
//! | `list`, `newest_only`, `topics` | the messages in the order of the feed; those that stay alone of their topics; all topics |
//! | `forgetting` | the limits of memory and age: what is forgotten, and when |
//! | `numbers`, `certain` | from positions to numbers; which positions clients may be given |
//! | `missing` | what was forgotten, left out or lost: whether a client can resume from a position |
//! | `reach` | how far back in time the history reaches; the gauges |
//! | `newest`, `forgotten` | the newest messages of topics; which of them were forgotten lately |
//! | `wanted`, `search`, `found`, `missed` | the names that a client asks for; the search for their messages, and its result |
//! | `cursor`, `pages` | how far a client has got all kept messages; its next page |
//! | `frames` | makes the frames of what was found |

mod certain;
mod copies;
mod cursor;
mod forgetting;
mod forgotten;
mod found;
mod frames;
mod list;
mod message;
mod missed;
mod missing;
mod newest;
mod newest_only;
mod numbers;
mod pages;
mod reach;
mod search;
mod topics;
mod wanted;

use self::certain::Certain;
use self::copies::Copies;
pub use self::cursor::{KeptCursor, KeptHead};
use self::forgotten::ForgottenNewest;
use self::list::MessageList;
use self::message::{KeptMessage, Renderer, time_of};
pub(crate) use self::missed::KeptPage;
pub(super) use self::missed::{CopyPlace, merge_charge};
pub use self::missed::{Lacks, Missed};
use self::missing::Missing;
pub use self::newest::NotKept;
use self::newest_only::NewestOnly;
use self::numbers::MessageNumbers;
use self::reach::WholeSince;
use self::topics::KnownTopics;
pub(super) use self::wanted::FrameBudget;
pub use self::wanted::{Outcome, Wanted};
use super::{
    Body, FeedNotice, FrameBytes, HistoryLimits, NotRecovered, Position, Render, StoredId,
    TopicName,
};
use weirgate_wire::auth::NamePatterns;
use weirgate_wire::base::Now;

/// The known topics get one `TOPICS_SHARE`th of the bytes.
const TOPICS_SHARE: usize = 4;

/// The kept messages, and their numbers.
#[derive(Debug)]
pub(super) struct History {
    limits: HistoryLimits,
    numbers: MessageNumbers,
    /// Which positions clients may be given.
    certain: Certain,
    list: MessageList,
    newest_only: NewestOnly,
    newest_forgotten: ForgottenNewest,
    known_topics: KnownTopics,
    missing: Missing,
    whole_since: WholeSince,
    renderer: Renderer,
    /// Whether the stream is asked for the newest messages of topics of which none is kept.
    pub(super) asks_for_newest: bool,
    /// What has come last takes the memory over its limit: older messages are yet to be forgotten.
    is_over: bool,
    /// Messages have no positions now, so no client can resume.
    pub(super) is_off: bool,
}

impl History {
    /// An empty history; `None` if the limits keep nothing. `stream`: the hash of the stream that is the feed. `frames` counts
    /// the frames.
    pub(super) fn new(
        limits: HistoryLimits,
        stream: Option<u32>,
        frames: &FrameBytes,
    ) -> Option<Self> {
        (limits.keep_us > 0).then(|| Self {
            limits,
            numbers: MessageNumbers::new(stream),
            certain: Certain::default(),
            list: MessageList::default(),
            newest_only: NewestOnly::new(limits.bytes_max),
            newest_forgotten: ForgottenNewest::default(),
            known_topics: KnownTopics::new(limits.bytes_max / TOPICS_SHARE),
            missing: Missing::default(),
            whole_since: WholeSince::default(),
            renderer: Renderer::new(frames),
            asks_for_newest: false,
            is_over: false,
            is_off: false,
        })
    }

    /// Sets how the gateway renders messages.
    pub(super) fn set_render(&mut self, render: Render) {
        self.renderer.render = render;
    }

    /// Gives the newest messages of topics no part of the memory, which then all is for resumes.
    pub(super) fn keep_no_newest_alone(&mut self) {
        self.newest_only = NewestOnly::new(0);
    }

    /// Handles a loss: messages after the newest are missing.
    pub(super) fn lose(&mut self, now: Now) {
        self.note(now, FeedNotice::Hole);
        self.missing.lose(self.numbers.head, now);
        if self.asks_for_newest {
            self.newest_forgotten.add_all();
        }
    }

    /// Handles a notice about the positions of the feed.
    pub(super) fn note(&mut self, now: Now, notice: FeedNotice) {
        match notice {
            FeedNotice::Mark {
                feed_hash,
                mark,
                count,
            } => {
                self.begin_whole(now);
                self.is_off = false;
                self.numbers.mark(feed_hash, mark, count);
            }
            FeedNotice::NoPositions => {
                self.whole_since.end();
                self.is_off = true;
            }
            FeedNotice::Head(position) => {
                self.begin_whole(now);
                self.begin(position);
            }
            // Messages after the newest may be missing, and no earlier position is good.
            FeedNotice::Hole => {
                self.whole_since.begin(now.unix_us);
                self.numbers.gap();
                self.certain.lose(self.numbers.head);
            }
            FeedNotice::InDoubt(is_in_doubt) => {
                let newest = (self.numbers.head, self.numbers.newest());
                self.certain.note(is_in_doubt, newest);
            }
        }
    }

    /// Begins without a message, unless positions go on: then nothing is missing.
    fn begin_whole(&mut self, now: Now) {
        if self.numbers.newest().is_none() {
            self.whole_since.begin(now.unix_us);
        }
    }

    /// Handles the position of the newest message of a stream, which is not kept.
    fn begin(&mut self, position: Position) {
        if self.numbers.newest() != Some(position)
            && let Some(number) = self.numbers.next(position)
        {
            self.missing.skip_to(number);
        }
    }

    /// Handles names that the feed has got: what was published of them before the next message did not come.
    pub(super) fn note_new_names(&mut self, names: NamePatterns) {
        self.missing.note_new_names(names, self.numbers.head + 1);
    }

    /// Keeps a message of the feed; `body` is `None` for a message that was left out.
    pub(super) fn keep(
        &mut self,
        now: Now,
        position: Position,
        topic: &TopicName,
        body: Option<&Body>,
    ) {
        let Some(number) = self.numbers.next(position) else {
            return;
        };
        let unix_us = body.and_then(time_of).unwrap_or(now.unix_us);
        self.whole_since.keep(unix_us);
        let topic = self.known_topics.add(topic, unix_us);
        match body {
            Some(body) => {
                self.remove_newest_only(topic);
                body.keep();
            }
            None => {
                self.missing.leave_out(number, now.unix_us);
                self.known_topics.left_out(topic, number, now.unix_us);
            }
        }
        self.known_topics.note_newest(topic, number);
        let entry = KeptMessage {
            number,
            kept_us: now.mono_us,
            position,
            body: body.cloned(),
            copies: Copies::default(),
        };
        self.list.push(topic, entry);
        self.forget_excess();
    }

    /// The position of the newest message that was read; `None` while no position is known, as before the first mark and
    /// after a loss.
    pub(super) fn newest_read(&self) -> Option<Position> {
        self.numbers.newest()
    }

    /// The newest position that a client may be given, who has all messages that were read.
    pub(super) fn position(&self) -> Option<Position> {
        self.certain.newest(self.numbers.newest())
    }

    /// Messages may be lost, so no client can resume until that is known.
    pub(super) fn is_in_doubt(&self) -> bool {
        self.certain.is_in_doubt()
    }

    /// Whether the messages after a position are known; if not, why.
    pub(super) fn check_position(&self, since: &str) -> Outcome {
        self.numbers.find(since).map(|_| ())
    }

    /// Whether a position of a client may be one of the feed, since its newest loss.
    pub(super) fn check_feed(&self, position: Position) -> Outcome {
        self.numbers.check_feed(position)?;
        match self.numbers.may_be_before_loss(position) {
            true => Err(NotRecovered::Gap),
            false => Ok(()),
        }
    }

    /// Whether a message of the stream was read, or is older than what was read.
    pub(super) fn has_read(&self, id: StoredId) -> bool {
        self.numbers.has_read(id)
    }

    /// The number of the newest message.
    pub(super) fn newest_number(&self) -> u64 {
        self.numbers.head
    }

    /// A number that each loss of messages changes.
    pub(super) fn newest_loss(&self) -> u64 {
        self.missing.loss().map_or(0, |loss| loss.number)
    }
}

#[cfg(test)]
mod tests;
