//! A consumer of a JetStream stream on a connection, for every reader of streams: the request that makes it, the answer,
//! the numbers of its deliveries, its heartbeats, and its deletion. Pure.
//!
//! JetStream puts a consumer on any server of the stream, also on one that catches up after a restart. Such a server
//! has the stream only up to an older message, and a consumer that shall begin after that begins at the end of what the
//! server has. So what a consumer says of the end of the stream counts only if its server has what the leader has
//! ([`Consumer::is_well_placed`]), and only the leader can say that a message is gone.

use std::time::Duration;

use super::api::{ApiError, ApiRequest, messages_of_consumer};
use super::consumer_limits::ConsumerLimits;
use super::needs::Action;
use super::protocol;
use super::stream_info::{StreamInfo, read_answer, rfc_3339};

/// The interval of the heartbeats of a consumer without messages.
pub(super) const HEARTBEAT_MS: u64 = 500;
/// Within this time, three heartbeats, no message comes and goes unseen: a consumer delivers at once what its stream
/// has. So if nothing of a mirror was unread at most this long ago, a number that is missing since then is one that the
/// mirror leaves out.
pub(super) const UNSEEN_MAX: Duration = Duration::from_millis(3 * HEARTBEAT_MS);
const MS_NS: u64 = 1_000_000;

/// The first message of a consumer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Start {
    Sequence(u64),
    /// The first message stored since a time, Unix nanoseconds.
    Time(u64),
    /// The last message of each subject.
    LastPerSubject,
}

/// Which messages are acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AckPolicy {
    /// None, for a user that may not: the server does not count the messages on their way.
    None,
    /// Some, each for all messages before it.
    All,
    /// Each message by itself.
    Explicit,
}

/// The settings of a consumer to be made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan<'a> {
    pub(super) start: Start,
    /// The subject or pattern; `None`: all messages.
    pub(super) filter: Option<&'a str>,
    /// The name of a durable consumer; `None`: the server deletes the consumer once nobody listens.
    pub(super) durable: Option<&'a str>,
    pub(super) acks: AckPolicy,
    pub(super) limits: ConsumerLimits,
    /// The limit on deliveries of a message.
    pub(super) deliveries_max: Option<u64>,
    /// Whether the consumer sends heartbeats.
    pub(super) beats: bool,
    /// Whether the server bounds the bytes on their way, too: large messages would fill its output buffer for weirgate.
    pub(super) has_flow_control: bool,
    /// Whether the consumer is kept in the memory of one server.
    pub(super) is_in_memory: bool,
}

impl Plan<'_> {
    /// The request for the consumer. Without a deliver subject, messages come by [`Consumer::pull`].
    pub(super) fn request(&self, stream: &str, deliver_subject: Option<&str>) -> ApiRequest {
        let ack_policy = match self.acks {
            AckPolicy::None => "none",
            AckPolicy::All => "all",
            AckPolicy::Explicit => "explicit",
        };
        let mut config = sonic_rs::json!({
            "ack_policy": ack_policy,
            "replay_policy": "instant",
        });
        if let Some(deliver_subject) = deliver_subject {
            config["deliver_subject"] = deliver_subject.into();
        }
        if self.acks != AckPolicy::None {
            config["max_ack_pending"] = self.limits.pending_max.into();
        }
        match self.start {
            Start::Sequence(sequence) => {
                config["deliver_policy"] = "by_start_sequence".into();
                // The first sequence of a stream is 1.
                config["opt_start_seq"] = sequence.max(1).into();
            }
            Start::Time(unix_ns) => {
                config["deliver_policy"] = "by_start_time".into();
                config["opt_start_time"] = rfc_3339(unix_ns).as_str().into();
            }
            Start::LastPerSubject => config["deliver_policy"] = "last_per_subject".into(),
        }
        if let Some(filter) = self.filter {
            config["filter_subject"] = filter.into();
        }
        if let Some(deliveries_max) = self.deliveries_max {
            config["max_deliver"] = deliveries_max.into();
        }
        if self.beats {
            config["idle_heartbeat"] = (HEARTBEAT_MS * MS_NS).into();
            config["flow_control"] = self.has_flow_control.into();
        }
        if self.is_in_memory {
            config["mem_storage"] = true.into();
            config["num_replicas"] = 1.into();
        }
        let subject = match self.durable {
            Some(durable) => {
                config["durable_name"] = durable.into();
                Action::CreateDurable.subject(stream, durable)
            }
            None => {
                config["inactive_threshold"] = (self.limits.idle_max_ms * MS_NS).into();
                Action::CreateConsumer.subject_about(stream)
            }
        };
        let body = sonic_rs::json!({ "stream_name": stream, "config": config });
        ApiRequest {
            subject,
            body: body.to_string(),
        }
    }
}

