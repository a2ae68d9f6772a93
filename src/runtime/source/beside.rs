//! A stream of the bus, and beside it the names that the stream does not hold: two sources, each with a thread and a
//! connection of its own, for one loop. For the loop they are one bus: it is there while both are, and away while one
//! is. What is lost beside the stream ([`BusEvent::GapBeside`]) is no loss of the stream.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{LoopGone, Source, SourceLink};
use crate::detached;
use weirgate_core::BusEvent;

/// A stream, and the source of the names beside it.
pub(super) struct WithBeside {
    pub(super) stream: Box<dyn Source>,
    pub(super) beside: Box<dyn Source>,
}

impl Source for WithBeside {
    fn run(self: Box<Self>, link: SourceLink) {
        let both = Arc::new(Mutex::new(Both::default()));
        let link_of = |side| SourceLink {
            one_of_two: Some(OneOfTwo {
                side,
                both: Arc::clone(&both),
            }),
            ..link.another()
        };
        let (stream, beside) = (link_of(Side::Stream), link_of(Side::Beside));
        let source = self.beside;
        if let Err(error) = detached("beside", move || source.run(beside)) {
            tracing::error!(%error, "no thread for the names beside the stream: they get no messages");
        }
        self.stream.run(stream);
    }
}

/// One of two sources for a loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Stream,
    Beside,
}

/// A source, and the state that it shares with the other one.
#[derive(Clone, Debug)]
pub(super) struct OneOfTwo {
    side: Side,
    both: Arc<Mutex<Both>>,
}

impl OneOfTwo {
    /// No holder of this lock can panic.
    fn both(&self) -> MutexGuard<'_, Both> {
        self.both.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The state of two sources, as the loop knows it.
#[derive(Debug, Default)]
struct Both {
    stream_is_up: bool,
    beside_is_up: bool,
    /// Whether the last event of [`BusEvent::Up`] and [`BusEvent::Down`] that the loop got was `Down`.
    reported_down: bool,
    /// Whether the stream has caught up, and the loop is told once the other source is there, too: only
    /// [`BusEvent::Up`] ends the filling of the history, and clients that are accepted before that cannot resume.
    caught_up_waits: bool,
    /// Whether names beside the stream were subscribed since its last [`BusEvent::Down`]: without any, an outage loses
    /// nothing there.
    has_subscribed: bool,
}

impl Both {
    fn up_mut(&mut self, side: Side) -> &mut bool {
        match side {
            Side::Stream => &mut self.stream_is_up,
            Side::Beside => &mut self.beside_is_up,
        }
    }

    /// The event as the loop gets it; `None` if it changes nothing for the loop.
    fn pass(&mut self, side: Side, event: BusEvent) -> Option<BusEvent> {
        match (side, &event) {
            (_, BusEvent::Up) => {
                *self.up_mut(side) = true;
                let is_up = self.stream_is_up && self.beside_is_up;
                self.reported_down &= !is_up;
                is_up.then_some(event)
            }
            (_, BusEvent::Down(_)) => {
                *self.up_mut(side) = false;
                // An outage ends what that side had reached, and nothing of the other side.
                self.caught_up_waits &= side == Side::Beside;
                self.has_subscribed &= side == Side::Stream;
                // Until both are up again, the loop gets only the first `Down`.
                (!std::mem::replace(&mut self.reported_down, true)).then_some(event)
            }
            (Side::Beside, BusEvent::Gap { lost }) => Some(BusEvent::GapBeside { lost: *lost }),
            (Side::Beside, BusEvent::Subscribed { .. }) => {
                self.has_subscribed = true;
                Some(event)
            }
            // The history is filled by the stream.
            (Side::Stream, BusEvent::CaughtUp) => {
                self.caught_up_waits = !self.beside_is_up;
                self.beside_is_up.then_some(event)
            }
            // For the stream, which may have waited for this side.
            (Side::Beside, BusEvent::CaughtUp) => {
                std::mem::take(&mut self.caught_up_waits).then_some(event)
            }
            _ => Some(event),
        }
    }
}

impl SourceLink {
    /// Whether an outage of the bus can lose messages of this source.
    pub fn may_lose_messages(&self) -> bool {
        let one = self.one_of_two.as_ref();
        one.is_none_or(|one| one.side == Side::Stream || one.both().has_subscribed)
    }

    /// Sends an event of one of two sources. The order of [`BusEvent::Up`] and [`BusEvent::Down`] of both is the order in
    /// which the loop gets them.
    pub(super) fn send_of_one(&self, one: &OneOfTwo, event: BusEvent) -> Result<(), LoopGone> {
        // A last value too: to read it may take long.
        if let BusEvent::Message(_) | BusEvent::Deleted(_) | BusEvent::LastValue { .. } = event {
            return self.put(event);
        }
        // Locked until the event is in the channel, so that the order stays.
        let mut both = one.both();
        both.pass(one.side, event)
            .map_or(Ok(()), |event| self.put(event))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bus_is_there_while_both_sources_are() {
        let mut both = Both::default();
        let mut pass = |side, event| {
            let passed = both.pass(side, event)?;
            Some(match passed {
                BusEvent::Up => "up",
                BusEvent::Down(_) => "down",
                BusEvent::Gap { .. } => "gap",
                BusEvent::GapBeside { .. } => "gap beside",
                BusEvent::CaughtUp => "caught up",
                _ => "another",
            })
        };
        let down = || BusEvent::Down("gone".to_owned());
        let gap = || BusEvent::Gap { lost: None };
        use Side::{Beside, Stream};
        for (side, event, passed) in [
            (Beside, BusEvent::Up, None),
            (Beside, BusEvent::CaughtUp, None),
            (Stream, BusEvent::Up, Some("up")),
            (Stream, BusEvent::CaughtUp, Some("caught up")),
            (Beside, gap(), Some("gap beside")),
            (Beside, down(), Some("down")),
            (Stream, down(), None),
            (Beside, BusEvent::Up, None),
            (Stream, gap(), Some("gap")),
            (Stream, BusEvent::Up, Some("up")),
            (Stream, BusEvent::Up, Some("up")),
            (Stream, down(), Some("down")),
            // The stream is read before the other source is there.
            (Beside, down(), None),
            (Stream, BusEvent::Up, None),
            (Stream, BusEvent::CaughtUp, None),
            (Beside, BusEvent::Up, Some("up")),
            (Beside, BusEvent::CaughtUp, Some("caught up")),
            (Beside, BusEvent::CaughtUp, None),
            // And is away again by then.
            (Beside, down(), Some("down")),
            (Stream, BusEvent::CaughtUp, None),
            (Stream, down(), None),
            (Beside, BusEvent::Up, None),
            (Beside, BusEvent::CaughtUp, None),
        ] {
            assert_eq!(pass(side, event), passed, "{side:?}");
        }
    }
}
