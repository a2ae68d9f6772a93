//! A connection with questions, and the side of a server: what it answers and delivers.

use std::sync::{Arc, LazyLock};

use super::super::all_streams::AfterPage;
use super::super::reading::PAGE_BYTES;
use super::super::*;
use crate::nats::protocol::{Op, OpReader};
use crate::requests::Wants;
use weirgate_core::{PageCursor, ReadPart, RetainedCut, StoredId, Subscription, TopicName};
use weirgate_wire::admission::ClientAddr;
use weirgate_wire::json::Json;

/// The payload limit.
pub(super) const BYTES_MAX: usize = 2 * PAGE_BYTES;
/// The number of the answer about the first consumer on a connection.
pub(super) const FIRST_CONSUMER: ReplyNumber = ReplyNumber(FIRST_SID + 1);

/// The list of a single stream, whose leader is `s0`.
pub(super) const LIST: &str =
    r#"{"streams":[{"config":{"name":"S","subjects":["a.>"]},"cluster":{"leader":"s0"}}]}"#;
/// A list of two streams without a cluster.
pub(super) const TWO_STREAMS: &str = r#"{"streams":[
    {"config":{"name":"F","subjects":["a.x"]}},
    {"config":{"name":"S","subjects":["a.*"]}}]}"#;
pub(super) const NO_STREAMS: &str = r#"{"total":0,"streams":null}"#;

/// When the loop asked all questions.
static ASKED: LazyLock<Instant> = LazyLock::new(Instant::now);

/// A question for the last values of a name.
pub(super) fn question(number: u64, name: &str) -> Question {
    let subscription = match name.contains(['*', '>']) {
        true => Subscription::pattern(name),
        false => Subscription::channel(name),
    };
    Question {
        subscription,
        cover: None,
        number,
        after: Arc::default(),
        wants: Wants::LastValues,
        names: Arc::default(),
        client: ClientAddr::Unix,
        asked: *ASKED,
    }
}

pub(super) fn json(text: &str) -> Json<'_> {
    Json::read(text.as_bytes()).expect("JSON")
}

/// After many small answers.
pub(super) fn small_answers() -> MessageBytes {
    let mut bytes = MessageBytes::default();
    (0..1_000).for_each(|_| bytes.note(1_000));
    bytes
}

