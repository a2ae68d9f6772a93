//! Which positions a client may be given.
//!
//! A position says to every instance: the client has all messages up to here. While messages may be lost
//! ([`FeedNotice::InDoubt`](crate::FeedNotice::InDoubt)), nobody knows that of what comes behind them. An instance that has
//! read the missing messages would tell a client with such a position that it lacks nothing. So until the source knows, a
//! message in doubt goes out without its position, and answers and statuses have the newest position from before the
//! doubt.
//!
//! If nothing was lost, the next message has a position again, and it is good for the messages without one too. If
//! messages were lost, each client learns of it before its next message, which has a position from behind the loss.
//!
//! Only a JetStream stream has doubts, and its messages are data of which frames are made for clients. A feed that makes
//! its frames by itself has written the positions into them.

use super::KeptMessage;
use crate::{Point, Position};

/// A place in the feed: the number of a message, and its position, if that is good.
type Reached = (u64, Option<Position>);

/// How far the messages of the feed are certain.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Certain {
    /// `None`: all messages that were read are certain.
    doubt: Option<Doubt>,
}

/// Later messages are in doubt.
#[derive(Clone, Copy, Debug)]
struct Doubt {
    /// The newest message that is certain.
    certain: Reached,
    /// The newest message at the last answer of the source. The answer may be about an earlier question; the next one is
    /// about a question from after it.
    answered: Reached,
}

impl Certain {
    /// Takes the word of the source. `newest`: the newest message that was read.
    pub(super) fn note(&mut self, is_in_doubt: bool, newest: Reached) {
        let certain = self.doubt.map_or(newest, |doubt| doubt.answered);
        self.doubt = is_in_doubt.then_some(Doubt {
            certain,
            answered: newest,
        });
    }

    /// Handles a loss: no earlier position is good. `number` is that of the loss.
    pub(super) fn lose(&mut self, number: u64) {
        if let Some(doubt) = &mut self.doubt {
            (doubt.certain, doubt.answered) = ((number, None), (number, None));
        }
    }

    /// Whether the newest messages are in doubt.
    pub(super) fn is_in_doubt(&self) -> bool {
        self.doubt.is_some()
    }

    /// The newest position that a client may be given, who has all messages that were read. `newest`: that of the newest
    /// message.
    pub(super) fn newest(&self, newest: Option<Position>) -> Option<Position> {
        match self.doubt {
            Some(Doubt { certain, .. }) => newest.and(certain.1),
            None => newest,
        }
    }

    /// The position of a message, if a client may be given it.
    pub(super) fn of(&self, message: &KeptMessage) -> Option<Position> {
        let Some(Doubt { certain, .. }) = self.doubt else {
            return Some(message.position);
        };
        let is_certain = match (message.number, message.position.point) {
            // It was read from the stream later than messages after it.
            (0, Point::Stored(id)) => certain
                .1
                .is_some_and(|at| matches!(at.point, Point::Stored(certain) if id <= certain)),
            (number, _) => number <= certain.0,
        };
        is_certain.then_some(message.position)
    }
}
