//! A state under conflation, as in `levels`: a toy gateway with keyed topics, and a toy feed in
//! front of it that knows a backlog, replays and a bus that goes away.

use std::sync::Arc;

use weirgate::feeds::{BusEvent, StreamPosition};
use weirgate::hub::{
    Admission, CloseReason, ConflationKey, Core, Feed, FeedStats, Frame, FrameBytes, Gateway,
    Incoming, Now, Publication, Retain, SessionKey, TopicName,
};
use weirgate::wire::head::RequestHead;

use super::ledger::{Note, Shared};
use super::toys::{admit, bye, join, leave};

/// The topic that everyone joins at once.
pub(crate) const TOPIC: &str = "levels";
/// What the feed publishes is keyed with this; commands use the keys above it.
const FEED_KEY: u64 = 0;

/// Clients are members of [`TOPIC`] from their 101; `join NAME`, `leave NAME`, `ask`, `bye`.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) ledger: Shared,
}

impl Gateway for State {
    type Command = (String, String);

    fn upgrade(&mut self, core: &mut Core, key: SessionKey, head: &RequestHead<'_>) -> Admission {
        admit(core, &self.ledger, key, head)
    }

    fn opened(&mut self, core: &mut Core, key: SessionKey) {
        self.ledger.borrow_mut().opened(key);
        join(core, &self.ledger, key, TOPIC);
    }

    fn message(&mut self, core: &mut Core, key: SessionKey, message: Incoming<'_>) {
        let Incoming::Text(text) = message else {
            return;
        };
        match text.split_once(' ') {
            Some(("join", name)) => drop(join(core, &self.ledger, key, name)),
            Some(("leave", name)) => leave(core, &self.ledger, key, name),
            Some(("bye", _)) => bye(core, &self.ledger, key),
            _ => {
                let frame = Frame::text(core.frame_bytes())
                    .answer()
                    .body(text.as_bytes())
                    .finish();
                core.send(key, &frame);
                let note = Note::data(text).answer();
                self.ledger.borrow_mut().send(core.now(), key, &note);
            }
        }
    }

    fn published(&mut self, core: &mut Core, publication: &Publication) {
        core.publish(publication);
        let body = std::str::from_utf8(publication.frame.body()).expect("text");
        let note = Note {
            conflation: publication.frame.key().map(|key| key.0),
            received_us: publication.frame.received().mono_us,
            ..Note::data(body)
        };
        let (deliver, retain) = (publication.deliver, publication.retain);
        let mut ledger = self.ledger.borrow_mut();
        ledger.publish(
            core.now(),
            publication.topic.as_str(),
            &note,
            deliver,
            retain,
        );
    }

    /// `TOPIC/KEY`: another keyed message of that topic, which newcomers do not get.
    fn command(&mut self, core: &mut Core, (name, body): Self::Command) {
        let (topic, key) = name.split_once('/').expect("a topic and a key");
        let key = ConflationKey(key.parse().expect("a number"));
        let frame = Frame::text(core.frame_bytes())
            .key(key)
            .received(core.now())
            .body(body.as_bytes())
            .finish();
        let publication = Publication {
            topic: TopicName::from(topic.to_owned()),
            frame,
            deliver: true,
            retain: Retain::Keep,
        };
        self.published(core, &publication);
    }

    fn closed(&mut self, _: &mut Core, key: SessionKey, reason: CloseReason) {
        self.ledger.borrow_mut().closed(key, reason);
    }
}

/// Relays the newest value of one subject.
#[derive(Debug)]
pub(crate) struct StateFeed {
    alive: FrameBytes,
    last: Option<StreamPosition>,
    /// Retained, but not delivered yet.
    quiet: Option<Arc<Frame>>,
    stats: FeedStats,
}

impl StateFeed {
    pub(crate) fn new(alive: FrameBytes) -> Self {
        Self {
            alive,
            last: None,
            quiet: None,
            stats: FeedStats::default(),
        }
    }
}

impl Feed for StateFeed {
    type Event = BusEvent;

    fn event(&mut self, _: Now, event: BusEvent, out: &mut Vec<Publication>) {
        let (frame, deliver) = match event {
            BusEvent::Message(message) => {
                if self.last >= message.position {
                    return;
                }
                self.last = message.position;
                let frame = Frame::text(&self.alive)
                    .key(ConflationKey(FEED_KEY))
                    .received(message.received)
                    .body(b"{\"flow\":")
                    .body(&message.payload)
                    .body(b"}")
                    .finish();
                self.quiet = message.quiet.then(|| Arc::clone(&frame));
                (frame, !message.quiet)
            }
            BusEvent::CaughtUp => match self.quiet.take() {
                Some(frame) => (frame, true),
                None => return,
            },
            BusEvent::Up
            | BusEvent::Down(_)
            | BusEvent::Gap { .. }
            | BusEvent::Subscribed(_)
            | BusEvent::Refused(..) => return,
        };
        out.push(Publication {
            topic: TopicName::fixed(TOPIC),
            frame,
            deliver,
            retain: Retain::Set,
        });
    }

    fn stats(&self) -> &FeedStats {
        &self.stats
    }
}
