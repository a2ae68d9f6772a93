//! Streams and consumers: made when missing, taken as they are when present, and what is logged of that.

use std::time::Duration;

use nats::jetstream::{
    AckPolicy, ConsumerConfig, ConsumerInfo, DeliverPolicy, StreamConfig, StreamInfo,
};

use super::api::{Api, ApiError, Fetched};
use super::connection::Link;
use super::error::NatsError;
use super::position::{Acks, StreamState};
use super::refusals::Refusal;
use super::settings::{StreamSpec, SubscriptionSpec};

/// Messages that may be on their way to us without our acknowledgement. When many come,
/// acknowledgements leave every 5 ms, so this allows some 90,000 messages a second; it bounds what
/// the crate's unbounded channel can hold.
const ACK_PENDING_MAX: i64 = 512;
/// Deliveries of one message at most: a message whose headers the crate cannot read costs the
/// connection each time, and must not do so for as long as the stream keeps it.
const DELIVERIES_MAX: i64 = 5;
/// What clients put before a subject that they made up.
const INBOX_PREFIX: &str = "_INBOX.";
/// How long the server keeps an unnamed consumer that nobody listens to.
const EPHEMERAL_IDLE_MAX: Duration = Duration::from_secs(10);

/// A subject in its stream, and the durable that reads it.
#[derive(Clone)]
pub(super) struct Target {
    pub(super) stream: String,
    pub(super) subject: String,
    pub(super) durable: String,
}

/// A consumer that delivers to us.
pub(super) struct Standing {
    /// Subscription to the consumer's deliver subject.
    pub(super) messages: nats::Subscription,
    /// Its name on the server.
    pub(super) consumer: String,
    /// The subject that it delivers to.
    pub(super) deliver_subject: String,
    /// The last stream sequence that went out to whoever listened.
    pub(super) delivered: u64,
    /// Messages that it still has to deliver.
    pub(super) pending: u64,
    /// Messages that went out and were not acknowledged.
    pub(super) ack_pending: u64,
    /// What we owe for messages that were handed over.
    pub(super) acks: Acks,
}

/// What came of joining a durable consumer that was free.
pub(super) enum Joined {
    /// It delivers to us.
    Standing(Standing),
    /// Somebody was quicker.
    Taken,
    /// This user may not subscribe to the subject that it delivers to.
    NotPermitted,
}

/// What a durable consumer's name stands for on the server.
pub(super) enum Durable {
    /// Nothing: it can be made.
    Missing,
    /// A push consumer of our subject that nobody listens to.
    Free(Box<ConsumerInfo>),
    /// Somebody listens to it. The server lets several; each would get every message and
    /// acknowledge for the others, so we keep away.
    Taken,
    /// Something that we cannot read from, and why.
    Unusable(&'static str),
}

/// The JetStream side of one connection.
impl Link {
    /// Makes the stream if it is missing, and tells how it stands.
    pub(super) fn ensure_stream(&self, spec: &StreamSpec) -> Result<StreamState, NatsError> {
        let failed = |error| asked(format!("find or make the stream {}", spec.name), error);
        let info = match self.api.stream_info(&spec.name) {
            Ok(info) => info,
            Err(error) if error.stream_is_missing() => {
                let made = self.api.add_stream(&StreamConfig {
                    name: spec.name.clone(),
                    subjects: spec.subjects.clone(),
                    max_age: Duration::from_secs(spec.max_age_s),
                    ..StreamConfig::default()
                });
                if made.is_ok() {
                    tracing::info!(stream = spec.name, "made the missing stream");
                }
                made.map_err(failed)?
            }
            Err(error) => return Err(failed(error)),
        };
        Ok(state_of(&info))
    }

    /// The last message of the subject, if the stream has one.
    pub(super) fn last_message(&self, spec: &Target) -> Result<Option<Fetched>, NatsError> {
        self.api
            .last(&spec.stream, &spec.subject)
            .map_err(|e| asked(format!("give the last message of {}", spec.subject), e))
    }

