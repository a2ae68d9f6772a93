//! A consumer of the stream on a connection: the reader's requests about the stream and for consumers, JetStream's
//! answers in JSON, and the acknowledgements. Pure.

use std::time::{Duration, Instant};

use chrono::{DateTime, SecondsFormat, Utc};

use super::{HEARTBEAT_MS, MS_NS, Step, StreamReader};
use crate::nats::api;
use crate::nats::api::{ApiError, messages_of_consumer, refusal};
use crate::nats::protocol;
use weirgate_core::StoredId;
use weirgate_wire::json;
use weirgate_wire::json::Json;

/// The pause before a question about the stream is asked again.
const AGAIN: Duration = Duration::from_secs(1);

impl StreamReader {
    /// The time of the next acknowledgement, or of the next question about the stream.
    pub(in super::super) fn work_due(&self) -> Option<Instant> {
        match &self.step {
            Step::Away | Step::Pause { .. } => None,
            Step::Look { again } => Some(*again),
            Step::Read(consumer) => {
                let check = consumer.check_due();
                Some(consumer.ack_due.map_or(check, |due| due.min(check)))
            }
        }
    }

    /// Handles the refusal of an answer to flow control.
    pub(in super::super) fn without_flow_control(&mut self, now: Instant, out: &mut Vec<u8>) {
        self.limits.without_flow_control();
        self.look(now, out);
    }

    /// Ends the consumer at a stop.
    pub(in super::super) fn stop(&mut self, out: &mut Vec<u8>) {
        self.leave_consumer(out);
        self.step = Step::Away;
    }

    /// Asks about the stream, if due. Returns whether a PING has to follow: [`Self::ponged`].
    pub(in super::super) fn check(&mut self, now: Instant, out: &mut Vec<u8>) -> bool {
        match &mut self.step {
            Step::Look { again } if now >= *again => {
                *again = now + AGAIN;
                // With the same number, so the first answer counts.
                self.send(&self.info_subject(), b"", out);
                false
            }
            Step::Read(consumer) if now >= consumer.check_due() => {
                let asks = consumer.checks(now);
                // Not again before the answer: on a slow line it may come later than the next question, and only the
                // answer to the last question counts.
                if asks {
                    self.request(&self.info_subject(), b"", out);
                }
                asks
            }
            _ => false,
        }
    }

    /// Looks at the stream later.
    pub(super) fn pause(&mut self, until: Instant, out: &mut Vec<u8>) {
        self.leave_consumer(out);
        self.step = Step::Pause { until };
    }

    /// Forgets the consumer, and asks the server to delete it, without an answer. If this user may not ask, the server
    /// deletes the consumer by itself when nobody has listened for some seconds.
    pub(super) fn leave_consumer(&mut self, out: &mut Vec<u8>) {
        if let Step::Read(consumer) = &self.step
            && consumer.is_listened_to
        {
            protocol::unsubscribe(out, consumer.sid);
        }
        if let Some(name) = self.made.take() {
            let subject = format!("$JS.API.CONSUMER.DELETE.{}.{name}", self.stream);
            protocol::publish(out, &subject, &format!("{}.answer.0", self.inbox), b"");
        }
    }

    /// Asks for the state of the stream.
    pub(super) fn look(&mut self, now: Instant, out: &mut Vec<u8>) {
        self.leave_consumer(out);
        self.ask_stream(now, out);
        self.step = Step::Look { again: now + AGAIN };
    }

    pub(super) fn ask_stream(&mut self, now: Instant, out: &mut Vec<u8>) {
        self.request(&self.info_subject(), b"", out);
        self.asked = Some(now);
    }

    fn info_subject(&self) -> String {
        format!("$JS.API.STREAM.INFO.{}", self.stream)
    }

    /// Subscribes to the deliveries of the consumer; without that it sends nothing.
    pub(super) fn listen(&mut self, out: &mut Vec<u8>) {
        if let Step::Read(consumer) = &mut self.step
            && !std::mem::replace(&mut consumer.is_listened_to, true)
        {
            let deliver = format!("{}.live.{}", self.inbox, consumer.sid);
            // A subscription with a wildcard would not count as interest in the deliver subject, and the consumer would
            // send nothing.
            protocol::subscribe(out, &deliver, None, consumer.sid);
        }
    }

