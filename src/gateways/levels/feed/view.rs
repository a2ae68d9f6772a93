//! What a topic of levels shows: some parts of the state, as frames for its members and for new clients.
//!
//! A *quiet* message is part of a backlog. It makes no broadcast of its own: its change goes to new clients soon, and
//! to the members with the next broadcast, or when the backlog ends.

use std::ops::Range;
use std::sync::Arc;

use super::cache::Cache;
use weirgate_core::{Frame, Publication, Retain, TopicName};
use weirgate_wire::base::Now;

/// While a backlog is read, the frame for new clients is updated at most this often. A frame for each of 100,000
/// messages would be work for nobody; without any update, a client that connects meanwhile would get a state from
/// before the backlog.
const QUIET_PUBLISH_INTERVAL_US: u64 = 100_000;

/// Some parts of the state under a topic of their own, and the frames that its members and new clients get.
#[derive(Debug)]
pub(super) struct View {
    topic: TopicName,
    /// Indexes of the parts, in the order of the payload.
    parts: Vec<usize>,
    /// The newest frame, delivered or not, for new clients.
    frame: Option<Arc<Frame>>,
    /// Whether the frame was only retained: members have not got it.
    is_quiet: bool,
    /// The time of the newest quiet message that is in no frame yet.
    pending: Option<Now>,
    /// The time at which the last quiet frame was made.
    quiet_at_us: Option<u64>,
    /// The number of the newest frame, if payloads are numbered.
    seq: Option<u64>,
}

impl View {
    /// Creates a view without a frame. `parts` are in the order of the payload. If `is_numbered`, each payload has the
    /// number of its frame, so a number never means two states.
    pub(super) fn new(topic: TopicName, parts: Vec<usize>, is_numbered: bool) -> Self {
        Self {
            topic,
            parts,
            frame: None,
            is_quiet: false,
            pending: None,
            quiet_at_us: None,
            seq: is_numbered.then_some(0),
        }
    }

    /// Whether the view shows any of `parts`.
    pub(super) fn shows(&self, parts: &Range<usize>) -> bool {
        self.parts.iter().any(|part| parts.contains(part))
    }

    /// Broadcasts after a good message for a part of the view.
    pub(super) fn changed(&mut self, received: Now, cache: &Cache, out: &mut Vec<Publication>) {
        let frame = self.make_frame(received, cache);
        self.deliver(frame, cache, out);
    }

    /// Makes the frame of this state. Quiet frames have their own numbers, too: new clients get them, and members skip these
    /// states.
    fn make_frame(&mut self, received: Now, cache: &Cache) -> Arc<Frame> {
        self.seq = self.seq.map(|seq| seq + 1);
        cache.frame(&self.parts, self.seq, received)
    }

    /// Notes a quiet message for a part of the view: no broadcast of its own.
    pub(super) fn changed_quietly(&mut self, received: Now) {
        self.pending = Some(received);
    }

    /// Updates the frame for new clients after quiet messages, at most every [`QUIET_PUBLISH_INTERVAL_US`].
    pub(super) fn publish_quietly(&mut self, now: Now, cache: &Cache, out: &mut Vec<Publication>) {
        if self.pending.is_none() {
            return;
        }
        let since = |at: u64| now.mono_us.saturating_sub(at);
        let last = self.quiet_at_us;
        if last.is_some_and(|at| since(at) < QUIET_PUBLISH_INTERVAL_US) {
            return;
        }
        self.quiet_at_us = Some(now.mono_us);
        if let Some(frame) = self.take_pending(cache) {
            self.is_quiet = true;
            out.push(Publication {
                deliver: false,
                ..self.publication(frame, cache)
            });
        }
    }

    /// Delivers the changes of quiet messages, once; nothing if there are none.
    pub(super) fn deliver_pending(&mut self, cache: &Cache, out: &mut Vec<Publication>) {
        if let Some(frame) = self.take_pending(cache) {
            self.deliver(frame, cache, out);
        } else if self.is_quiet
            && let Some(frame) = self.frame.clone()
        {
            // The very frame that new clients got: recognised by the pointer, so no client gets it twice.
            self.deliver(frame, cache, out);
        }
    }

    fn deliver(&mut self, frame: Arc<Frame>, cache: &Cache, out: &mut Vec<Publication>) {
        self.is_quiet = false;
        out.push(self.publication(frame, cache));
    }

    /// Makes `frame` the one for new clients, too.
    fn publication(&mut self, frame: Arc<Frame>, cache: &Cache) -> Publication {
        self.pending = None;
        self.frame = Some(Arc::clone(&frame));
        Publication {
            // A new client gets nothing while there is no value.
            retain: match cache.is_empty(&self.parts) {
                true => Retain::Clear,
                false => Retain::Set,
            },
            ..Publication::new(self.topic.clone(), frame)
        }
    }

    /// Returns the state after quiet messages as a frame. `None`: there were none, or new clients get this state
    /// already.
    fn take_pending(&mut self, cache: &Cache) -> Option<Arc<Frame>> {
        let received = self.pending.take()?;
        let is_known = match &self.frame {
            Some(published) => {
                // With the number and the time of the published frame, so that only the states are compared.
                let again = cache.frame(&self.parts, self.seq, published.received());
                published.body() == again.body()
            }
            None => cache.is_empty(&self.parts),
        };
        (!is_known).then(|| self.make_frame(received, cache))
    }
}
