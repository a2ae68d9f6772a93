//! The levels feed: two NATS subjects, one merged state, one topic.
//!
//! `market.flow` is relayed untouched, `levels.signals` is normalised; every good message makes
//! one frame with everything known. Each part is kept as the bytes that stand in the payload, so a
//! flow message is checked and copied and never touches the levels. Must not know a client, a
//! broker or a clock. Called by the reactor, through [`crate::hub::Feed`].

mod bad;
mod cache;
mod fields;
mod level;
mod normalise;
mod position;
mod predictions;
mod reader;
mod session;
mod truth;

use std::sync::Arc;

use self::bad::BadMessageLog;
use self::cache::Cache;
use self::position::LastSeen;
use self::reader::Reader;
use self::truth::Kind;
use super::{BusEvent, BusMessage};
use crate::hub::{
    ConflationKey, Feed, FeedStats, Frame, FrameBytes, Now, Publication, Retain, SubjectStats,
    TopicName,
};
use crate::wire::json::check_json;

pub use self::bad::BadMessage;
pub use self::normalise::Normaliser;

/// The only topic: every client is a member.
pub const TOPIC: TopicName = TopicName::fixed("levels");

/// All frames replace each other: each holds the whole state.
const KEY: ConflationKey = ConflationKey(0);

/// The subjects relayed, in the order of the statistics.
const SUBJECTS: [&str; 2] = ["levels.signals", "market.flow"];

/// While a backlog is read, what newcomers get is brought up to date at most this often. A frame
/// for each of 100,000 messages would be work for nobody; without any, a client that connects
/// meanwhile would get a state from before the backlog.
const QUIET_PUBLISH_INTERVAL_US: u64 = 100_000;

/// What can be set.
#[derive(Clone, Debug)]
pub struct LevelsFeedSettings {
    /// Levels of nesting that a message may have.
    pub json_depth_max: usize,
    /// Minutes from the open to the end of the session: the most that `bars_since_open` says.
    pub session_length_min: u32,
    /// Bytes of a bus message; larger ones are counted, logged and skipped.
    pub bus_message_bytes_max: usize,
}

impl Default for LevelsFeedSettings {
    fn default() -> Self {
        Self {
            json_depth_max: 512,
            session_length_min: 240,
            bus_message_bytes_max: 16 * 1024 * 1024,
        }
    }
}

/// Turns the bus events of `levels.signals` and `market.flow` into publications on [`TOPIC`].
#[derive(Debug)]
pub struct LevelsFeed {
    settings: LevelsFeedSettings,
    normaliser: Normaliser,
    cache: Cache,
    published: Published,
    last_seen: [LastSeen; SUBJECTS.len()],
    stats: FeedStats,
    messages_ignored: u64,
    bad_log: BadMessageLog,
    alive: FrameBytes,
}

/// What was made of the cache so far.
#[derive(Debug, Default)]
struct Published {
    /// The newest frame, delivered or not: what newcomers get.
    frame: Option<Arc<Frame>>,
    /// That frame was only retained: members have not got it.
    is_quiet: bool,
    /// When the newest quiet message came that no frame holds yet.
    pending: Option<Now>,
    /// When a quiet frame was last made.
    quiet_at_us: Option<u64>,
}

impl LevelsFeed {
    /// A feed that knows nothing yet. Its frames are counted in `alive`.
    pub fn new(settings: LevelsFeedSettings, alive: FrameBytes) -> Self {
        let subject = |subject: &str| SubjectStats {
            subject: subject.to_owned(),
            ..SubjectStats::default()
        };
        let stats = FeedStats {
            subjects: SUBJECTS.into_iter().map(subject).collect(),
            ..FeedStats::default()
        };
        Self {
            normaliser: Normaliser::new(settings.json_depth_max, settings.session_length_min),
            settings,
            cache: Cache::default(),
            published: Published::default(),
            last_seen: Default::default(),
            stats,
            messages_ignored: 0,
            bad_log: BadMessageLog::default(),
            alive,
        }
    }

    /// Messages of other subjects, which are not relayed.
    pub fn messages_ignored(&self) -> u64 {
        self.messages_ignored
    }

    fn message(&mut self, now: Now, message: BusMessage, out: &mut Vec<Publication>) {
        let Some(subject) = SUBJECTS.iter().position(|s| *s == &*message.subject) else {
            self.messages_ignored += 1;
            return;
        };
        // A bad message moves the position too: it was seen, and what came before it is older.
        if !self.last_seen[subject].advance(message.position) {
            self.stats.subjects[subject].messages_old += 1;
            return;
        }
        let (received, quiet) = (message.received, message.quiet);
        if let Err((payload, why)) = self.take(subject, message.payload, received) {
            self.stats.subjects[subject].messages_bad += 1;
            self.bad_log.say(now, SUBJECTS[subject], &payload, &why);
            return;
        }
        self.stats.subjects[subject].messages += 1;
        self.stats.last_message_unix_ms = Some(received.unix_ms);
        if quiet {
            self.published.pending = Some(received);
        } else {
            let frame = self.frame(received);
            self.deliver(frame, out);
        }
    }

