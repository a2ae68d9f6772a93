//! A state under conflation, as in `levels`: a toy gateway with keyed topics, and a toy feed in
//! front, with backlog, replays and losses of the bus.

use super::ledger::Note;
use super::toys::{In, KeptEvent, Out, admit, bye, entrance, is_common};
use std::sync::Arc;
use weirgate_core::{
    Admission, BusEvent, ByClient, Closed, ConflationKey, Core, Entrance, Feed, FeedStats, Frame,
    FrameBytes, Gateway, Incoming, Publication, Retain, SessionKey, StreamPosition, TopicName,
};
use weirgate_wire::RequestHead;
use weirgate_wire::base::Now;

/// The topic that every client joins immediately.
pub(crate) const TOPIC: &str = "levels";
/// Conflation key of the feed's messages; commands use higher keys.
const FEED_KEY: u64 = 0;

/// Clients are members of [`TOPIC`] from their 101; `join NAME`, `leave NAME`, `ask`, `bye`.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) told: KeptEvent,
}

impl Gateway for State {
    type Client = ();
    type In = In;
    type Out = Out;

    fn entrance(&self, path: &str) -> Entrance<'_> {
        entrance(path)
    }

    fn admit(&mut self, core: &mut Core, key: SessionKey, head: &RequestHead<'_>) -> Admission<()> {
        admit(core, &self.told.ledger, key, head, ())
    }

    fn handle_opened(&mut self, core: &mut Core, key: SessionKey, (): &mut ()) {
        self.told.ledger.borrow_mut().opened(key);
        self.told.join(core, key, TOPIC);
    }

    fn handle_message(
        &mut self,
        core: &mut Core,
        key: SessionKey,
        (): &mut (),
        message: Incoming<'_>,
    ) {
        let Incoming::Text(text) = message else {
            return;
        };
        match text.split_once(' ') {
            Some(("join", name)) => drop(self.told.join(core, key, name)),
            Some(("leave", name)) => self.told.leave(core, key, name),
            Some(("bye", _)) => bye(core, &self.told.ledger, key),
            _ => {
                let frame = Frame::text(core.frame_bytes())
                    .answer()
                    .body(text.as_bytes())
                    .finish();
                core.send(key, &frame);
                let note = Note::data(text, &frame).answer();
                self.told.ledger.borrow_mut().send(core.now(), key, &note);
            }
        }
    }

    fn handle_publication(&mut self, core: &mut Core, publication: &Publication) {
        core.publish(publication);
        let frame = publication.frame().expect("a frame");
        let body = std::str::from_utf8(frame.body()).expect("text");
        let note = Note {
            conflation: frame.key().map(|key| key.0),
            received_us: frame.received().mono_us,
            ..Note::data(body, frame)
        };
        let (deliver, retain) = (publication.deliver, publication.retain);
        let mut ledger = self.told.ledger.borrow_mut();
        ledger.publish(
            core.now(),
            publication.topic.as_str(),
            &note,
            deliver,
            retain,
        );
    }

    /// `TOPIC/KEY`: publishes another message of that topic, which new clients do not get; without a key if it is no number.
    fn handle_input(&mut self, core: &mut Core, _: &mut ByClient<()>, input: In) {
        let In::Publish(name, body) = input else {
            return;
        };
        let (topic, key) = name.split_once('/').expect("a topic and a key");
        let frame = Frame::text(core.frame_bytes()).received(core.now());
        let frame = frame.common(is_common(&name));
        let frame = match key.parse() {
            Ok(number) => frame.key(ConflationKey(number)),
            Err(_) => frame,
        };
        let frame = frame.body(body.as_bytes()).finish();
        let publication = Publication::new(topic.to_owned().into(), frame);
        self.handle_publication(core, &publication);
    }

    fn handle_closed(&mut self, core: &mut Core, key: SessionKey, closed: Closed<()>) {
        let reason = closed.reason();
        self.told.closed(core);
        self.told.ledger.borrow_mut().closed(key, reason);
    }

    fn poll_output(&mut self) -> Option<Out> {
        self.told.outputs.pop_front()
    }
}

/// Relays the newest value of a subject.
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
                    .common(true)
                    .received(message.received)
                    .body(b"{\"flow\":")
                    .body(&message.payload)
                    .body(b"}")
                    .finish();
                self.quiet = message.quiet.then(|| Arc::clone(&frame));
                (frame, !message.quiet)
            }
            BusEvent::CaughtUp | BusEvent::WarmedUp => match self.quiet.take() {
                Some(frame) => (frame, true),
                None => return,
            },
            BusEvent::Up
            | BusEvent::Down(_)
            | BusEvent::Gap { .. }
            | BusEvent::GapBeside { .. }
            | BusEvent::Subjects(_)
            | BusEvent::ReadTo(_)
            | BusEvent::Skipped(_)
            | BusEvent::Feed(_)
            | BusEvent::Deleted(_)
            | BusEvent::Subscribed { .. }
            | BusEvent::Refused { .. }
            | BusEvent::LastValue { .. }
            | BusEvent::RetainedPage { .. }
            | BusEvent::RetainedUnanswered { .. }
            | BusEvent::RetainedEnd { .. } => return,
        };
        out.push(Publication {
            deliver,
            retain: Retain::Set,
            ..Publication::new(TopicName::fixed(TOPIC), frame)
        });
    }

    fn stats(&self) -> &FeedStats {
        &self.stats
    }
}
