//! The levels feed: NATS subjects to a single state, and the state to topics.
//!
//! `market.flow` and the subjects of relays are kept untouched, `levels.signals` is normalised. Every good message
//! makes a frame for each topic that shows a key of the message. Each value is kept as payload bytes, so a flow message
//! is checked and copied and never touches the levels. Must not know a client, a broker or a clock. Called by the
//! reactor, through [`weirgate_core::Feed`]. Messages are checked and normalised on the thread of the source
//! ([`Feed::reader`]): each MiB takes some 3 ms.
//!
//! | file | owns |
//! | --- | --- |
//! | `mod` | subjects, the handling of a message, and a check without effect |
//! | `cache` | the newest value under each key, and payloads |
//! | `view` | what each topic shows: broadcasts, and quiet catch-up |
//! | `normalise`, `level` | the contract's normalisation: a message, and each level |
//! | `predictions` | the viewport's predictions for each level |
//! | `session_clock` | the trading day of New York |
//! | `reader` | raw JSON values: a cursor, kinds and truth |
//! | `bad_message` | the faults of bad messages |

mod bad_message;
mod cache;
mod level;
mod normalise;
mod predictions;
mod reader;
mod session_clock;
mod view;

use std::mem;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use self::cache::Cache;
use self::view::View;
use crate::gateways::shared::feed::{BadMessageLog, LastSeen, check_size};
use weirgate_core::{
    BusEvent, BusMessage, EventReader, Feed, FeedLine, FeedSettings, FeedStats, FrameBytes,
    PayloadText, Publication, TopicName,
};
use weirgate_wire::base::Now;
use weirgate_wire::json::Json;

pub use self::bad_message::BadMessage;
pub use self::normalise::Normaliser;

/// The subjects that are always relayed, in the order of the statistics.
pub(crate) const SUBJECTS: [&str; 2] = ["levels.signals", "market.flow"];

/// The keys of [`SUBJECTS`], in the order of the payload; the keys of relays follow.
pub(crate) const KEYS: [&str; 3] = ["flow", "levels", "viewport"];

/// The key of a message's number, which no relay may use.
pub(crate) const SEQ_KEY: &str = cache::SEQ_KEY;

/// Indexes in [`KEYS`], which are also the numbers of these parts of the state.
const FLOW: usize = 0;
const LEVELS: usize = 1;
const VIEWPORT: usize = 2;

/// What a message does with the values of its subject.
#[derive(Clone, Copy, Debug)]
enum ValueChange {
    /// It has new ones.
    Value,
    /// It removes them.
    Deletion,
}

/// Settings of a [`LevelsFeed`].
#[derive(Clone, Debug)]
pub struct LevelsFeedSettings {
    /// Minutes from the open to the end of the session: the maximum of `bars_since_open`.
    pub session_length_min: u32,
    /// More subjects, in the order of their keys in the payload.
    pub relays: Vec<Relay>,
    /// More topics, beside [`LevelsFeed::TOPIC`].
    pub endpoints: Vec<Endpoint>,
    /// Whether each payload has the number of its broadcast, so that a client can count skipped broadcasts; no part of
    /// the contract.
    pub is_numbered: bool,
    /// The limit on a message, and whether each payload has the arrival time of its newest message.
    pub messages: FeedSettings,
}

/// An additional subject: its last message, untouched, under a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relay {
    /// Neither in `SUBJECTS` nor used by another relay.
    pub subject: String,
    /// Neither in `KEYS` nor used by another relay.
    pub key: String,
}

/// An additional topic: some of the keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Topic of the endpoint's clients, named after its path: as in requests, without percent-decoding.
    pub topic: TopicName,
    /// The shown keys, each once, in any order: the payload keeps the order of the whole payload.
    pub keys: Vec<String>,
}

