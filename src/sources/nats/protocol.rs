//! The client protocol of NATS: writes commands, reads the server's bytes piece by piece, and reads what the server says
//! of itself in its first line and later. Pure.
//!
//! The reader takes memory for bytes received, never for a size announced. Of a payload over the
//! limit only the beginning is kept; the rest is read and thrown away.

use std::hash::{BuildHasher, RandomState};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};

use super::settings::{Endpoint, NatsSettings};
use crate::sources::socket::{Lines, take_up_to};
use crate::wire::json::{self, JsonError};

/// The longest line. The server's first line lists the servers of a cluster.
pub(super) const LINE_BYTES_MAX: usize = 256 * 1024;
/// Bytes kept of the headers of a message: enough for all headers of a consumer's heartbeat.
const HEADER_BYTES_KEPT: usize = 1024;
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
    out.extend_from_slice(format!("PUB {subject} {reply} {}\r\n", payload.len()).as_bytes());
    out.extend_from_slice(payload);
    out.extend_from_slice(b"\r\n");
}

/// Writes `PING`.
pub(super) fn ping(out: &mut Vec<u8>) {
    out.extend_from_slice(b"PING\r\n");
}

/// Writes `PONG`.
pub(super) fn pong(out: &mut Vec<u8>) {
    out.extend_from_slice(b"PONG\r\n");
}

/// The beginning of subjects for answers. Nobody else can guess an inbox: the keys of the hasher are random.
pub(super) fn inbox() -> String {
    let [one, other] = [0, 1].map(|n| RandomState::new().hash_one(n));
    format!("_INBOX.{one:016x}{other:016x}")
}

/// An operation from the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Op {
    /// A message of a subscription.
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
    pub(super) subject: String,
    /// The number of the subscription.
    pub(super) sid: u64,
    pub(super) reply: Option<String>,
    /// The status of a message from the server itself, such as 503: nobody answers. No message of a stream
    /// has one.
    pub(super) status: Option<u16>,
    /// The number of the consumer's last delivery, in a heartbeat.
    pub(super) last_consumer: Option<u64>,
    /// The subject on which the consumer waits for an answer, in a heartbeat.
    pub(super) stalled: Option<String>,
    /// The value of the subject was deleted: the payload is empty, and the headers say so.
    pub(super) is_deletion: bool,
    /// The payload without headers. A payload over the limit is cut to one byte more than the
    /// limit.
    pub(super) payload: Vec<u8>,
}

