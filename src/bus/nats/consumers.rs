//! Consumers: made if missing, used unchanged if present; the durable consumer of a subject on the server, and the log
//! lines about it.

use std::time::Duration;

use nats::jetstream::{ConsumerInfo, ReplayPolicy};

use super::acks::BatchedAcks;
use super::api::{ApiError, ConsumerState, Fetched, JetStream, request_failed};
use super::consumer::{AckPolicy, Consumer, Plan, Start};
use super::consumer_limits::ConsumerLimits;
use super::error::NatsError;
use super::jetstream_connection::JetStreamConnection;
use super::protocol::{INBOX_PREFIX, inbox};
use super::refusals::Refusal;
use super::settings::SubscriptionSpec;

/// The limits of a consumer: messages in flight without an acknowledgement, and how long the server keeps an ephemeral consumer
/// without a listener.
pub(super) const LIMITS: ConsumerLimits = ConsumerLimits {
    pending_max: 512,
    idle_max_ms: 10_000,
};
/// The limit on deliveries of a message. Without a limit, a message that crashes the process would crash it again after
/// each restart, for as long as the stream keeps the message.
const DELIVERIES_MAX: u64 = 5;

/// A subject, its stream, and the durable consumer of the subject.
#[derive(Clone)]
pub(super) struct DurableTarget {
    pub(super) stream: String,
    pub(super) subject: String,
    pub(super) durable: String,
}

/// A consumer delivering to this process.
pub(super) struct Attached {
    pub(super) consumer: Consumer,
    /// The last stream sequence delivered, to any client.
    pub(super) delivered: u64,
    /// Messages not delivered yet.
    pub(super) pending: u64,
    /// Messages delivered and not acknowledged.
    pub(super) ack_pending: u64,
    /// Acknowledgements to send for messages handed over.
    pub(super) acks: BatchedAcks,
}

/// The state of a durable consumer on the server.
pub(super) enum Durable {
    /// No consumer has this name.
    Missing,
    /// A push consumer of the right subject without a listener.
    Free(Box<ConsumerState>),
    /// Another client listens. The server accepts several listeners, but each would get every message and acknowledge
    /// for the others, so weirgate keeps away.
    Taken,
    /// An unsuitable consumer.
    Unusable(NotUsed),
}

/// The outcome of [`JetStreamConnection::join`].
pub(super) enum Joined {
    Attached(Box<Attached>),
    NotUsed(NotUsed),
}

impl JetStreamConnection {
    /// The last message of the subject; `None` if there is none.
    pub(super) fn last_message(
        &mut self,
        spec: &DurableTarget,
    ) -> Result<Option<Fetched>, NatsError> {
        self.last(&spec.stream, &spec.subject)
            .map_err(|e| request_failed(format!("give the last message of {}", spec.subject), e))
    }