    pub(super) fn request(&mut self, subject: &str, body: &[u8], out: &mut Vec<u8>) {
        self.last_request += 1;
        self.send(subject, body, out);
    }

    /// Sends a request with the number of the last one.
    fn send(&self, subject: &str, body: &[u8], out: &mut Vec<u8>) {
        let reply = format!("{}.answer.{}", self.inbox, self.last_request);
        protocol::publish(out, subject, &reply, body);
    }

    /// Asks for a consumer that begins at the last message, if that is expected as the first delivery (`expects`),
    /// otherwise after it, or with the messages since a time. Without an expected delivery nothing proves that the
    /// stream has not changed since the look: then the reader asks about the stream once more before it listens.
    pub(super) fn make_consumer(
        &mut self,
        expects: Option<StoredId>,
        now: Instant,
        out: &mut Vec<u8>,
    ) {
        self.last_sid += 1;
        let sid = self.last_sid;
        let deliver = format!("{}.live.{sid}", self.inbox);
        self.step = Step::Read(Consumer::new(sid, expects, now));
        if expects.is_some() {
            self.listen(out);
        }
        let since = rfc_3339(self.since_ns.unwrap_or(0));
        let from = self
            .last
            .map(|last| last.major + u64::from(expects.is_none()));
        let body = create(&self.stream, &deliver, from, &since, self.limits);
        let subject = format!("$JS.API.CONSUMER.CREATE.{}", self.stream);
        self.request(&subject, body.as_bytes(), out);
        self.asked = Some(now);
    }
}

/// After this number of heartbeats without a delivery, a message that the reader waits for counts as deleted.
const IDLE_BEATS_MAX: u32 = 3;
/// How often the reader asks about the stream while it reads a consumer.
const CHECK_INTERVAL: Duration = Duration::from_secs(3);
/// The number of heartbeats in five seconds, the time for an answer.
const UNANSWERED_BEATS_MAX: u32 = 10;
/// Messages are acknowledged together: when a fourth of the consumer's limit on unacknowledged messages is reached, or
/// after [`ACK_WAIT`].
pub(super) const ACKED_SHARE: u64 = 4;
pub(super) const ACK_WAIT: Duration = Duration::from_millis(100);
/// A consumer on a connection.
#[derive(Debug)]
pub(super) struct Consumer {
    pub(super) sid: u64,
    /// The number of messages that waited when the consumer was made, once the server has answered.
    pub(super) waiting: Option<u64>,
    /// The consumer is known to belong to the stream of the last look.
    pub(super) is_made: bool,
    pub(super) is_listened_to: bool,
    /// The first delivery has to be this message, which was handed over before.
    pub(super) expects: Option<StoredId>,
    /// The number of the last delivery.
    pub(super) sequence: u64,
    /// The number of heartbeats since the last delivery.
    pub(super) idle_beats: u32,
    /// When this reader last asked for the state of the stream.
    checked: Instant,
    /// Heartbeats since the server has taken that question; `None` once it is answered.
    pub(super) unanswered: Option<u32>,
    /// The reply subject of the newest message without an acknowledgement.
    pub(super) ack: Option<String>,
    /// The number of messages without an acknowledgement.
    pub(super) unacked: u64,
    /// When these messages have to be acknowledged.
    pub(super) ack_due: Option<Instant>,
}

impl Consumer {
    /// A consumer that was asked for, with the number of its subscription.
    pub(super) fn new(sid: u64, expects: Option<StoredId>, now: Instant) -> Self {
        Self {
            sid,
            waiting: None,
            is_made: false,
            is_listened_to: false,
            expects,
            sequence: 0,
            idle_beats: 0,
            checked: now,
            unanswered: None,
            ack: None,
            unacked: 0,
            ack_due: None,
        }
    }

