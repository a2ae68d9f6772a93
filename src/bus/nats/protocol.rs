//! The client protocol of NATS: writes commands, and reads the server's bytes piece by piece. Pure.
//!
//! The reader takes memory for bytes received, never for a size announced. Of a payload over the limit only the
//! beginning and the last bytes are kept; the rest is read and thrown away.

use std::hash::{BuildHasher, RandomState};
use std::io::Write as _;

use crate::name_of;
use crate::socket::{Lines, take_up_to};

/// The longest line. The server's first line lists the servers of a cluster.
pub(super) const LINE_BYTES_MAX: usize = 256 * 1024;
/// Bytes kept of the headers of a message: JetStream stores no longer ones. Headers of a trace can be before the header
/// that says what the message is.
const HEADER_BYTES_KEPT: usize = 64 * 1024;
/// Bytes kept of the end of a payload over the limit: enough for what an answer of JetStream has behind the payload of a
/// message.
pub(super) const END_BYTES_KEPT: usize = 256;
/// What an answer of JetStream may have beside the payload of a message, bytes: headers of 64 KiB in base64 and the
/// subject, or a page of the list of all streams. A page has 256 streams; a stream takes 700 bytes, and some thousand with
/// many subjects or sources.
const ANSWER_BYTES_BESIDE: usize = 1024 * 1024;
/// The header of a heartbeat with the number of the consumer's last delivery (NATS ADR-9).
const LAST_CONSUMER: &str = "Nats-Last-Consumer:";
/// The header of a heartbeat with the subject on which the consumer waits for an answer (NATS ADR-9).
const STALLED: &str = "Nats-Consumer-Stalled:";
/// The header of a key-value bucket with what was done to the key (NATS ADR-8), and the header of the server's own
/// marker of a deletion, with any reason (NATS ADR-43).
const OPERATION: &str = "KV-Operation:";
const MARKER: &str = "Nats-Marker-Reason:";

/// Writes `SUB`. Of a queue group, the server chooses one member for each message.
pub(super) fn subscribe(out: &mut Vec<u8>, subject: &str, group: Option<&str>, sid: u64) {
    let group = group.unwrap_or_default();
    out.extend_from_slice(format!("SUB {subject} {group} {sid}\r\n").as_bytes());
}

/// Writes `UNSUB`.
pub(super) fn unsubscribe(out: &mut Vec<u8>, sid: u64) {
    out.extend_from_slice(format!("UNSUB {sid}\r\n").as_bytes());
}

/// Writes `PUB`. `reply` is the subject for an answer; empty for none.
pub(super) fn publish(out: &mut Vec<u8>, subject: &str, reply: &str, payload: &[u8]) {
    for piece in ["PUB ", subject, " ", reply, " "] {
        out.extend_from_slice(piece.as_bytes());
    }
    // Writing to memory never fails.
    let _ = write!(out, "{}\r\n", payload.len());
    out.extend_from_slice(payload);
    out.extend_from_slice(b"\r\n");
}

/// The commands without parameters.
pub(super) const PING: &[u8] = b"PING\r\n";
pub(super) const PONG: &[u8] = b"PONG\r\n";

/// The prefix of subjects made up by clients.
pub(super) const INBOX_PREFIX: &str = "_INBOX.";

/// Makes a new prefix for subjects of answers. Nobody else can guess it: the keys of the hasher are random.
pub(super) fn inbox() -> String {
    let [one, other] = [0, 1].map(|n| RandomState::new().hash_one(n));
    format!("{INBOX_PREFIX}{one:016x}{other:016x}")
}

/// An operation from the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Op {
    Message(Delivery),
    Ping,
    Pong,
    /// The server's words, without quotes.
    Error(String),
    /// Information about the server, in JSON: the first line, and again whenever servers join or leave a cluster.
    Info(String),
    /// An acknowledgement.
    Ok,
}

