//! What every feed does: the limit on the size of a message, old positions, stamps, and the log lines about bad messages,
//! bounded in size and in rate.

use std::fmt::{Display, Write};

use thiserror::Error;
use weirgate_core::{BusMessage, FeedLine, Point, SkippedMessage, StreamPosition};
use weirgate_wire::base::{LogBudget, Now};

/// The newest position seen of a subject.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::gateways) struct LastSeen(Option<StreamPosition>);

impl LastSeen {
    /// Remembers `position`. Returns false if an equal or newer position was seen before: the message is a redelivery,
    /// a replay, or from a lost stream. A message without a position always counts as newer.
    pub(in crate::gateways) fn advance(&mut self, position: Option<StreamPosition>) -> bool {
        let Some(position) = position else {
            return true;
        };
        if self.0.is_some_and(|last| position <= last) {
            return false;
        }
        self.0 = Some(position);
        true
    }
}

/// A message over the limit.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{bytes} bytes are more than the allowed {bytes_max}")]
pub struct TooLarge {
    bytes: usize,
    bytes_max: usize,
}

/// Compares the size of a bus message with the limit, which is the same for every feed.
///
/// # Errors
/// The payload has more bytes than are allowed.
pub(in crate::gateways) fn check_size(payload: &[u8], bytes_max: usize) -> Result<(), TooLarge> {
    let bytes = payload.len();
    if bytes > bytes_max {
        return Err(TooLarge { bytes, bytes_max });
    }
    Ok(())
}

/// The payload of a message is within the limit, but the message as text is not. Clients without `payload=binary` get
/// the text.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "as text it has {bytes} bytes, more than the allowed {bytes_max}: clients without payload=binary miss it"
)]
pub(in crate::gateways) struct TextTooLarge {
    pub(in crate::gateways) bytes: usize,
    pub(in crate::gateways) bytes_max: usize,
}

/// The time of a broadcast for the clients: now, or for an old message of a stream the time of storage, when other
/// instances broadcast the message.
pub(in crate::gateways) fn broadcast_unix_ms(now: Now, message: &BusMessage) -> i64 {
    match message.quiet {
        true => message.received.unix_ms(),
        false => now.unix_ms(),
    }
}

/// The key of a message's arrival time from the bus, where messages have stamps.
pub(crate) const STAMP_KEY: &str = "recv_us";

/// The bytes of `,"recv_us":` and a time of this century.
pub(in crate::gateways) const STAMP_BYTES: usize = 27;

/// Appends the arrival time of a message at the bus socket, Unix microseconds, as a member of an object:
/// `"recv_us":1700000000000000`. For an old message of a stream it is the time of storage.
pub(in crate::gateways) fn write_stamp(received: Now, out: &mut Vec<u8>) {
    write_integer(STAMP_KEY, received.unix_us, out);
}