/// Bytes outside the protocol, or over a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("what it sends is not the NATS protocol ({0})")]
pub(super) struct Malformed(pub(super) &'static str);

/// Reads the server's operations from pieces of any size.
#[derive(Debug)]
pub(super) struct Reader {
    payload_bytes_max: usize,
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

impl Reader {
    /// A reader before the first byte of a connection.
    pub(super) fn new(payload_bytes_max: usize) -> Self {
        Self {
            payload_bytes_max,
            lines: Lines::default(),
            body: None,
        }
    }

    /// The subscription of a message that has begun and is not whole.
    pub(super) fn message_within(&self) -> Option<u64> {
        self.body.as_ref().map(|body| body.delivery.sid)
    }

    /// Takes bytes from `input` up to the end of the next operation. Returns `None` if `input` is
    /// used up and the operation is incomplete.
    ///
    /// # Errors
    /// The bytes are not the protocol. The reader is of no use afterwards.
    pub(super) fn next(&mut self, input: &mut &[u8]) -> Result<Option<Op>, Malformed> {
        loop {
            if let Some(body) = &mut self.body {
                if !body.take(input, self.payload_bytes_max)? {
                    return Ok(None);
                }
                let whole = self.body.take().map(Body::into_delivery);
                return Ok(whole.map(Op::Message));
            }
            let line = self.lines.next(input, LINE_BYTES_MAX).map_err(Malformed)?;
            let Some(line) = line else {
                return Ok(None);
            };
            if let Some(op) = self.begin(&line)? {
                return Ok(Some(op));
            }
        }
    }

    /// Parses a line: an operation, or the beginning of a message.
    fn begin(&mut self, line: &[u8]) -> Result<Option<Op>, Malformed> {
        let line = String::from_utf8_lossy(line);
        let line = line.trim_end_matches(['\r', '\n']);
        let (verb, rest) = line.split_once([' ', '\t']).unwrap_or((line, ""));
        let op = match verb {
            "MSG" | "HMSG" => {
                self.body = Some(message(rest, verb == "HMSG")?);
                return Ok(None);
            }
            "PING" => Op::Ping,
            "PONG" => Op::Pong,
            "-ERR" => Op::Error(rest.trim().trim_matches('\'').to_owned()),
            "INFO" => Op::Info(rest.to_owned()),
            "+OK" => Op::Ok,
            _ => return Err(Malformed("a verb that is not known")),
        };
        Ok(Some(op))
    }
}

/// Parses the first line of a message: subject, number of the subscription, perhaps a reply
/// subject, sizes.
fn message(line: &str, has_headers: bool) -> Result<Body, Malformed> {
    let wrong = Malformed("the first line of a message");
    let (mut fields, mut count) = ([""; 5], 0);
    for field in line.split_ascii_whitespace() {
        *fields.get_mut(count).ok_or(wrong)? = field;
        count += 1;
    }
    let mut number = || -> Result<usize, Malformed> {
        count = count.checked_sub(1).ok_or(wrong)?;
        fields[count].parse().map_err(|_| wrong)
    };
    let total = number()?;
    let headers_left = if has_headers { number()? } else { 0 };
    let payload_left = total.checked_sub(headers_left).ok_or(wrong)?;
    let (subject, sid, reply) = match fields[..count] {
        [subject, sid] => (subject, sid, None),
        [subject, sid, reply] => (subject, sid, Some(reply.to_owned())),
        _ => return Err(wrong),
    };
    Ok(Body {
        delivery: Delivery {
            subject: subject.to_owned(),
            sid: sid.parse().map_err(|_| wrong)?,
            reply,
            ..Delivery::default()
        },
        headers: Vec::new(),
        headers_left,
        payload_left,
        end_left: 2,
    })
}

impl Body {
    /// Takes bytes of the message. Returns whether the message is complete.
    fn take(&mut self, input: &mut &[u8], payload_bytes_max: usize) -> Result<bool, Malformed> {
        let headers = take_up_to(&mut self.headers_left, input);
        keep(&mut self.headers, headers, HEADER_BYTES_KEPT);
        if self.headers_left > 0 {
            return Ok(false);
        }
        let payload = take_up_to(&mut self.payload_left, input);
        keep(&mut self.delivery.payload, payload, payload_bytes_max + 1);
        if self.payload_left > 0 {
            return Ok(false);
        }
        let end = take_up_to(&mut self.end_left, input);
        if !b"\r\n".ends_with(end) && !b"\r\n".starts_with(end) {
            return Err(Malformed("a message that is longer than it says"));
        }
        Ok(self.end_left == 0)
    }

    fn into_delivery(self) -> Delivery {
        if self.headers.is_empty() {
            return self.delivery;
        }
        let headers = String::from_utf8_lossy(&self.headers);
        let reply = self.delivery.reply.as_deref();
        let is_stored = reply.and_then(AckSubject::parse).is_some();
        // A publisher chooses the headers of a stored message, also such a first line.
        let first = headers.lines().next().filter(|_| !is_stored);
        let status = first.and_then(|line| {
            let rest = line.strip_prefix("NATS/1.0 ")?;
            rest.split_ascii_whitespace().next()?.parse().ok()
        });
        if status.is_none() {
            let is_deletion = self.delivery.payload.is_empty() && are_of_deletion(&headers);
            return Delivery {
                is_deletion,
                ..self.delivery
            };
        }
        let value = |name| {
            let value = headers.lines().find_map(|line| line.strip_prefix(name));
            value.map(str::trim)
        };
        Delivery {
            status,
            last_consumer: value(LAST_CONSUMER).and_then(|last| last.parse().ok()),
            stalled: value(STALLED).map(str::to_owned),
            ..self.delivery
        }
    }
}

/// The content of a JetStream message's reply subject.
///
/// Two forms are in use (NATS ADR-15): `$JS.ACK.<stream>.<consumer>.<deliveries>.<stream seq>.
/// <consumer seq>.<time>.<pending>`, nine tokens, and the same after `<domain>.<account hash>` and,
/// in most servers, before a random token: eleven or more. The crate's own parser refuses eleven.
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
    /// Returns `None` for any other subject.
    pub(super) fn parse(reply: &str) -> Option<Self> {
        // Domain, account; stream, consumer, deliveries; the four numbers.
        let (mut tokens, mut count) = ([""; 9], 0);
        for token in reply.strip_prefix("$JS.ACK.")?.split('.') {
            if let Some(place) = tokens.get_mut(count) {
                *place = token;
            }
            count += 1;
        }
        let first = match count {
            7 => 3,
            9.. => 5,
            _ => return None,
        };
        let number = |at: usize| tokens[first + at].parse().ok();
        Some(Self {
            stream_sequence: number(0)?,
            consumer_sequence: number(1)?,
            stored_unix_ns: number(2)?,
            pending: number(3)?,
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

fn keep(kept: &mut Vec<u8>, piece: &[u8], bytes_max: usize) {
    let room = bytes_max.saturating_sub(kept.len());
    kept.extend_from_slice(&piece[..piece.len().min(room)]);
}

/// The longest version to show, characters.
const VERSION_CHARS_MAX: usize = 40;

/// The server's first line, sent before TLS. A field that is missing, `null` or of another type is
/// empty, and says nothing about the other fields.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Info {
    /// The server's name for itself.
    #[serde(deserialize_with = "or_empty")]
    pub(super) server_id: String,
    #[serde(deserialize_with = "or_empty")]
    version: String,
    /// The name of the cluster, if the server is part of a cluster or may become so.
    #[serde(deserialize_with = "or_empty")]
    cluster: String,
    /// The text to sign for a log-in with a key.
    #[serde(deserialize_with = "or_empty")]
    pub(super) nonce: String,
    #[serde(deserialize_with = "or_empty")]
    pub(super) tls_required: bool,
    #[serde(deserialize_with = "or_empty")]
    max_payload: Option<i64>,
    /// The addresses of the other servers of the cluster.
    #[serde(deserialize_with = "or_empty")]
    pub(super) connect_urls: Vec<String>,
    /// Whether the server is about to stop: it is in lame duck mode, and takes no more connections.
    #[serde(deserialize_with = "or_empty")]
    pub(super) ldm: bool,
}

/// Reads a field, or returns the empty value if the field is of another type: `tls_required` must count whatever
/// the other fields are, or a password would leave without TLS.
fn or_empty<'de, D: Deserializer<'de>, T: Default + DeserializeOwned>(
    field: D,
) -> Result<T, D::Error> {
    let value = sonic_rs::Value::deserialize(field)?;
    Ok(sonic_rs::from_value(&value).unwrap_or_default())
}

impl Info {
    /// # Errors
    /// The line is not JSON, or nested too deeply.
    pub(super) fn read(line: &str) -> Result<Self, JsonError> {
        let json = line.trim_start_matches("INFO ");
        json::read(json.as_bytes())?.parse()
    }

    /// Whether to speak TLS with this server.
    pub(super) fn is_tls(&self, endpoint: &Endpoint, settings: &NatsSettings) -> bool {
        endpoint.tls || settings.tls.is_demanded() || self.tls_required
    }

    /// The largest message that the server takes, bytes.
    pub(super) fn max_payload(&self) -> usize {
        let bytes = self
            .max_payload
            .and_then(|bytes| usize::try_from(bytes).ok());
        bytes.unwrap_or(usize::MAX)
    }

    /// The version of the server, to show.
    pub(super) fn version(&self) -> String {
        self.version.chars().take(VERSION_CHARS_MAX).collect()
    }

    pub(super) fn is_clustered(&self) -> bool {
        !self.cluster.is_empty()
    }
}

#[cfg(test)]
mod tests;
