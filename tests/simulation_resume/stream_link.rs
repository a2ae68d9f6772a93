//! An instance's connection to the server of a stream: commands go, answers come some time later.
//! `RedisStreamReader` and `StreamFeed` do the rest; what is here is what a session does around them.

use weirgate_bus::redis::resp::Value;
use weirgate_bus::redis::{RedisStreamReader, StreamReadError};
use weirgate_bus::{KeptEvent, StreamFeed, StreamSettings};
use weirgate_core::BusEvent;
use weirgate_wire::base::Now;

use super::doubts::{Doubts, Next};
use super::redis::Redis;
use super::stream::KEY;
use crate::world::Random;

/// The size of an entry, as far as the reader knows: few or many come at once.
const ENTRY_BYTES: usize = 4 * 1024 * 1024;

/// See the module.
#[derive(Debug)]
pub(crate) struct StreamLink {
    reader: RedisStreamReader,
    feed: StreamFeed,
    /// Tells this process apart from all others that read the stream.
    process: u64,
    payload_bytes_max: usize,
    /// Nothing was read since a loss.
    is_after_loss: bool,
    /// `None`: this instance reads everything.
    doubts: Option<Doubts>,
    is_connected: bool,
    /// Answers on their way.
    answers: Option<Vec<Value>>,
    is_down_told: bool,
    /// Whether the process was ever up: no client comes before.
    pub(crate) has_stood: bool,
    /// The number behind the newest message that was read.
    pub(crate) end: usize,
}

impl StreamLink {
    pub(crate) fn new(
        settings: StreamSettings,
        payload_bytes_max: usize,
        process: u64,
        has_doubts: bool,
    ) -> Self {
        Self {
            reader: RedisStreamReader::new(
                KEY,
                settings.history_ms,
                payload_bytes_max,
                settings.answer_bytes_max,
            ),
            feed: StreamFeed::of_redis(settings),
            process,
            payload_bytes_max,
            is_after_loss: false,
            doubts: has_doubts.then(Doubts::default),
            is_connected: false,
            answers: None,
            is_down_told: false,
            has_stood: false,
            end: 0,
        }
    }

    pub(crate) fn process(&self) -> u64 {
        self.process
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.is_connected
    }

    pub(crate) fn connect(&mut self) {
        self.reader.connected();
        self.is_connected = true;
    }

    /// The connection is lost, with the answers on it.
    pub(crate) fn lose(&mut self) -> Vec<BusEvent> {
        self.is_connected = false;
        self.answers = None;
        match std::mem::replace(&mut self.is_down_told, true) {
            true => Vec::new(),
            false => vec![BusEvent::Down("gone".to_owned())],
        }
    }

    /// The server executes the next commands, if it has no answer under way. Commands are sent together,
    /// and others' commands may come between.
    pub(crate) fn execute(&mut self, redis: &mut Redis, random: &mut Random) {
        if !self.is_connected || self.answers.is_some() {
            return;
        }
        let mut answers = Vec::new();
        for command in self.reader.commands() {
            let stream = redis.stream.as_mut().expect("a stream");
            answers.push(stream.answer(&command, &redis.items, self.payload_bytes_max));
            if random.chance(3) {
                stream.trim(random.below(20) as usize);
            }
        }
        self.answers = Some(answers);
    }