    /// When the next question about the stream is due. On a server that is cut off from its cluster, a consumer still
    /// sends heartbeats, but gets no messages.
    pub(super) fn check_due(&self) -> Instant {
        self.checked + CHECK_INTERVAL
    }

    /// Notes a question about the stream, unless the last one is not answered.
    pub(super) fn checks(&mut self, now: Instant) -> bool {
        self.checked = now;
        let is_answered = self.is_made && self.unanswered.is_none();
        if is_answered {
            self.unanswered = Some(0);
        }
        is_answered
    }

    /// Notes that the server has taken the question: everything that it sent before has arrived.
    pub(super) fn is_asked(&mut self) {
        self.unanswered = self.unanswered.map(|_| 0);
    }

    /// Whether the stream has no leader: the consumer sends heartbeats, and nobody answers about the stream.
    pub(super) fn is_cut_off(&self) -> bool {
        self.unanswered
            .is_some_and(|beats| beats >= UNANSWERED_BEATS_MAX)
    }

    /// Takes a heartbeat with the number of the last delivery. Returns true if a delivery is missing, or the answer
    /// that the consumer was made. `waits`: the reader waits for a delivery.
    pub(super) fn misses(&mut self, last: Option<u64>, waits: bool) -> bool {
        self.idle_beats += 1;
        self.unanswered = self.unanswered.map(|beats| beats + 1);
        let waits = waits || self.expects.is_some() || !self.is_made;
        last.is_some_and(|last| last > self.sequence) || waits && self.idle_beats >= IDLE_BEATS_MAX
    }

    /// Notes a message to acknowledge; acknowledging the newest acknowledges all before it. The server stops at
    /// `pending_max` messages.
    pub(super) fn owe(&mut self, reply: String, pending_max: u64, now: Instant, out: &mut Vec<u8>) {
        self.ack = Some(reply);
        self.unacked += 1;
        self.ack_due.get_or_insert(now + ACK_WAIT);
        if self.unacked >= pending_max / ACKED_SHARE {
            self.acknowledge(out);
        }
    }

    pub(super) fn acknowledge(&mut self, out: &mut Vec<u8>) {
        if let Some(subject) = self.ack.take() {
            protocol::publish(out, &subject, "", b"");
        }
        (self.unacked, self.ack_due) = (0, None);
    }
}

const SECOND_NS: u64 = 1_000 * MS_NS;

/// The state of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct StreamInfo {
    /// The newest message that was ever stored; `None` for a stream without any so far.
    pub(super) head: Option<StoredId>,
    /// When the stream was made, Unix nanoseconds; 0 if unknown.
    pub(super) created_ns: u64,
    pub(super) retention: Retention,
}

/// How long a stream keeps a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Retention {
    /// Up to the limits of the stream.
    Limits,
    /// Until all consumers have acknowledged it; not at all without a consumer.
    Interest,
    /// Until one consumer has acknowledged it.
    WorkQueue,
}

/// Limits of a consumer. Servers, accounts and streams can have smaller ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    /// Messages without acknowledgement at which the server stops.
    pub(super) pending_max: u64,
    /// Milliseconds without a listener after which the server deletes the consumer.
    idle_max_ms: u64,
    /// Whether the server bounds the bytes on their way, too.
    has_flow_control: bool,
}

/// The largest limits.
impl Default for Limits {
    fn default() -> Self {
        Self {
            pending_max: 2_048,
            idle_max_ms: 5_000,
            has_flow_control: true,
        }
    }
}

impl Limits {
    /// Few enough messages of usual size to fit the server's output buffer for weirgate.
    const PENDING_WITHOUT_FLOW_CONTROL: u64 = 64;
    const PENDING_TOO_MANY: u64 = 10_121;
    const IDLE_TOO_LONG: u64 = 10_153;

    /// Halves the limit that the server refuses. Returns false if the error is another one, or nothing is left.
    pub(super) fn shrink(&mut self, error: &ApiError) -> bool {
        let limit = match error.code() {
            Some(Self::PENDING_TOO_MANY) => &mut self.pending_max,
            Some(Self::IDLE_TOO_LONG) => &mut self.idle_max_ms,
            _ => return false,
        };
        *limit /= 2;
        *limit > 0
    }

