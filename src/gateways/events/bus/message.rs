//! The form of published messages: a line of words, and for a push a part of its body after the line.
//!
//! | line | meaning |
//! | --- | --- |
//! | `weirgate-events/1 FROM here` | the instance is there |
//! | `weirgate-events/1 FROM new` | the same, and every other instance should say so too |
//! | `weirgate-events/1 FROM gone` | the instance has stopped |
//! | `weirgate-events/1 FROM push NUMBER PART PARTS BYTES` | a part of the body of a push follows the line; the whole body has BYTES |
//! | `weirgate-events/1 FROM answer NUMBER SENT` | deliveries of a push of the addressed instance |
//! | `weirgate-events/1 FROM answer 0 NUMBER` | the newest push of the instance has this NUMBER, 0 before its first push. No push has the number 0, so instances of earlier versions read this as an answer to no push |

use super::InstanceId;

/// The first word: the name of the form, with its version.
const FORM: &str = "weirgate-events/1";

/// The longest line.
pub(crate) const LINE_BYTES_MAX: usize = 256;

/// The largest part size that can be set for an instance.
pub(crate) const PART_BYTES_MAX: usize = 16 * 1024 * 1024;

/// The longest id.
const ID_BYTES_MAX: usize = 64;

/// A message of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum InstanceMessage<'a> {
    /// The instance is there.
    Here {
        /// The other instances should announce themselves too.
        is_new: bool,
    },
    /// The instance has stopped.
    Gone,
    /// A part of a push.
    Push(PushPart<'a>),
    /// A push of the addressed instance was delivered.
    Answer { number: u64, sent: u64 },
    /// The number of the instance's newest push; 0 before its first one.
    Newest { number: u64 },
}

/// A part of the body of a push.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PushPart<'a> {
    /// The number of the push, as counted by the instance that took it from a service.
    pub(super) number: u64,
    /// From 0.
    pub(super) part: u32,
    pub(super) parts: u32,
    /// Bytes of all parts.
    pub(super) body_bytes: usize,
    pub(super) bytes: &'a [u8],
}

impl<'a> InstanceMessage<'a> {
    /// Returns the bytes to publish.
    pub(super) fn bytes(&self, from: &InstanceId) -> Vec<u8> {
        let (words, body): (String, &[u8]) = match *self {
            Self::Here { is_new: false } => ("here".to_owned(), b""),
            Self::Here { is_new: true } => ("new".to_owned(), b""),
            Self::Gone => ("gone".to_owned(), b""),
            Self::Push(PushPart {
                number,
                part,
                parts,
                body_bytes,
                bytes,
            }) => (format!("push {number} {part} {parts} {body_bytes}"), bytes),
            Self::Answer { number, sent } => (format!("answer {number} {sent}"), b""),
            Self::Newest { number } => (format!("answer 0 {number}"), b""),
        };
        let mut bytes = format!("{FORM} {} {words}\n", from.as_str()).into_bytes();
        bytes.extend_from_slice(body);
        bytes
    }

    /// Reads the sender's id and the message; `None` if the bytes are not a message of this version.
    pub(super) fn parse(bytes: &'a [u8]) -> Option<(InstanceId, Self)> {
        let head = bytes.get(..LINE_BYTES_MAX).unwrap_or(bytes);
        let end = head.iter().position(|&byte| byte == b'\n');
        let (line, rest) = bytes.split_at(end?);
        let body = rest.get(1..).unwrap_or_default();
        let line = std::str::from_utf8(line).ok()?;
        let words: Vec<&str> = line.split(' ').collect();
        let [FORM, from, words @ ..] = words.as_slice() else {
            return None;
        };
        let message = match *words {
            ["here"] => Self::Here { is_new: false },
            ["new"] => Self::Here { is_new: true },
            ["gone"] => Self::Gone,
            ["push", number, part, parts, body_bytes] => Self::Push(PushPart {
                number: count(number)?,
                part: small(part)?,
                parts: small(parts)?,
                body_bytes: usize::try_from(count(body_bytes)?).ok()?,
                bytes: body,
            }),
            ["answer", number, sent] => match (count(number)?, count(sent)?) {
                (0, number) => Self::Newest { number },
                (number, sent) => Self::Answer { number, sent },
            },
            _ => return None,
        };
        let is_good = match message {
            Self::Push(PushPart { part, parts, .. }) => part < parts,
            _ => body.is_empty(),
        };
        Some((id(from)?, message)).filter(|_| is_good)
    }
}