impl LevelsFeedSettings {
    /// The subjects whose messages an endpoint shows.
    pub(crate) fn subjects_of(&self, endpoint: &Endpoint) -> Vec<String> {
        let levels = [LEVELS, VIEWPORT].map(|part| (SUBJECTS[0], KEYS[part]));
        let permanent = levels.into_iter().chain([(SUBJECTS[1], KEYS[FLOW])]);
        let relayed = self.relays.iter();
        let relayed = relayed.map(|relay| (relay.subject.as_str(), relay.key.as_str()));
        let shown = permanent
            .chain(relayed)
            .filter(|(_, key)| endpoint.keys.iter().any(|shown| shown == key));
        let mut subjects: Vec<_> = shown.map(|(subject, _)| subject.to_owned()).collect();
        // Levels and viewport come with the same subject, one after the other.
        subjects.dedup();
        subjects
    }
}

impl Default for LevelsFeedSettings {
    fn default() -> Self {
        Self {
            session_length_min: 240,
            relays: Vec::new(),
            endpoints: Vec::new(),
            is_numbered: false,
            messages: FeedSettings::default(),
        }
    }
}

/// A relayed subject. Its name is in the statistics, at the same index.
#[derive(Debug)]
struct Subject {
    content: SubjectContent,
    last_seen: LastSeen,
}

/// The content of a subject's messages.
#[derive(Clone, Copy, Debug)]
enum SubjectContent {
    /// Levels and viewport, to be normalised.
    Levels,
    /// The value of this part of the state, unchanged.
    Value(usize),
}

impl SubjectContent {
    /// The parts of the state that a message concerns.
    const fn parts(self) -> Range<usize> {
        match self {
            Self::Levels => LEVELS..VIEWPORT + 1,
            Self::Value(part) => part..part + 1,
        }
    }
}

/// Checks a message. For a message of levels, returns the normalised levels, and replaces the payload by the viewport,
/// or by nothing if there is no viewport; `bytes` is about the size of the result. Any other payload must be JSON, and
/// stays as it is.
///
/// # Errors
/// The message is bad; its payload stays as it is.
fn read(
    normaliser: &mut Normaliser,
    is_levels: bool,
    message: &mut BusMessage,
    bytes: usize,
) -> Result<PayloadText, BadMessage> {
    if !is_levels {
        Json::check(&message.payload)?;
        return Ok(PayloadText::Payload);
    }
    let mut levels = Vec::with_capacity(bytes);
    let unix_ms = message.received.unix_ms();
    let viewport = normaliser.normalise(&message.payload, unix_ms, &mut levels)?;
    message.payload = viewport.map_or_else(Vec::new, |text| text.as_bytes().to_vec());
    levels.shrink_to(levels.len() + levels.len() / 4);
    Ok(PayloadText::Made(levels))
}

/// Whether JSON is `null`, by its first byte: the whole may have many megabytes.
fn is_null(json: &[u8]) -> bool {
    let is_space = |byte: &&u8| matches!(byte, b' ' | b'\t' | b'\n' | b'\r');
    json.iter().find(|byte| !is_space(byte)) == Some(&b'n')
}

/// Turns the bus events of the relayed subjects into publications on [`Self::TOPIC`] and on the topics of the endpoints.
#[derive(Debug)]
pub struct LevelsFeed {
    settings: LevelsFeedSettings,
    normaliser: Normaliser,
    subjects: Vec<Subject>,
    cache: Cache,
    views: Vec<View>,
    stats: FeedStats,
    bad_log: BadMessageLog,
}

impl LevelsFeed {
    /// The topic that shows every key.
    pub const TOPIC: TopicName = TopicName::fixed("levels");