/// A consumer that was asked for, or was found.
#[derive(Debug)]
pub(super) struct Consumer {
    stream: String,
    /// The number of the subscription to its deliveries.
    pub(super) sid: u64,
    pub(super) deliver_subject: String,
    start: Start,
    /// Whether the server keeps it for the next reader.
    is_durable: bool,
    state: Phase,
}

#[derive(Debug)]
enum Phase {
    /// The server has not answered.
    Asked,
    /// The server has not answered, and the subscription to the deliveries is there already: another reader that finds a
    /// durable consumer in this moment sees that somebody listens.
    AskedAndListens,
    /// The server has made the consumer; nobody listens.
    Made(Made),
    /// It delivers. The number of the last delivery, and the number of heartbeats since.
    Delivers {
        made: Made,
        sequence: u64,
        idle_beats: u32,
    },
}

/// The words of status 409 for a request for too many messages; the most follows them. A server says it in the answer to the
/// request for the consumer, too, but its settings may have changed since.
const BATCH_TOO_LARGE: &str = "Exceeded MaxRequestBatch of";

/// [`Made::begins`] if the server does not say it: above all numbers, so never too early.
const NOT_SAID: u64 = u64::MAX;

/// The server's answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Made {
    pub(super) name: Option<String>,
    /// The server of the consumer; `None` without a cluster.
    pub(super) server: Option<String>,
    /// The number of the first message that it may deliver, as far as its server has the stream; [`NOT_SAID`] if the
    /// answer does not have it.
    pub(super) begins: u64,
    /// The number of messages that it has to deliver as soon as somebody listens.
    pub(super) waiting: u64,
    /// The most messages of a request to it ([`Consumer::pull`]); `None`: any number.
    batch_max: Option<u64>,
}

impl Made {
    /// Reads the answer to the request for a consumer.
    ///
    /// # Errors
    /// JetStream refuses, or the answer cannot be read.
    pub(super) fn read(answer: &[u8]) -> Result<Self, ApiError> {
        let answer = read_answer(answer)?;
        let before = answer.number(&["delivered", "stream_seq"]);
        Ok(Self {
            name: answer.text(&["name"]),
            server: answer.text(&["cluster", "leader"]),
            begins: before.map_or(NOT_SAID, |before| before.saturating_add(1)),
            waiting: messages_of_consumer(answer),
            batch_max: answer
                .number(&["config", "max_request_batch"])
                .filter(|max| *max > 0),
        })
    }
}

/// A heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Beat {
    /// The server has delivered more than has arrived.
    Missing,
    /// The number of heartbeats since the last delivery.
    Idle(u32),
}

impl Consumer {
    /// A consumer that is asked for with [`Plan::request`].
    pub(super) fn new(stream: &str, sid: u64, deliver_subject: String, start: Start) -> Self {
        Self {
            stream: stream.to_owned(),
            sid,
            deliver_subject,
            start,
            is_durable: false,
            state: Phase::Asked,
        }
    }

    /// Makes the consumer a durable one.
    pub(super) fn durable(self) -> Self {
        let is_durable = true;
        Self { is_durable, ..self }
    }

    /// A durable consumer that was found, of this name, and that goes on after the message `delivered`.
    pub(super) fn found(
        stream: &str,
        name: &str,
        sid: u64,
        deliver_subject: String,
        delivered: u64,
    ) -> Self {
        let begins = delivered.saturating_add(1);
        let start = Start::Sequence(begins);
        let made = Made {
            name: Some(name.to_owned()),
            begins,
            ..Made::default()
        };
        Self {
            state: Phase::Made(made),
            ..Self::new(stream, sid, deliver_subject, start).durable()
        }
    }

    /// Takes the answer to the request.
    ///
    /// # Errors
    /// JetStream refuses, or the answer cannot be read.
    pub(super) fn made(&mut self, answer: &[u8]) -> Result<(), ApiError> {
        let mut made = Made::read(answer)?;
        if let (NOT_SAID, Start::Sequence(sequence)) = (made.begins, self.start) {
            made.begins = sequence;
        }
        self.state = match self.state {
            Phase::AskedAndListens => Phase::Delivers {
                made,
                sequence: 0,
                idle_beats: 0,
            },
            _ => Phase::Made(made),
        };
        Ok(())
    }

    /// The server's answer, if there is one.
    pub(super) fn answer(&self) -> Option<&Made> {
        match &self.state {
            Phase::Asked | Phase::AskedAndListens => None,
            Phase::Made(made) | Phase::Delivers { made, .. } => Some(made),
        }
    }

    /// The name on the server, once it has answered.
    pub(super) fn name(&self) -> Option<&str> {
        self.answer()?.name.as_deref()
    }