/// The answer about a consumer for which so many messages wait, made in 1970.
pub(super) fn made(waiting: u64) -> String {
    format!(r#"{{"name":"c","num_pending":{waiting},"created":"1970-01-01T00:00:00Z"}}"#)
}

/// The answer with a message of this payload, as the server writes it.
pub(super) fn message_answer(data: &str) -> String {
    format!(
        r#"{{"type":"get","message":{{"subject":"a.b","seq":3,"hdrs":"TkFUUy8xLjANCg==","data":"{data}","time":"2026-01-01T00:00:00Z"}}}}"#
    )
}

/// The id of the message with this number, as the consumer says it.
pub(super) const fn id(major: u64) -> StoredId {
    StoredId { major, minor: 123 }
}

/// The cursor after `a.*` in the stream S was read up to this number.
pub(super) fn read(sequence: u64, made: &str) -> PageCursor {
    let [stream, filter] = ["S", "a.*"].map(str::to_owned);
    PageCursor::of(vec![ReadPart {
        stream,
        filter,
        made: made.to_owned(),
        sequence,
    }])
}

/// What the session gets of a question: values, and what comes after them.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Came {
    pub(super) values: usize,
    pub(super) last: Last,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Last {
    Nothing,
    /// The end of a page, and perhaps of the question.
    Page {
        cursor: PageCursor,
        is_open: bool,
    },
    End(Option<RetainedCut>),
    Unanswered {
        cursor: PageCursor,
        why: String,
    },
}

/// Values without an end.
pub(super) fn only(values: usize) -> Came {
    let last = Last::Nothing;
    Came { values, last }
}

/// All values.
pub(super) fn whole(values: usize) -> Came {
    let last = Last::End(None);
    Came { values, last }
}

/// Values, and the reason why others are missing.
pub(super) fn lacking(values: usize, cut: RetainedCut) -> Came {
    let last = Last::End(Some(cut));
    Came { values, last }
}

/// A page, after which the question goes on.
pub(super) fn page(values: usize, cursor: PageCursor) -> Came {
    let is_open = true;
    let last = Last::Page { cursor, is_open };
    Came { values, last }
}

impl From<RetainedEvent> for Last {
    fn from(event: RetainedEvent) -> Self {
        match event {
            RetainedEvent::Value { .. } => Self::Nothing,
            RetainedEvent::Page {
                cursor, is_open, ..
            } => Self::Page {
                cursor: PageCursor::clone(&cursor),
                is_open,
            },
            RetainedEvent::Unanswered { cursor, why, .. } => Self::Unanswered {
                cursor: PageCursor::clone(&cursor),
                why: why.to_string(),
            },
            RetainedEvent::End { cut, .. } => Self::End(cut.as_ref().map(NatsCut::reason)),
        }
    }
}

/// A connection, and the time.
pub(super) struct Bench {
    pub(super) retained: Retained,
    pub(super) out: Vec<u8>,
    pub(super) now: Instant,
    /// The messages of the consumer so far.
    delivered: u64,
}

impl Bench {
    /// A connection without a question, to a server without transforms and copies.
    pub(super) fn idle() -> Self {
        let now = Instant::now();
        let settings = QuestionSettings {
            has_last_values: true,
            stream: Some("S".to_owned()),
            payload_bytes_max: BYTES_MAX,
        };
        let mut retained = Retained::new(settings, SourceProgress::default(), small_answers());
        assert!(retained.all_streams.ask(ReplyNumber(u64::MAX), now));
        assert_eq!(retained.all_streams.add_page(json("{}")), AfterPage::Known);
        Self {
            retained,
            out: Vec::new(),
            now,
            delivered: 0,
        }
    }

    /// A connection with a question for the last values of a name.
    pub(super) fn asks(name: &str) -> Self {
        let mut bench = Self::idle();
        bench.ask(question(1, name));
        bench
    }

    /// The same after messages with these subjects and payloads were delivered for the name.
    pub(super) fn with_live(name: &str, live: &[(&str, &str)]) -> Self {
        Self::with_live_of(question(1, name), name, live)
    }

    /// The same for a name whose live messages come by a wider pattern.
    pub(super) fn with_live_within(cover: &'static str, name: &str, live: &[(&str, &str)]) -> Self {
        let question = Question {
            cover: Some(TopicName::fixed(cover)),
            ..question(1, name)
        };
        Self::with_live_of(question, cover, live)
    }

    fn with_live_of(question: Question, subscribed: &str, live: &[(&str, &str)]) -> Self {
        let mut bench = Self::idle();
        for (subject, payload) in live {
            let delivery = Delivery {
                subject: (*subject).into(),
                sid: 5,
                payload: payload.as_bytes().to_vec(),
                ..Delivery::default()
            };
            bench.retained.note_live(&delivery, bench.now);
        }
        let scope = LiveScope::of(&question, |name| (name == subscribed).then_some(5));
        let Self {
            retained, out, now, ..
        } = &mut bench;
        retained.ask(question, scope, *now, out);
        bench
    }

    /// A question for the last values of `a.*` that goes on behind this cursor, up to a consumer of the first stream of this
    /// list for which so many messages wait.
    pub(super) fn reads(list: &str, after: PageCursor, waiting: u64) -> Self {
        let mut bench = Self::idle();
        bench.ask(Question {
            after: Arc::new(after),
            ..question(1, "a.*")
        });
        bench.answer(list);
        bench.answer(&made(waiting));
        bench
    }

    pub(super) fn ask(&mut self, question: Question) {
        self.retained.ask(question, None, self.now, &mut self.out);
    }

    pub(super) fn take(&mut self, delivery: Delivery) {
        self.retained.take(delivery, self.now, &mut self.out);
        self.read_past_requests();
    }

    /// The server answers the ping behind the requests that have just gone out: it makes consumers quickly.
    fn read_past_requests(&mut self) {
        const PING: u64 = 1;
        if self.retained.needs_ping(self.now) {
            self.retained.note_ping(PING, self.now);
            self.retained.note_pongs(|ping| ping == PING);
        }
    }

    pub(super) fn work(&mut self) {
        self.retained.work(self.now, &mut self.out);
    }

    /// The gateway wants the next page of its question 1.
    pub(super) fn wants_more(&mut self) {
        self.retained.more(1, self.now, &mut self.out);
    }

    /// Answers what the first question has asked.
    pub(super) fn answer(&mut self, payload: &str) {
        self.answer_question(1, payload);
    }

    /// Answers what this question has asked. `out` is what follows.
    pub(super) fn answer_question(&mut self, question: u64, payload: &str) {
        let number = self.number_of_answer(question);
        self.out.clear();
        self.answer_to(number, payload);
    }

    /// An answer with this number, late or not.
    pub(super) fn answer_to(&mut self, number: ReplyNumber, payload: &str) {
        if number >= FIRST_CONSUMER {
            self.delivered = 0;
        }
        self.take(Delivery {
            subject: self.retained.reply(number).into(),
            sid: FIRST_SID,
            payload: payload.as_bytes().to_vec(),
            ..Delivery::default()
        });
    }

    /// The answer to what the first question has asked, as the reader of the connection gives it.
    pub(super) fn over_the_wire(&self, payload: &str) -> Delivery {
        let subject = self.retained.reply(self.number_of_answer(1));
        let mut reader = OpReader::new(Retained::payload_limits(BYTES_MAX));
        let bytes = payload.len();
        let op = format!("MSG {subject} {FIRST_SID} {bytes}\r\n{payload}\r\n");
        match reader.next(&mut op.as_bytes()) {
            Ok(Some(Op::Message(delivery))) => delivery,
            other => panic!("{other:?}"),
        }
    }

    /// The number of the answer for which a question waits.
    pub(super) fn number_of_answer(&self, question: u64) -> ReplyNumber {
        let number = ReplyNumber(question);
        match self.retained.pending.get(&number).map(|asked| &asked.step) {
            Some(QuestionStep::Create { consumer, .. }) => ReplyNumber(consumer.sid),
            Some(QuestionStep::AllStreams) => self.retained.all_streams.asked().expect("a request"),
            _ => number,
        }
    }

    /// Answers what the question asks until it waits for messages: the list of its streams, that there are no other streams, and
    /// the consumer.
    pub(super) fn answer_until_consumer(&mut self, list: &str, waiting: u64) {
        for _ in 0..3 {
            let pending = self.retained.pending.get(&ReplyNumber(1));
            let answer = match pending.map(|asked| &asked.step) {
                Some(QuestionStep::AllStreams) => NO_STREAMS.to_owned(),
                Some(QuestionStep::Streams) => list.to_owned(),
                Some(QuestionStep::Create { .. }) => made(waiting),
                _ => return,
            };
            self.answer(&answer);
        }
    }

    /// The consumer brings the message of this number, with a payload of so many bytes.
    pub(super) fn brings(&mut self, sequence: u64, bytes: usize) {
        self.brings_at(sequence, 123, bytes);
    }

    /// The same of several messages.
    pub(super) fn brings_all(&mut self, sequences: impl IntoIterator<Item = u64>) {
        let sequences = sequences.into_iter();
        sequences.for_each(|sequence| self.brings(sequence, 10));
    }

    /// The same of a message that was stored at this time.
    pub(super) fn brings_at(&mut self, major: u64, minor: u64, bytes: usize) {
        let payload = vec![b'1'; bytes];
        let id = StoredId { major, minor };
        self.deliver(&format!("a.{major}"), id, self.pending(), payload);
    }

    /// What the server counts for the consumer of the first question behind the next message.
    fn pending(&self) -> u64 {
        let pending = self.retained.pending.get(&ReplyNumber(1));
        pending.map_or(0, |asked| asked.reading.waiting.saturating_sub(1))
    }

    /// The consumer brings the message of this number and subject, and has so many more.
    pub(super) fn brings_as(&mut self, sequence: u64, subject: &str, pending: u64) {
        self.deliver(subject, id(sequence), pending, b"1".to_vec());
    }

    /// The consumer brings a message of this subject.
    pub(super) fn brings_value(&mut self, subject: &str, payload: &str) {
        self.out.clear();
        self.deliver(subject, id(9), self.pending(), payload.into());
    }

    fn deliver(&mut self, subject: &str, id: StoredId, pending: u64, payload: Vec<u8>) {
        self.delivered += 1;
        let StoredId { major, minor } = id;
        let delivered = self.delivered;
        self.take(Delivery {
            subject: subject.into(),
            sid: self.retained.last_sid,
            reply: Some(format!(
                "$JS.ACK.S.c.1.{major}.{delivered}.{minor}.{pending}"
            )),
            payload,
            ..Delivery::default()
        });
    }

    /// The consumer gets a status in place of messages.
    pub(super) fn says(&mut self, status: u16, words: &str) {
        self.take(Delivery {
            subject: b"_INBOX.x".to_vec(),
            sid: self.retained.last_sid,
            status: Some(status),
            status_words: words.into(),
            ..Delivery::default()
        });
    }

    /// A consumer on this server, for which a message waits.
    pub(super) fn made_on(&mut self, server: &str) {
        self.answer(&format!(
            r#"{{"name":"c","num_pending":1,"cluster":{{"leader":"{server}"}}}}"#
        ));
    }

    /// Lets the pause pass; returns what is asked again.
    pub(super) fn pause(&mut self) -> String {
        self.out.clear();
        self.now = self.retained.due().expect("a pause");
        self.work();
        String::from_utf8_lossy(&self.out).into_owned()
    }

    /// What was sent since the last call.
    pub(super) fn sent(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.out)).into_owned()
    }

    /// The numbers of messages in the requests to consumers since the last call.
    pub(super) fn pulls(&mut self) -> Vec<u64> {
        let text = self.sent();
        let bodies = text.lines().filter(|line| line.contains("expires"));
        let batch = |body| json(body).number(&["batch"]).expect("a number");
        bodies.map(batch).collect()
    }

    /// How many messages the consumer was asked for.
    pub(super) fn pull(&mut self) -> u64 {
        match self.pulls()[..] {
            [pull] => pull,
            ref pulls => panic!("{pulls:?}"),
        }
    }

    pub(super) fn events(&mut self) -> Vec<RetainedEvent> {
        std::mem::take(&mut self.retained.events)
    }

    /// The values that came, and what came last.
    pub(super) fn came(&mut self) -> Came {
        let mut events = self.events();
        let is_value = |event: &RetainedEvent| matches!(event, RetainedEvent::Value { .. });
        let last = events.pop_if(|event| !is_value(event));
        assert!(events.iter().all(is_value), "{events:?}");
        Came {
            values: events.len(),
            last: last.map_or(Last::Nothing, Last::from),
        }
    }

    /// The payloads of the values, and words for what else came.
    pub(super) fn texts(&mut self) -> Vec<String> {
        let text = |event| match event {
            RetainedEvent::Value { payload, .. } => String::from_utf8_lossy(&payload).into_owned(),
            RetainedEvent::End { cut: None, .. } => "end".to_owned(),
            RetainedEvent::End { cut: Some(cut), .. } => format!("end: {cut}"),
            RetainedEvent::Page { .. } => "page".to_owned(),
            RetainedEvent::Unanswered { why, .. } => format!("later: {why}"),
        };
        self.events().into_iter().map(text).collect()
    }

    /// Whether the question reads with a consumer.
    pub(super) fn has_consumer(&self) -> bool {
        let pending = self.retained.pending.get(&ReplyNumber(1));
        pending.is_some_and(|asked| matches!(asked.step, QuestionStep::Values { .. }))
    }

    pub(super) fn has_ended(&self) -> bool {
        self.retained.asked() == 0
    }
}