    /// Creates a feed without state. Its frames are counted in `alive`.
    pub fn new(settings: LevelsFeedSettings, alive: FrameBytes) -> Self {
        let relays = &settings.relays;
        let always = [
            (SUBJECTS[0], SubjectContent::Levels),
            (SUBJECTS[1], SubjectContent::Value(FLOW)),
        ];
        let relayed = relays.iter().zip(KEYS.len()..);
        let relayed = relayed.map(|(r, part)| (r.subject.as_str(), SubjectContent::Value(part)));
        let (names, contents): (Vec<_>, Vec<_>) = always.into_iter().chain(relayed).unzip();
        let keys: Vec<_> = KEYS
            .into_iter()
            .chain(relays.iter().map(|r| r.key.as_str()))
            .collect();
        let everything = View::new(Self::TOPIC, (0..keys.len()).collect(), settings.is_numbered);
        let endpoint = |endpoint: &Endpoint| {
            let shown = |&part: &usize| endpoint.keys.iter().any(|key| key == keys[part]);
            let parts = (0..keys.len()).filter(shown).collect();
            View::new(endpoint.topic.clone(), parts, settings.is_numbered)
        };
        let endpoints = settings.endpoints.iter().map(endpoint);
        let subject = |content| Subject {
            content,
            last_seen: LastSeen::default(),
        };
        Self {
            normaliser: Normaliser::new(settings.session_length_min),
            subjects: contents.into_iter().map(subject).collect(),
            views: [everything].into_iter().chain(endpoints).collect(),
            cache: Cache::new(&keys, settings.messages.is_stamped, alive),
            stats: FeedStats::of(names),
            bad_log: BadMessageLog::default(),
            settings,
        }
    }

    /// Handles a message of a subject, and broadcasts the views that it changes.
    fn handle(
        &mut self,
        now: Now,
        mut message: BusMessage,
        change: ValueChange,
        out: &mut Vec<Publication>,
    ) {
        let names = &self.stats.subjects;
        let Some(index) = names.iter().position(|s| *s.subject == *message.subject) else {
            self.stats.messages_ignored += 1;
            return;
        };
        let Subject { content, last_seen } = &mut self.subjects[index];
        let content = *content;
        // A bad message moves the position too: earlier messages are older.
        if !last_seen.advance(message.position) {
            self.stats.subjects[index].messages_old += 1;
            return;
        }
        let (received, quiet) = (message.received, message.quiet);
        let taken = match change {
            ValueChange::Deletion => {
                for part in content.parts() {
                    self.cache.set(part, None);
                }
                Ok(())
            }
            ValueChange::Value => self.take(content, &mut message),
        };
        let stats = &mut self.stats.subjects[index];
        if let Err(why) = taken {
            stats.messages_bad += 1;
            self.bad_log.say(now, &message, &why);
            return;
        }
        stats.record(received);
        self.stats.last_message_unix_ms = Some(received.unix_ms());
        let parts = content.parts();
        for view in self.views.iter_mut().filter(|view| view.shows(&parts)) {
            // A quiet message is part of a backlog (`view.rs`).
            match quiet {
                true => view.changed_quietly(received),
                false => view.changed(received, &self.cache, out),
            }
        }
    }

    /// Puts a message in the cache. A bad message changes nothing, and keeps its payload.
    fn take(
        &mut self,
        content: SubjectContent,
        message: &mut BusMessage,
    ) -> Result<(), BadMessage> {
        let bytes_max = self.settings.messages.bus_message_bytes_max;
        check_size(&message.payload, bytes_max)?;
        // Only without [`Feed::reader`], which reads every message within the limit.
        if message.text == PayloadText::Unread {
            // Sized by the last output, so that the buffer rarely grows.
            let last = self.cache.value_bytes(LEVELS);
            let is_levels = matches!(content, SubjectContent::Levels);
            message.text = read(&mut self.normaliser, is_levels, message, last + last / 8)?;
        }
        let payload = &mut message.payload;
        match (mem::take(&mut message.text), content) {
            (PayloadText::Bad(why), _) => return Err(BadMessage::Found(why)),
            (PayloadText::Made(levels), _) => {
                let viewport = (!payload.is_empty()).then(|| mem::take(payload));
                self.cache.set(LEVELS, Some(levels));
                self.cache.set(VIEWPORT, viewport);
            }
            (_, SubjectContent::Value(part)) => {
                let value = (!is_null(payload)).then(|| mem::take(payload));
                self.cache.set(part, value);
            }
            // Does not occur: levels are `Made` or bad.
            (_, SubjectContent::Levels) => {}
        }
        Ok(())
    }