    /// Subscribes to an existing durable that nobody listens to.
    ///
    /// Two processes can find it free in the same moment. Where its deliver subject is an inbox,
    /// which a client made up, it is moved to an inbox of ours: the server refuses to move a
    /// consumer that has a listener, and a consumer has one deliver subject, so one of the two has
    /// it and the other knows. The next client finds the subject in the consumer's information, as
    /// it would have found the old one. A deliver subject that somebody chose stays as it is.
    ///
    /// `info` is from before: nobody listened then, so nothing was delivered since, and all that
    /// comes after `info.delivered` comes to us.
    pub(super) fn join(&self, spec: &Target, info: &ConsumerInfo) -> Result<Joined, NatsError> {
        let failed = |error| asked(format!("resume the consumer {}", spec.durable), error);
        let theirs = info.config.deliver_subject.clone().unwrap_or_default();
        let group = info.config.deliver_group.as_deref();
        let subscribe =
            |subject: &str| self.subscribe(subject, group).map_err(|e| failed(e.into()));
        let standing = |deliver_subject: String, messages| Standing {
            messages,
            consumer: info.name.clone(),
            deliver_subject,
            delivered: info.delivered.stream_seq,
            pending: info.num_pending,
            ack_pending: info.num_ack_pending as u64,
            acks: Acks::new(info.config.max_ack_pending, info.config.ack_wait),
        };
        if theirs.starts_with(INBOX_PREFIX) {
            let ours = self.new_inbox();
            let messages = subscribe(&ours)?;
            match self.api.move_consumer(&spec.stream, &spec.durable, &ours) {
                Ok(()) => return Ok(Joined::Standing(standing(ours, messages))),
                Err(error) if error.consumer_exists() => return Ok(Joined::Taken),
                Err(ApiError::Lost) => return Err(NatsError::Lost),
                // This user may not change consumers: joined as it is.
                Err(error) => tracing::debug!(%error, "a consumer was not moved to our inbox"),
            }
        }
        let refusal = Refusal::Subscription(theirs.clone());
        self.api.refusals.forget(&refusal);
        let messages = subscribe(&theirs)?;
        // A refusal comes before the answer to whatever is asked next.
        if let Err(ApiError::Lost) = self.api.consumer_info(&spec.stream, &spec.durable) {
            return Err(NatsError::Lost);
        }
        match self.api.refusals.has(&refusal) {
            true => Ok(Joined::NotPermitted),
            false => Ok(Joined::Standing(standing(theirs, messages))),
        }
    }

