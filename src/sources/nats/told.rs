//! What is logged of a subject's stream and durable consumer.

use super::consumers::Target;
use super::settings::SubscriptionSpec;

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