    /// Subscribes to an existing durable consumer without a listener.
    ///
    /// Two processes can find the consumer free in the same moment. If the deliver subject is an inbox, made up by a
    /// client, the consumer is moved to an inbox of this process. The server refuses to move a consumer with a
    /// listener, and a consumer has a single deliver subject, so one process gets the consumer and the other an error.
    /// The next client finds the new subject in the consumer's information. A deliver subject chosen by somebody stays
    /// unchanged.
    ///
    /// `info` is from before the subscription. Without a listener nothing was delivered since, so every message after
    /// `info.delivered` arrives here. The consumer is not used if another client was quicker, or if this user may not
    /// subscribe to the deliver subject.
    pub(super) fn join(
        &mut self,
        spec: &DurableTarget,
        info: &ConsumerInfo,
    ) -> Result<Joined, NatsError> {
        let failed = |error| request_failed(format!("resume the consumer {}", spec.durable), error);
        let theirs = info.config.deliver_subject.clone().unwrap_or_default();
        let attached = |consumer| Attached {
            consumer,
            delivered: info.delivered.stream_seq,
            pending: info.num_pending,
            ack_pending: info.num_ack_pending as u64,
            acks: BatchedAcks::new(info.config.max_ack_pending, info.config.ack_wait),
        };
        if theirs.starts_with(INBOX_PREFIX) {
            let ours = self.listen_at(spec, info, inbox());
            let ours = ours.map_err(failed)?;
            match self.set_deliver_subject(&spec.stream, &spec.durable, &ours.deliver_subject) {
                Ok(()) => return Ok(Joined::Attached(Box::new(attached(ours)))),
                Err(error) => {
                    self.leave_consumer(ours);
                    match error {
                        error if error.consumer_exists() => {
                            return Ok(Joined::NotUsed(NotUsed::Taken));
                        }
                        ApiError::Lost => return Err(NatsError::Lost),
                        // Perhaps this user may not change consumers. Joins without the move.
                        error => tracing::debug!(%error, "a consumer was not moved to our inbox"),
                    }
                }
            }
        }
        let refusal = Refusal::Subscription(theirs.clone());
        self.refusals.forget(&refusal);
        let consumer = self.listen_at(spec, info, theirs).map_err(failed)?;
        match self.refusals.has(&refusal) {
            true => {
                self.leave_consumer(consumer);
                Ok(Joined::NotUsed(NotUsed::NotPermitted))
            }
            false => Ok(Joined::Attached(Box::new(attached(consumer)))),
        }
    }

    /// Listens to the durable consumer at this deliver subject.
    fn listen_at(
        &mut self,
        spec: &DurableTarget,
        info: &ConsumerInfo,
        deliver_subject: String,
    ) -> Result<Consumer, ApiError> {
        let (sid, delivered) = (self.next_sid(), info.delivered.stream_seq);
        let found = Consumer::found(&spec.stream, &info.name, sid, deliver_subject, delivered);
        let mut consumer = found;
        match self.listen(&mut consumer, info.config.deliver_group.as_deref()) {
            Ok(()) => Ok(consumer),
            Err(error) => {
                self.leave_consumer(consumer);
                Err(error)
            }
        }
    }

    /// Makes a consumer that starts at stream sequence `start`; without `durable` it is ephemeral. Returns `Ok(None)`
    /// if another client made a consumer of this name meanwhile.
    pub(super) fn make_consumer(
        &mut self,
        spec: &DurableTarget,
        durable: Option<&str>,
        start: u64,
    ) -> Result<Option<Attached>, NatsError> {
        let mut plan = Plan {
            start: Start::Sequence(start),
            filter: Some(&spec.subject),
            durable,
            acks: AckPolicy::Explicit,
            limits: LIMITS,
            deliveries_max: Some(DELIVERIES_MAX),
            beats: false,
            has_flow_control: false,
            is_in_memory: false,
        };
        let mut consumer = Consumer::new(&spec.stream, self.next_sid(), inbox(), plan.start);
        if durable.is_some() {
            consumer = consumer.durable();
        }
        // First the subscription: without a listener another process would take the new consumer over.
        // `None`: the consumer has no group.
        consumer.listen(None, self.connection.out());
        let made = loop {
            let request = plan.request(&spec.stream, Some(&consumer.deliver_subject));
            let answer = self.request(&request.subject, request.body.as_bytes());
            match answer.and_then(|answer| consumer.made(&answer)) {
                // These limits were asked for: the one that the server refuses is halved, and the request repeated.
                Err(error) if plan.limits.shrink(plan.limits, &error) => {}
                made => break made,
            }
        };
        match made {
            Ok(()) => Ok(Some(Attached {
                delivered: start.saturating_sub(1),
                pending: consumer.answer().map_or(0, |made| made.waiting),
                ack_pending: 0,
                // The plan asks for no time to acknowledge, so the server's default applies (0).
                acks: BatchedAcks::new(plan.limits.pending_max as i64, Duration::ZERO),
                consumer,
            })),
            Err(error) => {
                self.leave_consumer(consumer);
                if error.consumer_exists() {
                    return Ok(None);
                }
                let name = durable.unwrap_or("without a name");
                let action = format!("make a consumer {name} on {}", spec.stream);
                Err(request_failed(action, error))
            }
        }
    }
}