    /// Makes a consumer that delivers from stream sequence `start` on; unnamed when `durable` is
    /// `None`. `Ok(None)`: somebody else made one of that name meanwhile.
    pub(super) fn make_consumer(
        &self,
        spec: &Target,
        durable: Option<&str>,
        start: u64,
    ) -> Result<Option<Standing>, NatsError> {
        let name = durable.unwrap_or("without a name");
        let failed = |error| asked(format!("make a consumer {name} on {}", spec.stream), error);
        let inbox = self.new_inbox();
        // First the subscription: a consumer without a listener may be removed, or deliver to none.
        let messages = self.subscribe(&inbox, None);
        let messages = messages.map_err(|e| failed(e.into()))?;
        let made = self.api.add_consumer(
            &spec.stream,
            &ConsumerConfig {
                deliver_subject: Some(inbox.clone()),
                durable_name: durable.map(str::to_owned),
                deliver_policy: DeliverPolicy::ByStartSeq,
                opt_start_seq: Some(start.max(1)),
                ack_policy: AckPolicy::Explicit,
                filter_subject: spec.subject.clone(),
                max_ack_pending: ACK_PENDING_MAX,
                max_deliver: DELIVERIES_MAX,
                inactive_threshold: match durable {
                    Some(_) => Duration::ZERO,
                    None => EPHEMERAL_IDLE_MAX,
                },
                ..ConsumerConfig::default()
            },
        );
        let info = match made {
            Ok(info) => info,
            Err(error) if error.consumer_exists() => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        Ok(Some(Standing {
            messages,
            consumer: info.name,
            deliver_subject: inbox,
            delivered: start.saturating_sub(1),
            pending: info.num_pending,
            ack_pending: 0,
            acks: Acks::new(ACK_PENDING_MAX, Duration::ZERO),
        }))
    }
}

/// The stream of a subject that is not ours to make, and how it stands. `None`: there is none.
pub(super) fn find_stream(
    api: &Api,
    spec: &SubscriptionSpec,
) -> Result<Option<(String, StreamState)>, ApiError> {
    let name = match &spec.stream {
        Some(name) => Some(name.clone()),
        None => api.stream_holding(&spec.subject)?,
    };
    let Some(name) = name else { return Ok(None) };
    match api.stream_info(&name) {
        Ok(info) => Ok(Some((name, state_of(&info)))),
        Err(error) if error.stream_is_missing() => Ok(None),
        Err(error) => Err(error),
    }
}

fn state_of(info: &StreamInfo) -> StreamState {
    StreamState {
        created_unix_ns: i64::try_from(info.created.unix_timestamp_nanos()).unwrap_or(0),
        last_sequence: info.state.last_seq,
    }
}

/// Looks a durable up.
pub(super) fn look_up(api: &Api, spec: &Target) -> Result<Durable, ApiError> {
    let info = match api.consumer_info(&spec.stream, &spec.durable) {
        Ok(info) => info,
        Err(error) if error.consumer_is_missing() => return Ok(Durable::Missing),
        Err(ApiError::Unreadable(_)) => {
            return Ok(Durable::Unusable("its configuration cannot be read"));
        }
        Err(error) => return Err(error),
    };
    Ok(if info.config.deliver_subject.is_none() {
        Durable::Unusable("it is a pull consumer")
    } else if info.config.filter_subject != spec.subject {
        Durable::Unusable("it filters another subject")
    } else if info.config.headers_only {
        Durable::Unusable("it delivers headers only")
    } else if info.push_bound {
        Durable::Taken
    } else {
        Durable::Free(Box::new(info))
    })
}

/// What JetStream answered instead of what was asked.
pub(super) fn asked(action: String, source: ApiError) -> NatsError {
    let is_of_all = source.is_of_all();
    match source {
        ApiError::Lost => NatsError::Lost,
        ApiError::NotPermitted(what) => NatsError::NotPermitted { what, is_of_all },
        source => NatsError::JetStream {
            action,
            reason: source.to_string(),
            is_of_all,
        },
    }
}

/// What can be told of a stream and a durable consumer.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Told {
    /// There is no stream to relay from.
    NoStream,
    Made,
    Resumed,
    /// Why it is not ours to read from.
    NotOurs(&'static str),
}

impl Told {
    /// Why a durable is left alone, when all that is wrong with it is that others use it.
    pub(super) const TAKEN: &'static str = "another client is bound to it";
    /// The same, when it delivers to a subject that is closed to us.
    pub(super) const NOT_PERMITTED: &'static str =
        "this user may not subscribe to the subject that it delivers to";

    /// Logs it.
    pub(super) fn log(self, spec: &SubscriptionSpec, target: &Target) {
        let (consumer, stream) = (&target.durable, &target.stream);
        match self {
            Self::NoStream => tracing::warn!(
                subject = spec.subject,
                stream = spec.stream,
                "no stream holds this subject; it is relayed as soon as one does"
            ),
            Self::Made => tracing::info!(consumer, stream, "made the missing durable consumer"),
            Self::Resumed => tracing::info!(consumer, stream, "resumed the durable consumer"),
            Self::NotOurs(why) => tracing::warn!(
                consumer,
                stream,
                why,
                "the durable consumer cannot be read from; relaying from an unnamed one until it \
                 can. Stop the other client, delete the consumer, or run with --ephemeral"
            ),
        }
    }
}