    /// Whether the server of the consumer has what the leader has, by the word of the leader. A consumer that begins
    /// before its first message shows that its server lacks the messages between.
    pub(super) fn is_well_placed(&self, stream: &StreamInfo) -> bool {
        self.answer().is_some_and(|made| {
            let is_short = matches!(self.start, Start::Sequence(first) if made.begins < first);
            !is_short && stream.serves(made.server.as_deref())
        })
    }

    /// Subscribes to the deliveries, as a member of `group` if the consumer has one; before that the consumer sends
    /// nothing.
    pub(super) fn listen(&mut self, group: Option<&str>, out: &mut Vec<u8>) {
        self.state = match std::mem::replace(&mut self.state, Phase::Asked) {
            Phase::Asked => Phase::AskedAndListens,
            Phase::Made(made) => Phase::Delivers {
                made,
                sequence: 0,
                idle_beats: 0,
            },
            // It listens already.
            listens => {
                self.state = listens;
                return;
            }
        };
        // A subscription with a wildcard would not count as interest in the deliver subject, and the consumer would
        // send nothing.
        protocol::subscribe(out, &self.deliver_subject, group, self.sid);
    }

    /// The subject of [`Self::pull`], once the server has answered.
    pub(super) fn pull_subject(&self) -> Option<String> {
        Some(Action::NextMessages.subject(&self.stream, self.name()?))
    }

    /// Asks for the next messages, up to a number and as many as the server permits, which come to the deliver subject. Returns
    /// how many it asked for. A status ends the request when `timeout` is over. There is no limit on bytes: nats-server before
    /// 2.10 would lose the message that is over it, if the consumer is one of last messages.
    pub(super) fn pull(&self, messages_max: u64, timeout: Duration, out: &mut Vec<u8>) -> u64 {
        let (Some(subject), Some(made)) = (self.pull_subject(), self.answer()) else {
            return 0;
        };
        let messages_max = messages_max.min(made.batch_max.unwrap_or(u64::MAX));
        let expires = timeout.as_millis() as u64 * MS_NS;
        let body = sonic_rs::json!({ "batch": messages_max, "expires": expires }).to_string();
        protocol::publish(out, &subject, &self.deliver_subject, body.as_bytes());
        messages_max
    }

    /// Takes the words of a status in place of messages. Returns whether they permit a request for fewer messages than the last
    /// one.
    pub(super) fn is_permitted_less(&mut self, words: &str) -> bool {
        let (Phase::Made(made) | Phase::Delivers { made, .. }) = &mut self.state else {
            return false;
        };
        let most = words.strip_prefix(BATCH_TOO_LARGE);
        let most = most.and_then(|most| most.trim().parse().ok());
        let is_less = |most: &u64| (1..made.batch_max.unwrap_or(u64::MAX)).contains(most);
        let most = most.filter(is_less);
        made.batch_max = most.or(made.batch_max);
        most.is_some()
    }

    /// The number of the last delivery.
    pub(super) fn sequence(&self) -> u64 {
        match self.state {
            Phase::Delivers { sequence, .. } => sequence,
            Phase::Asked | Phase::AskedAndListens | Phase::Made(_) => 0,
        }
    }

    /// Counts the delivery with this number. Returns false if a delivery is missing before it: then nothing is counted.
    pub(super) fn count_delivery(&mut self, number: u64) -> bool {
        let Phase::Delivers {
            sequence,
            idle_beats,
            ..
        } = &mut self.state
        else {
            return false;
        };
        let is_next = number == *sequence + 1;
        if is_next {
            (*sequence, *idle_beats) = (number, 0);
        }
        is_next
    }

    /// Counts a heartbeat, which has the number of the last delivery.
    pub(super) fn count_heartbeat(&mut self, last: Option<u64>) -> Beat {
        match &mut self.state {
            Phase::Delivers { sequence, .. } if last.is_some_and(|last| last > *sequence) => {
                Beat::Missing
            }
            Phase::Delivers { idle_beats, .. } => {
                *idle_beats += 1;
                Beat::Idle(*idle_beats)
            }
            Phase::Asked | Phase::AskedAndListens | Phase::Made(_) => Beat::Idle(0),
        }
    }

    /// Ends the subscription, and asks the server to delete a consumer that is not durable; the answer goes to `nobody`.
    /// If this user may not ask, the server deletes the consumer by itself when nobody has listened for some seconds.
    pub(super) fn leave(self, nobody: &str, out: &mut Vec<u8>) {
        if let Phase::AskedAndListens | Phase::Delivers { .. } = self.state {
            protocol::unsubscribe(out, self.sid);
        }
        self.delete(nobody, out);
    }

    /// Asks the server to delete the consumer of a connection that has ended, if it is not durable.
    pub(super) fn delete(self, nobody: &str, out: &mut Vec<u8>) {
        if let Some(name) = self.name().filter(|_| !self.is_durable) {
            let subject = Action::DeleteConsumer.subject(&self.stream, name);
            protocol::publish(out, &subject, nobody, b"");
        }
    }
}
