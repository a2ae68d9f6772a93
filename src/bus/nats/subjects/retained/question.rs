//! A question on its way, and what it waits for. Pure.

use std::collections::VecDeque;
use std::fmt;
use std::time::{Duration, Instant};

use super::all_read::AfterCheck;
use super::events::RetainedEvent;
use super::last_message::LastMessage;
use super::live::{Live, LiveMessage, LiveScope};
use super::patience::Patience;
use super::reading::{MessagesRead, QuestionReading};
use super::streams::StreamPart;
use crate::nats::consumer::Consumer;
use crate::nats::in_flight::MessageBytes;
use crate::nats::protocol::{AckSubject, Delivery};
use crate::requests::{Question, Wants};
use weirgate_core::StoredId;

/// The first pause before a question is asked again, and the longest; each pause is half as long again as the one before.
/// A consumer is on the leader at the third attempt on average, so the first pauses are short.
pub(super) const PAUSE_MIN: Duration = Duration::from_millis(10);
pub(super) const PAUSE_MAX: Duration = Duration::from_millis(320);

/// The number that ends the subject for the answers to the requests of a question; the subject for the answer about a consumer
/// ends with the `sid` of the consumer. It is not [`Question::number`], by which the gateway knows the question.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ReplyNumber(pub(super) u64);

impl ReplyNumber {
    /// Of requests whose answers nobody needs.
    pub(super) const NOBODY: Self = Self(0);

    /// The next number.
    pub(super) const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for ReplyNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A question that has not ended.
#[derive(Debug)]
pub(super) struct PendingQuestion {
    pub(super) question: Question,
    /// The live messages of the name, if it is subscribed.
    pub(super) scope: Option<LiveScope>,
    /// When it was asked.
    pub(super) begun: Instant,
    pub(super) patience: Patience,
    pub(super) step: QuestionStep,
    /// The next pause.
    pause: Duration,
    /// The last message of an exact subject, in the leader's last answer.
    pub(super) last_message: Option<LastMessage>,
    /// How far the values of a pattern, or all messages, were read.
    pub(super) reading: QuestionReading,
}

/// What a question waits for.
#[derive(Debug, Default)]
pub(super) enum QuestionStep {
    /// The streams that hold the subjects.
    #[default]
    Streams,
    /// The list of all streams.
    AllStreams,
    /// The last message of the first of these streams; if it has none, of the next.
    Message(VecDeque<String>),
    /// Its turn to ask for a consumer of the part.
    InLine(StreamPart),
    /// The consumer of the part.
    Create {
        part: StreamPart,
        consumer: Consumer,
    },
    /// Whether the stream has a value of the pattern: it refuses a consumer.
    AnyValue {
        part: StreamPart,
        /// The words of the refusal.
        why: String,
    },
    /// Messages of the consumer.
    Values {
        consumer: Consumer,
        /// How many of those that were asked for may still come.
        left: u64,
    },
    /// The state of the stream, for a question for all messages.
    Check(AfterCheck),
    /// The request for another page; without a consumer, one is made again.
    NextPage(Option<Consumer>),
    /// The time to ask again.
    Pause { until: Instant, then: Again },
}

/// What is asked again after a pause.
#[derive(Debug)]
pub(super) enum Again {
    /// Which streams hold the subjects, as at the beginning.
    Begin,
    Message(VecDeque<String>),
    Create(StreamPart),
    Check(AfterCheck),
}

impl PendingQuestion {
    /// A question that is asked now. `scope`: the live messages of the name, if it is subscribed.
    pub(super) fn new(question: Question, scope: Option<LiveScope>, now: Instant) -> Self {
        let reading = QuestionReading::of(&question);
        let mut pending = Self {
            question,
            scope,
            begun: now,
            patience: Patience::new(now),
            step: QuestionStep::default(),
            pause: PAUSE_MIN,
            last_message: None,
            reading,
        };
        pending.begin();
        pending
    }

    /// Sets the first step, also of a question that is asked again.
    pub(super) fn begin(&mut self) {
        self.step = match self.question.wants {
            Wants::All => QuestionStep::Check(AfterCheck::Read),
            Wants::LastValues | Wants::Newest => QuestionStep::Streams,
        };
    }

    /// Lets a pause pass; each is longer than the one before.
    pub(super) fn pause(&mut self, then: Again, now: Instant) {
        let until = now + self.pause;
        self.step = QuestionStep::Pause { until, then };
        self.pause = (self.pause * 3 / 2).min(PAUSE_MAX);
    }

    /// Whether a page was sent, and no further page is wanted yet.
    pub(super) const fn is_paused(&self) -> bool {
        matches!(self.step, QuestionStep::NextPage(_))
    }

    /// Whether nothing was asked that could be answered: it waits for its turn, or for the clients.
    const fn asks_nothing(&self) -> bool {
        self.is_paused() || matches!(self.step, QuestionStep::InLine(_))
    }