/// Asks the server about a durable consumer of a stream whose last sequence is `last_sequence`.
pub(super) fn find_durable(
    api: &mut impl JetStream,
    spec: &DurableTarget,
    last_sequence: u64,
) -> Result<Durable, ApiError> {
    durable_of(
        api.consumer(&spec.stream, &spec.durable),
        spec,
        Some(last_sequence),
    )
}

/// Judges the answer about a durable consumer. Without the last sequence of the stream, a consumer whose position is
/// beyond the end of the stream counts as free.
pub(super) fn durable_of(
    answer: Result<ConsumerState, ApiError>,
    spec: &DurableTarget,
    last_sequence: Option<u64>,
) -> Result<Durable, ApiError> {
    let state = match answer {
        Ok(state) => state,
        Err(error) if error.consumer_is_missing() => return Ok(Durable::Missing),
        Err(ApiError::Unreadable(_)) => {
            return Ok(Durable::Unusable(NotUsed::Unreadable));
        }
        Err(error) => return Err(error),
    };
    let info = &state.info;
    Ok(if info.config.deliver_subject.is_none() {
        Durable::Unusable(NotUsed::Pull)
    } else if info.config.filter_subject != spec.subject {
        Durable::Unusable(NotUsed::OtherSubject)
    } else if info.config.headers_only {
        Durable::Unusable(NotUsed::HeadersOnly)
    } else if info.config.replay_policy == ReplayPolicy::Original {
        Durable::Unusable(NotUsed::OriginalPace)
    } else if state.is_paused {
        Durable::Unusable(NotUsed::Paused)
    } else if info.push_bound {
        Durable::Taken
    } else if last_sequence.is_some_and(|last| info.delivered.stream_seq > last) {
        Durable::Unusable(NotUsed::BeyondTheEnd)
    } else {
        Durable::Free(Box::new(state))
    })
}

/// A state of stream and durable consumer, for the log.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum DurableState {
    /// There is no stream to relay from.
    NoStream,
    Made,
    Resumed,
    NotUsed(NotUsed),
}

/// Why weirgate does not use a durable consumer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NotUsed {
    #[error("another client is bound to it")]
    Taken,
    #[error("its configuration cannot be read")]
    Unreadable,
    #[error("it is a pull consumer")]
    Pull,
    #[error("it filters another subject")]
    OtherSubject,
    #[error("it delivers headers only")]
    HeadersOnly,
    #[error("it delivers at the pace of the publisher (replay_policy: original)")]
    OriginalPace,
    #[error("it is paused (pause_until)")]
    Paused,
    /// The stream is older than the consumer: the server has lost the newest messages (a power failure, a backup), and
    /// gives their numbers again.
    #[error("its position is after the last message of the stream, which has lost messages")]
    BeyondTheEnd,
    /// As [`Self::BeyondTheEnd`], and the number at the consumer's position was given again since.
    #[error(
        "the message at its position was stored after it was delivered: the stream has lost messages"
    )]
    OtherMessage,
    #[error("this user may not subscribe to the subject that it delivers to")]
    NotPermitted,
}

impl DurableState {
    pub(super) fn log(self, spec: &SubscriptionSpec, target: &DurableTarget) {
        let (consumer, stream) = (&target.durable, &target.stream);
        match self {
            Self::NoStream => tracing::warn!(
                subject = spec.subject,
                stream = spec.stream,
                "no stream holds this subject; it is relayed as soon as one does"
            ),
            Self::Made => tracing::info!(consumer, stream, "made the missing durable consumer"),
            Self::Resumed => tracing::info!(consumer, stream, "resumed the durable consumer"),
            Self::NotUsed(why) => tracing::warn!(
                consumer,
                stream,
                %why,
                "the durable consumer cannot be read from; relaying from an ephemeral one until it \
                 can. Stop the other client, delete the consumer, or run with --ephemeral"
            ),
        }
    }
}