    /// Delivers the changes of quiet messages on each topic.
    fn deliver_pending(&mut self, out: &mut Vec<Publication>) {
        for view in &mut self.views {
            view.deliver_pending(&self.cache, out);
        }
    }
}

impl Feed for LevelsFeed {
    type Event = BusEvent;

    fn reader(&self) -> Option<EventReader<BusEvent>> {
        let bytes_max = self.settings.messages.bus_message_bytes_max;
        // It remembers the day of the last message. A single thread sends the messages, so it never waits.
        let normaliser = Mutex::new(self.normaliser.clone());
        Some(Arc::new(move |event| {
            if let BusEvent::Message(message) = event
                && message.payload.len() <= bytes_max
            {
                let is_levels = *message.subject == *SUBJECTS[0];
                let bytes = message.payload.len();
                let mut normaliser = normaliser.lock().unwrap_or_else(PoisonError::into_inner);
                let text = read(&mut normaliser, is_levels, message, bytes);
                message.text = text.unwrap_or_else(|why| PayloadText::Bad(why.to_string().into()));
            }
        }))
    }

    fn event(&mut self, now: Now, event: BusEvent, out: &mut Vec<Publication>) {
        self.bad_log.tick(now);
        match event {
            BusEvent::Up
            | BusEvent::Skipped(_)
            | BusEvent::Feed(_)
            | BusEvent::Subscribed { .. }
            | BusEvent::Refused { .. }
            | BusEvent::LastValue { .. }
            | BusEvent::GapBeside { .. }
            | BusEvent::Subjects(_)
            | BusEvent::RetainedPage { .. }
            | BusEvent::RetainedUnanswered { .. }
            | BusEvent::RetainedEnd { .. } => {}
            // The backlog broke off; the part read so far is the newest state for now.
            BusEvent::Down(_) => self.deliver_pending(out),
            BusEvent::CaughtUp => {
                self.stats.caught_up = true;
                self.deliver_pending(out);
            }
            BusEvent::Gap { .. } => self.stats.gaps += 1,
            BusEvent::Message(message) => self.handle(now, message, ValueChange::Value, out),
            BusEvent::Deleted(message) => self.handle(now, message, ValueChange::Deletion, out),
        }
        for view in &mut self.views {
            view.publish_quietly(now, &self.cache, out);
        }
    }

    fn next_line(&mut self) -> Option<FeedLine> {
        self.bad_log.next()
    }

    fn stats(&self) -> &FeedStats {
        &self.stats
    }
}

/// Judges messages like a [`LevelsFeed`] with the same settings, for callers that choose the message to hand over.
#[derive(Clone, Debug)]
pub(crate) struct LevelsJudge {
    normaliser: Normaliser,
    bus_message_bytes_max: usize,
}

impl LevelsJudge {
    /// Creates a judge for the feed with these settings.
    pub(crate) fn new(settings: &LevelsFeedSettings) -> Self {
        Self {
            normaliser: Normaliser::new(settings.session_length_min),
            bus_message_bytes_max: settings.messages.bus_message_bytes_max,
        }
    }

    /// Whether the feed would accept the message. `subject` must be a relayed subject.
    pub(crate) fn is_good(&self, subject: &str, payload: &[u8]) -> bool {
        if check_size(payload, self.bus_message_bytes_max).is_err() {
            return false;
        }
        if subject == SUBJECTS[0] {
            // Any time will do for a message without time.
            let mut normaliser = self.normaliser.clone();
            return normaliser.normalise(payload, 0, &mut Vec::new()).is_ok();
        }
        Json::check(payload).is_ok()
    }
}

#[cfg(test)]
mod tests;