/// A message of a subscription.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Delivery {
    /// The subject. NATS takes any bytes, so it need not be text: [`Self::name`].
    pub(super) subject: Vec<u8>,
    /// The number of the subscription.
    pub(super) sid: u64,
    pub(super) reply: Option<String>,
    /// The status of a message from the server itself, such as 503 (no responders). No message of a stream has one.
    pub(super) status: Option<u16>,
    /// The server's words behind the status of a failure (400 and more); empty without any.
    pub(super) status_words: Box<str>,
    /// The number of the consumer's last delivery, in a heartbeat.
    pub(super) last_consumer: Option<u64>,
    /// The subject on which the consumer waits for an answer, in a heartbeat.
    pub(super) stalled: Option<String>,
    /// The value of the subject was deleted: the payload is empty, and the headers say so.
    pub(super) is_deletion: bool,
    /// The payload without headers. A payload over the limit is cut to one byte more than the limit.
    pub(super) payload: Vec<u8>,
    /// The bytes of the payload that are not here.
    pub(super) left_out: usize,
    /// The last bytes of what goes on behind the payload that is here; empty if the payload is whole.
    pub(super) end: Vec<u8>,
}

impl Delivery {
    /// The subject as a name for clients.
    ///
    /// # Errors
    /// Why the message is skipped.
    pub(super) fn name(&self) -> Result<&str, &'static str> {
        name_of(&self.subject)
    }

    /// The bytes of the whole payload, also if it is cut here.
    pub(super) const fn size(&self) -> usize {
        self.payload.len() + self.left_out
    }

    /// Whether the payload goes on behind what is here.
    pub(super) fn is_cut(&self) -> bool {
        !self.end.is_empty()
    }

    /// Whether JetStream delivers this message of a stream to a consumer: it has the subject under which it was
    /// published, and goes out on a subject of the consumer's.
    pub(super) fn is_of_a_consumer(&self) -> bool {
        let reply = self.reply.as_ref();
        reply.is_some_and(|reply| reply.starts_with("$JS.ACK."))
    }

    /// The number of a request, which is the last token of the subject for its answer.
    pub(super) fn request(&self) -> Option<u64> {
        self.name().ok()?.rsplit_once('.')?.1.parse().ok()
    }
}

/// Bytes outside the protocol, or over a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("what it sends is not the NATS protocol ({0})")]
pub(super) struct ProtocolError(pub(super) &'static str);

/// How many bytes of a payload a reader keeps.
#[derive(Clone, Copy, Debug)]
pub(super) struct PayloadLimits {
    bytes_max: usize,
    /// The subscription to the answers of JetStream, and the limit there: an answer has more than the message in it.
    answers: Option<(u64, usize)>,
}

impl PayloadLimits {
    /// One limit for all payloads.
    pub(super) const fn of_all(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            answers: None,
        }
    }

    /// The limit of messages, and for the answers of JetStream, which come on the subscription of this number, a limit
    /// under which an answer has each message of `bytes_max` in base64.
    pub(super) const fn with_answers(bytes_max: usize, sid: u64) -> Self {
        let in_base64 = bytes_max.div_ceil(3).saturating_mul(4);
        let answer_bytes_max = in_base64.saturating_add(ANSWER_BYTES_BESIDE);
        Self {
            bytes_max,
            answers: Some((sid, answer_bytes_max)),
        }
    }

    fn of(&self, sid: u64) -> usize {
        let answers = self.answers.filter(|(of, _)| *of == sid);
        answers.map_or(self.bytes_max, |(_, bytes_max)| bytes_max)
    }
}

/// Reads the server's operations from pieces of any size.
#[derive(Debug)]
pub(super) struct OpReader {
    limits: PayloadLimits,
    lines: Lines,
    body: Option<Body>,
}

/// A partly received message.
#[derive(Debug)]
struct Body {
    delivery: Delivery,
    headers: Vec<u8>,
    headers_left: usize,
    payload_left: usize,
    /// The missing bytes of the line end after the payload.
    end_left: usize,
}

impl OpReader {
    /// A reader before the first byte of a connection.
    pub(super) fn new(limits: PayloadLimits) -> Self {
        Self {
            limits,
            lines: Lines::default(),
            body: None,
        }
    }

    /// The subscription of a message that has begun and is not whole.
    pub(super) fn sid_of_partial(&self) -> Option<u64> {
        self.body.as_ref().map(|body| body.delivery.sid)
    }