    /// Turns flow control off, for a user that may not answer it, and lowers the limit on messages.
    pub(super) fn without_flow_control(&mut self) {
        self.has_flow_control = false;
        self.pending_max = self.pending_max.min(Self::PENDING_WITHOUT_FLOW_CONTROL);
    }
}

impl StreamInfo {
    /// # Errors
    /// JetStream refuses, the answer cannot be read, or nobody leads the stream.
    pub(super) fn read(answer: &[u8]) -> Result<Self, ApiError> {
        let answer = open(answer)?;
        api::leader(answer)?;
        let time_ns = |path: &[&str]| answer.text(path).as_deref().and_then(unix_ns);
        let major = answer.number(&["state", "last_seq"]);
        let major = major.ok_or_else(|| ApiError::Unreadable("no state".to_owned()))?;
        let minor = time_ns(&["state", "last_ts"]).unwrap_or(0);
        let head = (major > 0).then_some(StoredId { major, minor });
        Ok(Self {
            head,
            created_ns: time_ns(&["created"]).unwrap_or(0),
            retention: match answer.text(&["config", "retention"]).as_deref() {
                Some("interest") => Retention::Interest,
                Some("workqueue") => Retention::WorkQueue,
                _ => Retention::Limits,
            },
        })
    }
}

/// Reads the answer to the request for a consumer: its name, and the number of messages delivered at once.
///
/// # Errors
/// JetStream refuses, or the answer cannot be read.
pub(super) fn created(answer: &[u8]) -> Result<(Option<String>, u64), ApiError> {
    let answer = open(answer)?;
    Ok((answer.text(&["name"]), messages_of_consumer(answer)))
}

/// The request for a consumer that begins at a sequence number, or with the messages of a time. Flow control bounds the
/// bytes on their way: large messages would fill the server's output buffer for weirgate.
pub(super) fn create(
    stream: &str,
    deliver_subject: &str,
    from: Option<u64>,
    since: &str,
    limits: Limits,
) -> String {
    let mut config = sonic_rs::json!({
        "deliver_subject": deliver_subject,
        "ack_policy": "all",
        "ack_wait": 30 * SECOND_NS,
        "max_ack_pending": limits.pending_max,
        "replay_policy": "instant",
        "inactive_threshold": limits.idle_max_ms * MS_NS,
        "idle_heartbeat": HEARTBEAT_MS * MS_NS,
        "flow_control": limits.has_flow_control,
        "mem_storage": true,
        "num_replicas": 1,
    });
    match from {
        Some(sequence) => {
            config["deliver_policy"] = sonic_rs::json!("by_start_sequence");
            config["opt_start_seq"] = sonic_rs::json!(sequence);
        }
        None => {
            config["deliver_policy"] = sonic_rs::json!("by_start_time");
            config["opt_start_time"] = sonic_rs::json!(since);
        }
    }
    sonic_rs::json!({ "stream_name": stream, "config": config }).to_string()
}

/// A time in the form of JetStream's API, from Unix nanoseconds.
pub(super) fn rfc_3339(unix_ns: u64) -> String {
    let time = DateTime::<Utc>::from_timestamp_nanos(i64::try_from(unix_ns).unwrap_or(i64::MAX));
    time.to_rfc3339_opts(SecondsFormat::Nanos, true)
}

/// Unix nanoseconds of a time in the form of JetStream's API.
fn unix_ns(text: &str) -> Option<u64> {
    let time = DateTime::parse_from_rfc3339(text).ok()?;
    u64::try_from(time.timestamp_nanos_opt()?).ok()
}

/// Opens an answer without an error.
///
/// # Errors
/// JetStream refuses, or the answer cannot be read.
fn open(answer: &[u8]) -> Result<Json<'_>, ApiError> {
    let answer = json::read(answer)?;
    refusal(answer).map_or(Ok(answer), Err)
}