/// Appends `"key":value`, a member of an object. The formatter would take 3 % of the instructions of a trade.
pub(in crate::gateways) fn write_integer(key: &str, value: impl itoa::Integer, out: &mut Vec<u8>) {
    out.push(b'"');
    out.extend_from_slice(key.as_bytes());
    out.extend_from_slice(b"\":");
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// The most log lines about bad messages, a second. Further messages are counted, and the count is logged later.
pub(in crate::gateways) const LINES_PER_SECOND: u32 = 5;

/// The most bytes shown of a bad message, and of its subject, after escaping.
pub(in crate::gateways) const EXCERPT_BYTES_MAX: usize = 200;

/// The log lines about bad messages, whether the feed or the source has found the fault.
#[derive(Debug)]
pub(in crate::gateways) struct BadMessageLog {
    budget: LogBudget,
    /// The lines of earlier seconds that were over the budget, until a line reports their number.
    left_out: Option<u64>,
    bad_message: Option<FeedLine>,
}

impl Default for BadMessageLog {
    fn default() -> Self {
        Self {
            budget: LogBudget::new(LINES_PER_SECOND),
            left_out: None,
            bad_message: None,
        }
    }
}

impl BadMessageLog {
    /// Once a second is over, makes a line with the number of lines that were left out.
    pub(in crate::gateways) fn tick(&mut self, now: Now) {
        self.left_out = self.budget.left_out(now).or(self.left_out);
    }

    /// Makes a line about a message, or counts the message if the lines of this second are used up.
    pub(in crate::gateways) fn say(&mut self, now: Now, message: &BusMessage, why: &dyn Display) {
        self.add(now, || FeedLine::BadMessage {
            subject: excerpt(message.subject.as_bytes()),
            id: id_of(message),
            why: why.to_string(),
            excerpt: Some(excerpt(&message.payload)),
        });
    }

    /// As [`say`](Self::say), about a message that the source has not handed over.
    pub(in crate::gateways) fn say_skipped(&mut self, now: Now, skipped: &SkippedMessage) {
        self.add(now, || FeedLine::BadMessage {
            subject: excerpt(skipped.subscription.name.as_bytes()),
            id: skipped.id.map(|id| id.to_string()),
            why: skipped.why.to_owned(),
            excerpt: None,
        });
    }

    fn add(&mut self, now: Now, line: impl FnOnce() -> FeedLine) {
        self.tick(now);
        if self.budget.line(now).is_some() {
            self.bad_message = Some(line());
        }
    }

    /// The next line to log.
    pub(in crate::gateways) fn next(&mut self) -> Option<FeedLine> {
        let left_out = self.left_out.take().map(FeedLine::LeftOut);
        left_out.or_else(|| self.bad_message.take())
    }
}

/// The id by which an operator finds a message in its stream. `None` if no stream stores it.
fn id_of(message: &BusMessage) -> Option<String> {
    if let Some(position) = message.position {
        return Some(position.sequence.to_string());
    }
    match message.place.position()?.point {
        Point::Stored { id, .. } => Some(id.to_string()),
        Point::Counted { .. } => None,
    }
}

/// The beginning of `payload` as printable text of at most [`EXCERPT_BYTES_MAX`] bytes.
pub(in crate::gateways) fn excerpt(payload: &[u8]) -> String {
    // Escaping never shortens, so no more of the payload can be shown.
    let head = payload.get(..EXCERPT_BYTES_MAX).unwrap_or(payload);
    let mut shown = String::with_capacity(EXCERPT_BYTES_MAX);
    for chunk in head.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c == '"' && shown.len() < EXCERPT_BYTES_MAX {
                // The log escapes quotes itself.
                shown.push(c);
                continue;
            }
            let escaped = c.escape_debug();
            let bytes: usize = escaped.clone().map(char::len_utf8).sum();
            if shown.len() + bytes > EXCERPT_BYTES_MAX {
                return shown;
            }
            shown.extend(escaped);
        }
        for byte in chunk.invalid() {
            if shown.len() + 4 > EXCERPT_BYTES_MAX {
                return shown;
            }
            // Writing to a string cannot fail.
            let _ = write!(shown, "\\x{byte:02x}");
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;
    use weirgate_core::{Mark, Place, Position, StoredId, Subscription};

    fn at(epoch: i64, sequence: u64) -> Option<StreamPosition> {
        Some(StreamPosition { epoch, sequence })
    }

    #[test]
    fn sequence_decides_within_an_epoch_and_epochs_before_it() {
        let mut last = LastSeen::default();
        assert!(last.advance(at(10, 5)));
        assert!(!last.advance(at(10, 5)), "redelivered");
        assert!(!last.advance(at(10, 4)), "replayed");
        assert!(last.advance(None), "no position");
        assert!(last.advance(at(10, 7)));
        assert!(last.advance(at(11, 1)), "a new stream starts over");
        assert!(!last.advance(at(10, 100)), "the old stream is over");
        assert!(last.advance(at(11, 2)));
    }

    #[test]
    fn an_excerpt_is_bounded_escaped_and_cut_between_characters() {
        assert_eq!(excerpt(b"{\"a\"\n"), "{\"a\"\\n");
        assert_eq!(excerpt(b"a\xff\x1b[31m"), "a\\xff\\u{1b}[31m");
        for payload in [
            "é🚀".repeat(200),
            "\u{1}".repeat(500),
            "x".repeat(199) + "é",
        ] {
            let shown = excerpt(payload.as_bytes());
            assert!(shown.len() <= EXCERPT_BYTES_MAX, "{}", shown.len());
            assert!(shown.len() > EXCERPT_BYTES_MAX - 12, "{}", shown.len());
            assert!(!shown.contains(char::is_control));
        }
    }

    fn message() -> BusMessage {
        let received = Now {
            mono_us: 0,
            unix_us: 0,
        };
        BusMessage::new("levels.signals", b"[1]".to_vec(), received)
    }

    /// The id of Redis, of JetStream in the kept feed, of JetStream for levels; none without a stream.
    #[test]
    fn a_line_has_the_id_by_which_the_message_is_found() {
        let stored = |major, minor| {
            let position = Position::stored(7, StoredId { major, minor });
            BusMessage {
                place: Place::Kept(Some(position)),
                ..message()
            }
        };
        let counted = BusMessage {
            place: Place::Kept(Some(Position::counted(
                7,
                Mark::parse("0123456789ab.1").unwrap(),
                5,
            ))),
            ..message()
        };
        let in_stream = BusMessage {
            position: at(10, 42),
            ..message()
        };
        let now = message().received;
        for (message, expected) in [
            (stored(1_700_000_000_000, 3), Some("1700000000000-3")),
            (
                stored(42, 1_700_000_000_000_000_000),
                Some("42-1700000000000000000"),
            ),
            (in_stream, Some("42")),
            (counted, None),
            (message(), None),
        ] {
            let mut log = BadMessageLog::default();
            log.say(now, &message, &"too large");
            let Some(FeedLine::BadMessage { id, .. }) = log.next() else {
                panic!("no line");
            };
            assert_eq!(id.as_deref(), expected);
        }
        let (mut log, name) = (BadMessageLog::default(), "é".repeat(10_000));
        let id = StoredId { major: 5, minor: 0 };
        let skipped = SkippedMessage {
            subscription: Subscription::pattern(name),
            place: Place::Outside,
            id: Some(id),
            why: "no field data",
        };
        log.say_skipped(now, &skipped);
        let Some(FeedLine::BadMessage {
            subject,
            id,
            excerpt,
            ..
        }) = log.next()
        else {
            panic!("no line");
        };
        assert_eq!((id.as_deref(), excerpt), (Some("5-0"), None));
        assert!(subject.len() <= EXCERPT_BYTES_MAX);
    }

    #[test]
    fn the_rate_is_bounded_and_what_was_left_out_is_said() {
        let start = Now {
            mono_us: 5_000_000,
            unix_us: 0,
        };
        let mut log = BadMessageLog::default();
        let bad_message = FeedLine::BadMessage {
            subject: "levels.signals".to_owned(),
            id: None,
            why: "not an object".to_owned(),
            excerpt: Some("[1]".to_owned()),
        };
        let mut say = |us| {
            log.say(start.plus_us(us), &message(), &"not an object");
            [log.next(), log.next()]
        };
        for us in 0..100 {
            let line = (us < 5).then(|| bad_message.clone());
            assert_eq!(say(us), [line, None]);
        }
        let left_out = Some(FeedLine::LeftOut(95));
        assert_eq!(say(1_000_000), [left_out, Some(bad_message)]);
    }

    #[test]
    fn what_was_left_out_is_said_without_another_bad_message() {
        let at = |us: u64| Now {
            mono_us: 5_000_000 + us,
            unix_us: 0,
        };
        let mut log = BadMessageLog::default();
        for us in 0..7 {
            log.say(at(us), &message(), &"not an object");
            log.next();
        }
        log.tick(at(999_000));
        assert_eq!(log.next(), None);
        log.tick(at(1_000_000));
        assert_eq!(log.next(), Some(FeedLine::LeftOut(2)));
        log.tick(at(2_000_000));
        assert_eq!(log.next(), None);
    }
}