    /// Takes bytes from `input` up to the end of the next operation. Returns `None` if `input` is used up and the
    /// operation is incomplete.
    ///
    /// # Errors
    /// The bytes are not the protocol. The reader is of no use afterwards.
    pub(super) fn next(&mut self, input: &mut &[u8]) -> Result<Option<Op>, ProtocolError> {
        loop {
            if let Some(body) = &mut self.body {
                if !body.take(input, self.limits)? {
                    return Ok(None);
                }
                let whole = self.body.take().map(Body::into_delivery);
                return Ok(whole.map(Op::Message));
            }
            let Some(line) = self
                .lines
                .next(input, LINE_BYTES_MAX)
                .map_err(ProtocolError)?
            else {
                return Ok(None);
            };
            if let Some(op) = self.begin(&line)? {
                return Ok(Some(op));
            }
        }
    }

    /// Parses a line: an operation, or the beginning of a message.
    fn begin(&mut self, line: &[u8]) -> Result<Option<Op>, ProtocolError> {
        let line = line.trim_ascii_end();
        let is_space = |byte: &u8| matches!(byte, b' ' | b'\t');
        let (verb, rest) = match line.iter().position(is_space) {
            Some(at) => (&line[..at], &line[at + 1..]),
            None => (line, &[][..]),
        };
        let text = || String::from_utf8_lossy(rest);
        let op = match verb {
            b"MSG" | b"HMSG" => {
                self.body = Some(message(rest, verb == b"HMSG")?);
                return Ok(None);
            }
            b"PING" => Op::Ping,
            b"PONG" => Op::Pong,
            b"-ERR" => Op::Error(text().trim().trim_matches('\'').to_owned()),
            b"INFO" => Op::Info(text().into_owned()),
            b"+OK" => Op::Ok,
            _ => return Err(ProtocolError("a verb that is not known")),
        };
        Ok(Some(op))
    }
}

/// A text without the bytes that are no UTF-8. [`String::from_utf8_lossy`] alone looks at each byte, also of a text that
/// is whole.
fn lossy(bytes: &[u8]) -> String {
    let whole = str::from_utf8(bytes).map(str::to_owned);
    whole.unwrap_or_else(|_| String::from_utf8_lossy(bytes).into_owned())
}

/// Parses the first line of a message: subject, number of the subscription, perhaps a reply subject, sizes.
fn message(line: &[u8], has_headers: bool) -> Result<Body, ProtocolError> {
    let wrong = ProtocolError("the first line of a message");
    let (mut fields, mut count) = ([&[][..]; 5], 0);
    let pieces = line.split(u8::is_ascii_whitespace);
    for field in pieces.filter(|field| !field.is_empty()) {
        *fields.get_mut(count).ok_or(wrong)? = field;
        count += 1;
    }
    let text = |field| str::from_utf8(field).map_err(|_| wrong);
    // Takes the last field: the sizes are at the end.
    let mut number = || -> Result<usize, ProtocolError> {
        count = count.checked_sub(1).ok_or(wrong)?;
        text(fields[count])?.parse().map_err(|_| wrong)
    };
    let total = number()?;
    let headers_left = if has_headers { number()? } else { 0 };
    let payload_left = total.checked_sub(headers_left).ok_or(wrong)?;
    let (subject, sid, reply) = match fields[..count] {
        [subject, sid] => (subject, sid, None),
        // Requests of others may name any subject for their answers; here only those of JetStream count.
        [subject, sid, reply] => (subject, sid, Some(lossy(reply))),
        _ => return Err(wrong),
    };
    Ok(Body {
        delivery: Delivery {
            subject: subject.to_owned(),
            sid: text(sid)?.parse().map_err(|_| wrong)?,
            reply,
            ..Delivery::default()
        },
        headers: Vec::new(),
        headers_left,
        payload_left,
        // A carriage return and a line feed.
        end_left: 2,
    })
}