    /// Whether an answer may come at any time.
    pub(super) fn is_awaited(&self, now: Instant) -> bool {
        !self.asks_nothing() && !self.patience.is_silent(now)
    }

    /// Whether it reads with a consumer, or is about to.
    pub(super) fn reads(&self) -> bool {
        self.question.reads() && !self.is_paused()
    }

    /// Whether it reads with a consumer that is not made yet.
    pub(super) fn begins_to_read(&self) -> bool {
        let has_no_consumer = match self.step {
            QuestionStep::Streams
            | QuestionStep::AllStreams
            | QuestionStep::Check(_)
            | QuestionStep::InLine(_)
            | QuestionStep::Create { .. } => true,
            QuestionStep::Message(_)
            | QuestionStep::AnyValue { .. }
            | QuestionStep::Values { .. }
            | QuestionStep::NextPage(_)
            | QuestionStep::Pause { .. } => false,
        };
        has_no_consumer && self.question.reads()
    }

    /// Whether its time is over.
    pub(super) fn is_late(&self, now: Instant) -> bool {
        !self.asks_nothing() && self.patience.end() <= now
    }

    /// Whether its pause is over.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        matches!(self.step, QuestionStep::Pause { until, .. } if until <= now)
    }

    /// When its time or its pause is over.
    pub(super) fn due(&self) -> Option<Instant> {
        let late = self.patience.end();
        match self.step {
            QuestionStep::Pause { until, .. } => Some(until.min(late)),
            _ => Some(late).filter(|_| !self.asks_nothing()),
        }
    }

    /// Whether there is an answer to fall back on, which may be from before the newest message.
    pub(super) fn has_older_answer(&self) -> bool {
        // If a message is asked for again, the answer may have been that there is none.
        let is_asked_again = matches!(
            self.step,
            QuestionStep::Pause {
                then: Again::Message(_),
                ..
            }
        );
        self.last_message.is_some() || self.reading.has_read_all || is_asked_again
    }

    /// Whether further streams can be read if this one gives no values in time. A stream that is being made keeps all others
    /// from being read.
    pub(super) fn can_leave_stream(&self) -> bool {
        let reads_stream = matches!(
            self.step,
            QuestionStep::Create { .. }
                | QuestionStep::AnyValue { .. }
                | QuestionStep::Values { .. }
                | QuestionStep::Pause {
                    then: Again::Begin | Again::Create(_),
                    ..
                }
        );
        let has_others = !self.reading.parts_left.is_empty();
        reads_stream && has_others && !self.reading.waits_for_stream()
    }

    /// The bytes that its consumer may still bring for what it was asked. `sizes`: those of all messages so far.
    pub(super) fn awaited_bytes(&self, sizes: &MessageBytes) -> usize {
        let QuestionStep::Values { left, .. } = &self.step else {
            return 0;
        };
        let left = usize::try_from(*left).unwrap_or(usize::MAX);
        match self.reading.largest() {
            Some(bytes) => bytes.saturating_mul(left),
            None => sizes.of(left),
        }
    }

    /// Whether a message was delivered before the question, and has not come from its stream, which may store it later.
    pub(super) fn has_unstored(&self, live: &mut Live, now: Instant) -> bool {
        let MessagesRead::LastValues(values) = &self.reading.read else {
            return false;
        };
        let has_come = |live: &LiveMessage| values.has_come(live.number);
        live.has_unstored(self.scope.as_ref(), self.begun, now, has_come)
    }

    /// A message that a consumer has brought as a value; `None` if it is none, because it is empty and deletes nothing, or
    /// its subject is no name for clients. Among all messages, an empty one counts.
    pub(super) fn value(&self, delivery: Delivery, ack: AckSubject) -> Option<RetainedEvent> {
        let (is_of_all, is_empty) = (self.reading.all().is_some(), delivery.payload.is_empty());
        if is_empty && !is_of_all && !delivery.is_deletion {
            return None;
        }
        Some(RetainedEvent::Value {
            question: self.question.clone(),
            subject: delivery.name().ok()?.into(),
            is_deletion: delivery.is_deletion || is_empty && !is_of_all,
            payload: delivery.payload,
            id: Some(StoredId {
                major: ack.stream_sequence,
                minor: ack.stored_unix_ns,
            }),
        })
    }

    /// The end of a page, after which the gateway asks for the next one.
    pub(super) fn open_page(&self) -> RetainedEvent {
        RetainedEvent::Page {
            number: self.question.number,
            cursor: self.reading.cursor().into(),
            is_open: true,
        }
    }

    /// The end of a page, and of the question with it: another may go on from its cursor.
    pub(super) fn last_page(&self) -> RetainedEvent {
        RetainedEvent::Page {
            number: self.question.number,
            cursor: self.reading.last_cursor().into(),
            is_open: false,
        }
    }
}