    /// Takes an answer: events, each with the number behind the newest message so far.
    pub(crate) fn hand_over(
        &mut self,
        redis: &mut Redis,
        now: Now,
        random: &mut Random,
    ) -> Vec<(usize, BusEvent)> {
        let Some(answers) = self.answers.take() else {
            return Vec::new();
        };
        let mut told = Vec::new();
        // The session leaves such a server, and tries again.
        let mut is_behind = false;
        let now_ms = u64::try_from(now.unix_ms()).expect("a time");
        for answer in answers {
            let parts = match answer {
                // The entries of an answer leave one by one, and then the list without them.
                Value::Array(entries) if self.reader.takes_entries() => {
                    let end = Value::Array(Vec::new());
                    entries.into_iter().chain([end]).collect()
                }
                answer => vec![answer],
            };
            for part in parts {
                let taken = self.reader.take(part, ENTRY_BYTES, now_ms, &mut told);
                is_behind |= taken == Err(StreamReadError::Behind);
                assert!(taken.is_ok() || is_behind, "a good answer: {taken:?}");
            }
        }
        let mut events = Vec::new();
        for told in told {
            if self.is_of_earlier_epoch(redis, &told) {
                continue;
            }
            match self.doubt(redis, &told, random) {
                Next::Skipped => continue,
                Next::Read(event) => events.extend(event.map(|event| (self.end, event))),
            }
            let number = self.note(redis, &told);
            if told == KeptEvent::CaughtUp {
                (self.has_stood, self.is_down_told) = (true, false);
                events.push((self.end, BusEvent::Up));
            }
            let event = self.feed.event(now, told);
            if let (Some(number), Some(BusEvent::Message(message))) = (number, &event)
                && message.quiet
            {
                redis.items[number].history_of.push(self.process);
            }
            events.extend(event.map(|event| (self.end, event)));
        }
        for event in self.answer_doubts(redis, random) {
            events.push((self.end, event));
        }
        if is_behind {
            events.extend(self.lose().into_iter().map(|event| (self.end, event)));
        }
        events
    }

    /// Whether a message was published before others that were read. If a stream was made anew with lower ids, and has lost its
    /// newest messages, the reader may come back to messages that it has reported as lost. The model knows one order only.
    fn is_of_earlier_epoch(&self, redis: &Redis, told: &KeptEvent) -> bool {
        let KeptEvent::Message { id, .. } = told else {
            return false;
        };
        let number = redis.stream.as_ref().expect("a stream").number_of(*id);
        self.is_after_loss && number < self.end
    }

    /// Whether a live message is left out, and what comes before it.
    fn doubt(&mut self, redis: &mut Redis, told: &KeptEvent, random: &mut Random) -> Next {
        let KeptEvent::Message { id, is_old, .. } = told else {
            return Next::Read(None);
        };
        let is_live = self.has_stood && !is_old;
        let Some(doubts) = self.doubts.as_mut().filter(|_| is_live) else {
            return Next::Read(None);
        };
        let next = doubts.next(random);
        if matches!(next, Next::Skipped) {
            let number = redis.stream.as_ref().expect("a stream").number_of(*id);
            redis.items[number].skipped_by.push(self.process);
        }
        next
    }

    fn answer_doubts(&mut self, redis: &mut Redis, random: &mut Random) -> Vec<BusEvent> {
        let doubts = self.doubts.as_mut();
        let events = doubts.map_or_else(Vec::new, |doubts| doubts.answer(random));
        if events.len() > 1 {
            redis.forget_gone(self.process);
        }
        events
    }

    /// Notes what was read, and returns its number. What is up to the head was lost, or is older than all that was read.
    fn note(&mut self, redis: &mut Redis, told: &KeptEvent) -> Option<usize> {
        let id = match told {
            KeptEvent::Message { id, .. } | KeptEvent::Head { id, .. } => *id,
            KeptEvent::Lost | KeptEvent::Hole => {
                redis.forget_gone(self.process);
                self.is_after_loss = true;
                return None;
            }
            KeptEvent::Bad { .. }
            | KeptEvent::CaughtUp
            | KeptEvent::Lag { .. }
            | KeptEvent::InDoubt(_)
            | KeptEvent::Subjects(_) => return None,
        };
        let number = redis.stream.as_ref().expect("a stream").number_of(id);
        let is_head = matches!(told, KeptEvent::Head { .. });
        if !is_head {
            assert!(number >= self.end, "{number} was read before {}", self.end);
            redis.items[number].read_by.push(self.process);
            self.is_after_loss = false;
        }
        // Junk has no position, so nobody is told of a loss before. An empty payload has one: clients of binary
        // messages get it.
        let item = &redis.items[number];
        if is_head || !item.is_junk || item.payload.is_empty() {
            self.end = self.end.max(number + 1);
        }
        Some(number)
    }
}