impl Body {
    /// Takes bytes of the message. Returns whether the message is complete.
    fn take(&mut self, input: &mut &[u8], limits: PayloadLimits) -> Result<bool, ProtocolError> {
        let headers = take_up_to(&mut self.headers_left, input);
        keep(&mut self.headers, headers, HEADER_BYTES_KEPT);
        if self.headers_left > 0 {
            return Ok(false);
        }
        let payload = take_up_to(&mut self.payload_left, input);
        let bytes_max = limits.of(self.delivery.sid) + 1;
        let rest = keep(&mut self.delivery.payload, payload, bytes_max);
        if !rest.is_empty() {
            self.delivery.left_out += rest.len();
            keep_end(&mut self.delivery.end, rest);
        }
        if self.payload_left > 0 {
            return Ok(false);
        }
        // The two bytes may come in two pieces: this is both, the first or the second.
        let end = take_up_to(&mut self.end_left, input);
        if !b"\r\n".ends_with(end) && !b"\r\n".starts_with(end) {
            return Err(ProtocolError("a message that is longer than it says"));
        }
        Ok(self.end_left == 0)
    }

    /// Returns the complete message, with what its headers say: the server's status, or without a status whether it is
    /// the mark of a deletion. Headers beyond [`HEADER_BYTES_KEPT`] are not read.
    fn into_delivery(self) -> Delivery {
        if self.headers.is_empty() {
            return self.delivery;
        }
        let headers = String::from_utf8_lossy(&self.headers);
        let reply = self.delivery.reply.as_deref();
        let is_stored = reply.and_then(AckSubject::parse).is_some();
        // The publisher of a stored message chooses all of its headers, so a status there means nothing.
        let first = headers.lines().next().filter(|_| !is_stored);
        let status = first.and_then(|line| line.strip_prefix("NATS/1.0 "));
        let (status, words) = status.map_or((None, ""), |status| {
            let (code, words) = status.split_once(' ').unwrap_or((status, ""));
            (code.trim().parse().ok(), words.trim())
        });
        if status.is_none() {
            let is_deletion = self.delivery.payload.is_empty() && are_of_deletion(&headers);
            return Delivery {
                is_deletion,
                ..self.delivery
            };
        }
        // The words of a heartbeat would be a copy for nobody.
        let is_failure = status >= Some(400);
        let lines = || headers.lines();
        let value = |name| lines().find_map(|line| Some(line.strip_prefix(name)?.trim()));
        Delivery {
            status,
            status_words: if is_failure {
                words.into()
            } else {
                Box::default()
            },
            last_consumer: value(LAST_CONSUMER).and_then(|last| last.parse().ok()),
            stalled: value(STALLED).map(str::to_owned),
            ..self.delivery
        }
    }
}

/// The content of a JetStream message's reply subject.
///
/// Two forms are in use (NATS ADR-15): nine tokens,
/// `$JS.ACK.<stream>.<consumer>.<deliveries>.<stream seq>.<consumer seq>.<time>.<pending>`; and eleven or more: the
/// same after `<domain>.<account hash>` and, in most servers, before a random token. The parser of the crate `nats`
/// refuses eleven.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct AckSubject {
    /// Sequence number of the message in its stream.
    pub(super) stream_sequence: u64,
    /// Number of the delivery by the consumer.
    pub(super) consumer_sequence: u64,
    /// The time of storage, Unix nanoseconds.
    pub(super) stored_unix_ns: u64,
    /// The number of messages that the consumer has not delivered yet.
    pub(super) pending: u64,
}

impl AckSubject {
    /// Reads the subject; `None` if it is no acknowledgement.
    pub(super) fn parse(reply: &str) -> Option<Self> {
        let reply = reply.strip_prefix("$JS.ACK.")?;
        let dots = || memchr::memchr_iter(b'.', reply.as_bytes());
        // Without `$JS.ACK` there are seven tokens, or nine and more. Before the numbers are stream, consumer and
        // deliveries; and before these, in the long form, domain and account.
        let before_numbers = match dots().count() + 1 {
            7 => 3,
            9.. => 5,
            _ => return None,
        };
        let mut rest = &reply[dots().nth(before_numbers - 1)? + 1..];
        let mut number = || {
            // As bytes: for tokens as short as these, the search of `str` takes four times as long, for each message.
            let end = rest.bytes().position(|byte| byte == b'.');
            let (number, behind) = rest.split_at(end.unwrap_or(rest.len()));
            rest = behind.get(1..).unwrap_or_default();
            number.parse().ok()
        };
        Some(Self {
            stream_sequence: number()?,
            consumer_sequence: number()?,
            stored_unix_ns: number()?,
            pending: number()?,
        })
    }
}

