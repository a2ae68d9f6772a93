//! The stream and the consumer of `weirgate levels`, and acknowledgements in groups.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::nats::{Nats, append_publish, new_inbox};
use crate::fault::Fault;

/// The stream of weirgate for `market.flow`.
const STREAM: &str = "MARKET_DATA";
/// The number of the subscription to the messages of the consumer.
pub(super) const FEED: u64 = 2;
/// The limit on messages in flight without an acknowledgement, as of weirgate's consumers.
const ACK_PENDING_MAX: u64 = 512;
/// The limit on deliveries of a message, as of weirgate's consumers.
const DELIVERIES_MAX: u64 = 5;
/// How long the server keeps a consumer without a listener, nanoseconds.
const IDLE_MAX_NS: u64 = 10_000_000_000;
/// A day, nanoseconds.
const AGE_MAX_NS: u64 = 86_400_000_000_000;
/// The error of a stream with this name and other settings.
const STREAM_IS_THERE: u64 = 10_058;
/// The limit on acknowledgements sent together, as of weirgate.
const OWED_MAX: usize = 64;
/// How long an acknowledgement waits for others, as in weirgate.
pub(super) const ACK_WAIT: Duration = Duration::from_millis(200);

/// Makes the stream if missing, and an unnamed push consumer from the next message on; subscribes to the messages.
pub(super) fn consume(nats: &mut Nats, subject: &str) -> Result<(), Fault> {
    let subjects = match subject.starts_with("market.") {
        true => json!(["market.*", "market.*.*"]),
        false => json!([subject]),
    };
    let stream = json!({
        "name": STREAM, "subjects": subjects, "retention": "limits", "storage": "file", "discard": "old",
        "max_consumers": -1, "max_msgs": -1, "max_bytes": -1, "max_age": AGE_MAX_NS, "num_replicas": 1,
    });
    let made = nats.request(&format!("$JS.API.STREAM.CREATE.{STREAM}"), &stream)?;
    if made["error"]["err_code"] != STREAM_IS_THERE {
        check("make the stream", &made)?;
    }
    let inbox = new_inbox();
    // First the subscription: without a listener the server may remove the consumer.
    nats.subscribe(&inbox, FEED)?;
    let consumer = json!({
        "stream_name": STREAM,
        "config": {
            "deliver_subject": inbox, "deliver_policy": "new", "ack_policy": "explicit", "replay_policy": "instant",
            "filter_subject": subject, "max_ack_pending": ACK_PENDING_MAX, "max_deliver": DELIVERIES_MAX,
            "inactive_threshold": IDLE_MAX_NS,
        },
    });
    let made = nats.request(&format!("$JS.API.CONSUMER.CREATE.{STREAM}"), &consumer)?;
    check("make a consumer", &made)
}

fn check(what: &str, answer: &Value) -> Result<(), Fault> {
    match &answer["error"] {
        Value::Null if answer.is_object() => Ok(()),
        error => Err(Fault::Bus(format!("{what}: {error}"))),
    }
}

/// The acknowledgements to send, several at a time.
#[derive(Default)]
pub(super) struct Acks {
    /// The operations.
    out: Vec<u8>,
    count: usize,
    /// Time of the first waiting acknowledgement.
    since: Option<Instant>,
}

impl Acks {
    /// Adds the acknowledgement for a message with this reply subject.
    pub(super) fn add(&mut self, reply: &[u8]) {
        append_publish(&mut self.out, reply, b"");
        self.count += 1;
    }

    /// Writes the acknowledgements if many wait, or if the first has waited long.
    pub(super) fn send_due(&mut self, nats: &mut Nats) -> std::io::Result<()> {
        if self.count == 0 {
            return Ok(());
        }
        let now = Instant::now();
        let since = *self.since.get_or_insert(now);
        if self.count < OWED_MAX && now.duration_since(since) < ACK_WAIT {
            return Ok(());
        }
        nats.write(&self.out)?;
        self.out.clear();
        (self.count, self.since) = (0, None);
        Ok(())
    }
}
