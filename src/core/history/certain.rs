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

use super::message::KeptMessage;
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
            (0, Point::Stored { id, .. }) => certain.1.is_some_and(
                |at| matches!(at.point, Point::Stored { id: certain, .. } if id <= certain),
            ),
            (number, _) => number <= certain.0,
        };
        is_certain.then_some(message.position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::StoredId;

    fn at(number: u64) -> Option<Position> {
        let id = StoredId {
            major: number,
            minor: 10 * number,
        };
        Some(Position::stored(1, id))
    }

    /// The newest position that is given, and up to which number messages have theirs.
    fn given(certain: &Certain, read: u64) -> (Option<Position>, u64) {
        let has_its = |number: &u64| {
            let message = KeptMessage {
                number: *number,
                kept_us: 0,
                position: at(*number).expect("a position"),
                body: None,
                copies: Default::default(),
            };
            let unnumbered = KeptMessage {
                number: 0,
                copies: Default::default(),
                body: None,
                ..message
            };
            let has = certain.of(&message).is_some();
            if certain.newest(at(read)).is_some() {
                assert_eq!(certain.of(&unnumbered).is_some(), has, "{number}");
            }
            has
        };
        let until = (1..=read).take_while(has_its).count();
        (certain.newest(at(read)), until as u64)
    }

    #[test]
    fn a_position_is_given_once_its_messages_are_known_to_be_all() {
        let mut certain = Certain::default();
        assert_eq!(given(&certain, 3), (at(3), 3));
        // Each word with what was read, and what is certain then.
        for (is_in_doubt, read, until) in [
            (true, 3, 3),
            // The answer to an earlier question.
            (true, 5, 3),
            (true, 8, 5),
            (true, 8, 8),
            (false, 9, 9),
            (true, 9, 9),
        ] {
            certain.note(is_in_doubt, (read, at(read)));
            assert_eq!(given(&certain, read), (at(until), until), "{read}");
        }
        assert_eq!(given(&certain, 12), (at(9), 9));
        assert!(certain.is_in_doubt());
    }

    #[test]
    fn after_a_loss_there_is_none_until_the_next_doubt_is_over() {
        let mut certain = Certain::default();
        certain.note(true, (3, at(3)));
        certain.lose(6);
        assert_eq!(certain.newest(None), None);
        assert_eq!(given(&certain, 8), (None, 6));
        certain.note(true, (8, at(8)));
        assert_eq!(given(&certain, 9), (None, 6));
        certain.note(true, (9, at(9)));
        assert_eq!(given(&certain, 9), (at(8), 8));
        certain.note(false, (9, at(9)));
        assert_eq!(given(&certain, 9), (at(9), 9));
        certain.lose(10);
        assert_eq!(certain.newest(at(11)), at(11));
    }
}