/// Whether the headers of a message say that the value of its subject was deleted.
pub(super) fn are_of_deletion(headers: &str) -> bool {
    headers.lines().any(|line| {
        let operation = line.strip_prefix(OPERATION).map(str::trim);
        matches!(operation, Some("DEL" | "PURGE")) || line.starts_with(MARKER)
    })
}

/// Adds the part of a piece that has room. Returns the rest.
fn keep<'a>(kept: &mut Vec<u8>, piece: &'a [u8], bytes_max: usize) -> &'a [u8] {
    let room = bytes_max.saturating_sub(kept.len());
    let (part, rest) = piece.split_at(piece.len().min(room));
    kept.extend_from_slice(part);
    rest
}

/// Adds a piece to the last bytes that are kept.
fn keep_end(end: &mut Vec<u8>, piece: &[u8]) {
    let piece = &piece[piece.len().saturating_sub(END_BYTES_KEPT)..];
    let surplus = (end.len() + piece.len()).saturating_sub(END_BYTES_KEPT);
    end.drain(..surplus);
    end.extend_from_slice(piece);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{NAME_BYTES_MAX, NAME_TOO_LONG};

    const ALL: &[u8] = b"INFO {\"server_id\":\"X\"}\r\nPING\r\n+OK\r\nMSG a.b 7 5\r\nhe\r\no\r\n\
        MSG a 8 _INBOX.x 0\r\n\r\nHMSG a.b 9 r 30 33\r\nNATS/1.0 503 No Responders\r\n\r\nabc\r\n\
        -ERR 'Permissions Violation for Subscription to \"x\"'\r\nPONG\r\n";

    fn delivery(subject: &str, sid: u64, reply: Option<&str>, payload: &[u8]) -> Delivery {
        Delivery {
            subject: subject.into(),
            sid,
            reply: reply.map(str::to_owned),
            payload: payload.to_vec(),
            ..Delivery::default()
        }
    }

    fn expected() -> Vec<Op> {
        let unanswered = Delivery {
            status: Some(503),
            status_words: "No Responders".into(),
            ..delivery("a.b", 9, Some("r"), b"abc")
        };
        vec![
            Op::Info("{\"server_id\":\"X\"}".to_owned()),
            Op::Ping,
            Op::Ok,
            Op::Message(delivery("a.b", 7, None, b"he\r\no")),
            Op::Message(delivery("a", 8, Some("_INBOX.x"), b"")),
            Op::Message(unanswered),
            Op::Error("Permissions Violation for Subscription to \"x\"".to_owned()),
            Op::Pong,
        ]
    }

    fn reader(payload_bytes_max: usize) -> OpReader {
        OpReader::new(PayloadLimits::of_all(payload_bytes_max))
    }

    fn read(reader: &mut OpReader, mut bytes: &[u8]) -> Result<Vec<Op>, ProtocolError> {
        let mut ops = Vec::new();
        while let Some(op) = reader.next(&mut bytes)? {
            ops.push(op);
        }
        assert!(bytes.is_empty());
        Ok(ops)
    }

    proptest! {
        #[test]
        fn pieces_of_any_size_are_read_the_same(mut cuts in prop::collection::vec(0..ALL.len(), 0..8)) {
            cuts.extend([0, ALL.len()]);
            cuts.sort_unstable();
            let mut reader = reader(100);
            let mut ops = Vec::new();
            for piece in cuts.windows(2) {
                ops.extend(read(&mut reader, &ALL[piece[0]..piece[1]]).expect("good bytes"));
            }
            prop_assert_eq!(ops, expected());
        }

        #[test]
        fn any_bytes_end_in_an_error_or_not_at_all(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&mut reader(10), &bytes);
        }

        #[test]
        fn no_subject_panics(subject in "(\\$JS\\.ACK\\.)?[a-z0-9.]{0,60}") {
            let _ = AckSubject::parse(&subject);
        }
    }

    #[test]
    fn a_heartbeat_names_the_last_delivery() {
        let headers = "NATS/1.0 100 Idle Heartbeat\r\nNats-Last-Consumer: 18446744073709551615\r\n\
            Nats-Last-Stream: 7\r\nNats-Consumer-Stalled: $JS.FC.S.c.x\r\n\r\n";
        let bytes = headers.len();
        let op = format!("HMSG a 1 {bytes} {bytes}\r\n{headers}\r\n");
        let ops = read(&mut reader(10), op.as_bytes()).expect("good bytes");
        let heartbeat = Delivery {
            status: Some(100),
            last_consumer: Some(u64::MAX),
            stalled: Some("$JS.FC.S.c.x".to_owned()),
            ..delivery("a", 1, None, b"")
        };
        assert_eq!(ops, [Op::Message(heartbeat)]);
        // Only the server's own messages have a status.
        let headers = headers.replace(" 100 Idle Heartbeat", "");
        let bytes = headers.len();
        let op = format!("HMSG a 1 {bytes} {bytes}\r\n{headers}\r\n");
        let ops = read(&mut reader(10), op.as_bytes()).expect("good bytes");
        assert_eq!(ops, [Op::Message(delivery("a", 1, None, b""))]);
    }

    #[test]
    fn an_empty_message_with_the_headers_of_a_deletion_is_one() {
        let ack = "$JS.ACK.S.c.1.7.1.1700000000000000000.0";
        let long = format!("Baggage: {}\r\nKV-Operation: DEL", "x".repeat(8_192));
        let long = long.as_str();
        for (headers, payload, is_deletion) in [
            ("KV-Operation: DEL", "", true),
            ("KV-Operation:PURGE\r\nNats-Rollup: sub", "", true),
            ("Nats-Marker-Reason: MaxAge", "", true),
            ("Nats-Marker-Reason: Whatever", "", true),
            ("KV-Operation: PUT", "", false),
            ("X-KV-Operation: DEL", "", false),
            ("KV-Operation: DEL", "1", false),
            (long, "", true),
        ] {
            for reply in ["", ack] {
                let headers = format!("NATS/1.0\r\n{headers}\r\n\r\n");
                let (own, all) = (headers.len(), headers.len() + payload.len());
                let op = format!("HMSG a 1 {reply} {own} {all}\r\n{headers}{payload}\r\n");
                let ops = read(&mut reader(10), op.as_bytes()).expect("good bytes");
                let [Op::Message(message)] = ops.as_slice() else {
                    panic!("{ops:?}");
                };
                assert_eq!(message.is_deletion, is_deletion, "{op}");
            }
        }
    }

    #[test]
    fn a_message_of_a_stream_has_no_status_whatever_its_headers() {
        let ack = "$JS.ACK.S.c.1.7.1.1700000000000000000.0";
        for (reply, status) in [(ack, None), ("$JS.FC.S.c.x", Some(100))] {
            let headers = "NATS/1.0 100 Idle Heartbeat\r\nNats-Last-Consumer: 9\r\n\r\n";
            let bytes = headers.len();
            let op = format!("HMSG a 1 {reply} {bytes} {}\r\n{headers}x\r\n", bytes + 1);
            let ops = read(&mut reader(10), op.as_bytes()).expect("good bytes");
            let message = Delivery {
                status,
                last_consumer: status.map(|_| 9),
                ..delivery("a", 1, Some(reply), b"x")
            };
            assert_eq!(ops, [Op::Message(message)]);
        }
    }

    #[test]
    fn of_a_payload_over_the_limit_the_beginning_and_the_end_are_kept() {
        let (bytes_max, answers) = (3, 7);
        let mut reader = OpReader::new(PayloadLimits::with_answers(bytes_max, answers));
        let answer_bytes_max = 4 + ANSWER_BYTES_BESIDE;
        for (bytes, sid, kept) in [
            (9, 1, bytes_max + 1),
            (bytes_max + 1, 1, bytes_max + 1),
            (answer_bytes_max + 1, answers, answer_bytes_max + 1),
            (answer_bytes_max + 2, answers, answer_bytes_max + 1),
            (999, 1, bytes_max + 1),
        ] {
            let payload: String = (b'a'..=b'z').map(char::from).cycle().take(bytes).collect();
            let op = format!("MSG a {sid} {bytes}\r\n{payload}\r\n");
            let (one, other) = op.as_bytes().split_at(op.len() - 3);
            assert_eq!(read(&mut reader, one), Ok(vec![]));
            let end = kept.max(bytes.saturating_sub(END_BYTES_KEPT));
            let want = Delivery {
                left_out: bytes - kept,
                end: payload.as_bytes()[end..].to_vec(),
                ..delivery("a", sid, None, &payload.as_bytes()[..kept])
            };
            assert_eq!(want.is_cut(), bytes > kept);
            assert!(read(&mut reader, other) == Ok(vec![Op::Message(want)]));
        }
    }

    #[test]
    fn two_subjects_that_are_no_text_stay_two() {
        let mut reader = reader(9);
        let ops = read(
            &mut reader,
            b"MSG a\xff 1 0\r\n\r\nMSG a\xfe 1 r\xff 0\r\n\r\n",
        );
        let ops = ops.expect("good bytes");
        let subjects: Vec<_> = ops
            .iter()
            .map(|op| match op {
                Op::Message(delivery) => (&delivery.subject[..], delivery.name().ok()),
                op => panic!("{op:?}"),
            })
            .collect();
        assert_eq!(subjects, [(&b"a\xff"[..], None), (&b"a\xfe"[..], None)]);
    }

    #[test]
    fn a_subject_over_the_limit_is_no_name() {
        let named = |bytes| Delivery {
            subject: vec![b'a'; bytes],
            ..Delivery::default()
        };
        assert!(named(NAME_BYTES_MAX).name().is_ok());
        assert_eq!(named(NAME_BYTES_MAX + 1).name(), Err(NAME_TOO_LONG));
    }

    #[test]
    fn what_is_not_the_protocol() {
        for bad in [
            "HTTP/1.1 400 Bad Request\r\n",
            "MSG a 1\r\n",
            "MSG a 1 x\r\n",
            "MSG a x 1\r\n",
            "MSG a 1 2 3 4\r\n",
            "HMSG a 1 9 3\r\n",
            "MSG a 1 99999999999999999999999\r\n",
            "MSG a 1 1\r\nabc\r\n",
            "\r\n",
            "MSG a \u{660} 1\r\n",
        ] {
            assert!(read(&mut reader(10), bad.as_bytes()).is_err(), "{bad}");
        }
        let endless = vec![b'x'; LINE_BYTES_MAX + 1];
        assert!(read(&mut reader(10), &endless).is_err());
    }

    #[test]
    fn both_forms_of_the_reply_subject_are_read() {
        let old = "$JS.ACK.LEVEL_SIGNALS.gateway_levels.1.4711.22.1700000000000000000.9";
        let new = "$JS.ACK._.accHash.LEVEL_SIGNALS.gateway_levels.1.4711.22.1700000000000000000.9";
        let newest = format!("{new}.r4nd0m");
        let want = Some(AckSubject {
            stream_sequence: 4711,
            consumer_sequence: 22,
            stored_unix_ns: 1_700_000_000_000_000_000,
            pending: 9,
        });
        for subject in [old, new, newest.as_str()] {
            assert_eq!(AckSubject::parse(subject), want, "{subject}");
        }
    }

    #[test]
    fn other_reply_subjects_are_refused() {
        for subject in [
            "",
            "_INBOX.abc",
            "$JS.ACK.",
            "$JS.ACK.s.c.1.2.3.4",
            "$JS.ACK.s.c.1.x.3.4.5",
            "$JS.ACK.d.a.s.c.1.2.3.4",
            "$JS.FC.s.c.x",
        ] {
            assert_eq!(AckSubject::parse(subject), None, "{subject}");
        }
    }
}