/// Parses an id. It becomes part of a subject, so dots and wildcards are not permitted.
fn id(word: &str) -> Option<InstanceId> {
    let is_good = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    let fits = (1..=ID_BYTES_MAX).contains(&word.len());
    (fits && word.bytes().all(is_good)).then(|| InstanceId::from(word))
}

fn count(word: &str) -> Option<u64> {
    let is_number = word.bytes().all(|byte| byte.is_ascii_digit());
    word.parse().ok().filter(|_| is_number)
}

fn small(word: &str) -> Option<u32> {
    u32::try_from(count(word)?).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_messages_of_this_form_are_read() {
        for text in [
            "",
            "weirgate-events/1 a here",
            "weirgate-events/2 a here\n",
            "weirgate-events/1 a here\nx",
            "weirgate-events/1 a here \n",
            "weirgate-events/1  here\n",
            "weirgate-events/1 a.b here\n",
            "weirgate-events/1 > here\n",
            "weirgate-events/1 a\r here\n",
            "weirgate-events/1 a push 1 1 1 2\n{}",
            "weirgate-events/1 a push 1 0 0 2\n{}",
            "weirgate-events/1 a push +1 0 1 2\n{}",
            "weirgate-events/1 a push 1 0 4294967296 2\n{}",
            "weirgate-events/1 a push 1 0 1 18446744073709551616\n{}",
            "weirgate-events/1 a push 1 0 1\n{}",
            "weirgate-events/1 a answer 1 18446744073709551616\n",
            "weirgate-events/1 a answer 1\n",
            r#"{"event":"e","targets":{}}"#,
        ] {
            assert_eq!(InstanceMessage::parse(text.as_bytes()), None, "{text}");
        }
        let long = format!("weirgate-events/1 {} here\n", "a".repeat(ID_BYTES_MAX + 1));
        assert_eq!(InstanceMessage::parse(long.as_bytes()), None);
        let endless = vec![b' '; 10_000];
        assert_eq!(InstanceMessage::parse(&endless), None);
    }

    fn message(body: &[u8]) -> impl Strategy<Value = InstanceMessage<'_>> {
        prop_oneof![
            any::<bool>().prop_map(|is_new| InstanceMessage::Here { is_new }),
            Just(InstanceMessage::Gone),
            (any::<u64>(), 0..9_u32, 1..9_u32, any::<usize>()).prop_map(
                move |(number, part, more, body_bytes)| {
                    InstanceMessage::Push(PushPart {
                        number,
                        part,
                        parts: part + more,
                        body_bytes,
                        bytes: body,
                    })
                }
            ),
            (1..u64::MAX, any::<u64>())
                .prop_map(|(number, sent)| InstanceMessage::Answer { number, sent }),
            any::<u64>().prop_map(|number| InstanceMessage::Newest { number }),
        ]
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(message in message(b"{\n}"), id in "[A-Za-z0-9_-]{1,64}") {
            let id = InstanceId::from(id.as_str());
            let bytes = message.bytes(&id);
            prop_assert_eq!(InstanceMessage::parse(&bytes), Some((id, message)));
        }

        #[test]
        fn no_bytes_break_the_reader(
            bytes in prop_oneof![
                prop::collection::vec(any::<u8>(), 0..400),
                "weirgate-events/1 [a-z]{0,3} (push|answer|here|new) ?[0-9 -]{0,30}\n?.{0,9}".prop_map(String::into_bytes),
            ],
        ) {
            if let Some((id, message)) = InstanceMessage::parse(&bytes) {
                let again = message.bytes(&id);
                prop_assert_eq!(InstanceMessage::parse(&again), Some((id, message)));
            }
        }
    }
}