    /// Puts a message in the cache; a bad one is handed back and changes nothing.
    fn take(
        &mut self,
        subject: usize,
        payload: Vec<u8>,
        received: Now,
    ) -> Result<(), (Vec<u8>, BadMessage)> {
        let bytes_max = self.settings.bus_message_bytes_max;
        if payload.len() > bytes_max {
            let bytes = payload.len();
            return Err((payload, BadMessage::TooLarge { bytes, bytes_max }));
        }
        if SUBJECTS[subject] == "market.flow" {
            match check_json(&payload, self.settings.json_depth_max) {
                Ok(text) if Reader::new(text).kind() == Kind::Null => {
                    self.cache.set_flow(None);
                }
                Ok(_) => self.cache.set_flow(Some(payload)),
                Err(why) => return Err((payload, why.into())),
            }
            return Ok(());
        }
        // Sized by the last one, so that it rarely grows while it is written.
        let last = self.cache.levels_bytes();
        let mut levels = Vec::with_capacity(last + last / 8);
        match (self.normaliser).normalise(&payload, received.unix_ms, &mut levels) {
            Ok(viewport) => {
                levels.shrink_to(levels.len() + levels.len() / 4);
                self.cache.set_levels(levels, viewport);
                Ok(())
            }
            Err(why) => Err((payload, why)),
        }
    }

    /// The merged payload as a frame.
    fn frame(&self, received: Now) -> Arc<Frame> {
        let mut frame = Frame::text(&self.alive)
            .with_capacity(self.cache.merged_bytes())
            .key(KEY)
            .received(received);
        self.cache.write(frame.payload());
        frame.finish()
    }

    fn deliver(&mut self, frame: Arc<Frame>, out: &mut Vec<Publication>) {
        self.published.is_quiet = false;
        self.publish(frame, true, out);
    }

    fn publish(&mut self, frame: Arc<Frame>, deliver: bool, out: &mut Vec<Publication>) {
        self.published.pending = None;
        self.published.frame = Some(Arc::clone(&frame));
        out.push(Publication {
            topic: TOPIC,
            frame,
            deliver,
            // A newcomer gets nothing while nothing is known.
            retain: match self.cache.is_empty() {
                true => Retain::Clear,
                false => Retain::Set,
            },
        });
    }

    /// The state that quiet messages left and that newcomers would not get yet, as a frame.
    fn take_pending(&mut self) -> Option<Arc<Frame>> {
        let received = self.published.pending.take()?;
        let frame = self.frame(received);
        let is_known = match &self.published.frame {
            Some(published) => published.body() == frame.body(),
            None => self.cache.is_empty(),
        };
        (!is_known).then_some(frame)
    }

    /// Brings what newcomers get up to date, now and then.
    fn publish_quietly(&mut self, now: Now, out: &mut Vec<Publication>) {
        if self.published.pending.is_none() {
            return;
        }
        let since = |at: u64| now.mono_us.saturating_sub(at);
        let last = self.published.quiet_at_us;
        if last.is_some_and(|at| since(at) < QUIET_PUBLISH_INTERVAL_US) {
            return;
        }
        self.published.quiet_at_us = Some(now.mono_us);
        if let Some(frame) = self.take_pending() {
            self.published.is_quiet = true;
            self.publish(frame, false, out);
        }
    }

    /// Delivers what quiet messages changed, once; nothing when they changed nothing.
    fn deliver_pending(&mut self, out: &mut Vec<Publication>) {
        if let Some(frame) = self.take_pending() {
            self.deliver(frame, out);
        } else if self.published.is_quiet
            && let Some(frame) = self.published.frame.clone()
        {
            // The very frame that newcomers got: told by its pointer, none needs it twice.
            self.deliver(frame, out);
        }
    }
}

impl Feed for LevelsFeed {
    type Event = BusEvent;

    fn event(&mut self, now: Now, event: BusEvent, out: &mut Vec<Publication>) {
        self.bad_log.tick(now);
        match event {
            BusEvent::Up | BusEvent::Subscribed(_) | BusEvent::Refused(..) => {}
            // The backlog broke off. What it brought so far is the newest there is for now.
            BusEvent::Down(_) => self.deliver_pending(out),
            BusEvent::CaughtUp => {
                self.stats.caught_up = true;
                self.deliver_pending(out);
            }
            BusEvent::Gap { .. } => self.stats.gaps += 1,
            BusEvent::Message(message) => self.message(now, message, out),
        }
        self.publish_quietly(now, out);
    }

    fn stats(&self) -> &FeedStats {
        &self.stats
    }
}

#[cfg(test)]
#[path = "feed_tests.rs"]
mod tests;
