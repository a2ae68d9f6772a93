//! What the sources need of the server and of this user. Each part says its needs beside its requests, with the subjects of
//! these requests ([`Action`]). The check before a start asks for them, and a test compares them with the documents.

use super::error::NatsError;
use weirgate_wire::base::Finding;

/// An action on JetStream that needs a permission of this user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Asks for the limits of the account, and what it uses.
    AccountInfo,
    /// Asks for the names of the streams that hold a subject.
    StreamNames,
    /// Asks for the settings and states of streams.
    StreamList,
    /// Asks for the settings and the state of a stream.
    StreamInfo,
    CreateStream,
    /// Asks for a message of a stream.
    GetMessage,
    /// Asks for the state of a consumer.
    ConsumerInfo,
    /// Makes a consumer without a name.
    CreateConsumer,
    /// Makes or changes a durable consumer.
    CreateDurable,
    DeleteConsumer,
    /// Asks a consumer for its next messages.
    NextMessages,
    /// Acknowledges a message.
    Acknowledge,
    /// Answers the flow control of a consumer.
    ControlFlow,
}

/// Any token of a subject.
const ANY: &str = "*";

impl Action {
    /// The subject of this request about a stream and a consumer; a request that names none of them ignores the
    /// arguments. Acknowledgements and answers to flow control go to a subject that the server chooses. For these,
    /// returns an example of such a subject: the check before a start tries whether this user may publish there.
    pub(super) fn subject(self, stream: &str, consumer: &str) -> String {
        match self {
            Self::AccountInfo => "$JS.API.INFO".to_owned(),
            Self::StreamNames => "$JS.API.STREAM.NAMES".to_owned(),
            Self::StreamList => "$JS.API.STREAM.LIST".to_owned(),
            Self::StreamInfo => format!("$JS.API.STREAM.INFO.{stream}"),
            Self::CreateStream => format!("$JS.API.STREAM.CREATE.{stream}"),
            Self::GetMessage => format!("$JS.API.STREAM.MSG.GET.{stream}"),
            Self::ConsumerInfo => format!("$JS.API.CONSUMER.INFO.{stream}.{consumer}"),
            Self::CreateConsumer => format!("$JS.API.CONSUMER.CREATE.{stream}"),
            Self::CreateDurable => {
                format!("$JS.API.CONSUMER.DURABLE.CREATE.{stream}.{consumer}")
            }
            Self::DeleteConsumer => format!("$JS.API.CONSUMER.DELETE.{stream}.{consumer}"),
            Self::NextMessages => format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"),
            // The server has its numbers and its token in place of these.
            Self::Acknowledge => format!("$JS.ACK.{stream}.{consumer}.1.0.0.0.0"),
            Self::ControlFlow => format!("$JS.FC.{stream}.{consumer}.x"),
        }
    }

    /// The subject of a request about a stream that names no consumer.
    pub(super) fn subject_about(self, stream: &str) -> String {
        self.subject(stream, ANY)
    }

    /// The subject of a request that names no stream: about the account, or for a list of its streams.
    pub(super) fn subject_without_stream(self) -> String {
        self.subject(ANY, ANY)
    }

    /// Whether the subject names a stream.
    pub(super) fn names_stream(self) -> bool {
        !matches!(
            self,
            Self::AccountInfo | Self::StreamNames | Self::StreamList
        )
    }

    /// The pattern for the permissions of a user that reads `stream` through `consumer`; `None`: all of them.
    pub(super) fn permission(self, stream: Option<&str>, consumer: Option<&str>) -> String {
        match self {
            // The server chooses the other tokens.
            Self::Acknowledge => "$JS.ACK.>".to_owned(),
            Self::ControlFlow => "$JS.FC.>".to_owned(),
            _ => self.subject(stream.unwrap_or(ANY), consumer.unwrap_or(ANY)),
        }
    }

    /// Whether this is the subject of an action of this kind, about any stream and consumer.
    pub(super) fn has_subject(self, subject: &str) -> bool {
        let permission = self.permission(None, None);
        let prefix = permission.split(['*', '>']).next().unwrap_or_default();
        subject.starts_with(prefix)
    }
}

/// An action of a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Need {
    pub(super) action: Action,
    /// What is worse without the permission; `None`: the source does not work.
    pub(super) without: Option<&'static str>,
}

impl Need {
    /// A need without which the source does not work.
    pub(super) const fn must(action: Action) -> Self {
        let without = None;
        Self { action, without }
    }

    /// A need whose lack has only the effect `without`.
    pub(super) const fn may(action: Action, without: &'static str) -> Self {
        let without = Some(without);
        Self { action, without }
    }

    /// What a check finds if this user lacks these permissions for the need; `None` without any.
    pub(super) fn finding_without(&self, missing: &[String]) -> Option<Finding> {
        let (first, others) = missing.split_first()?;
        let what = match others.len() {
            0 => format!("publish to {first}"),
            more => format!("publish to {first} and {more} more such subjects"),
        };
        let refusal = NatsError::NotPermitted {
            what,
            fails_all_requests: false,
        };
        Some(match self.without {
            None => Finding::Error(refusal.to_string()),
            Some(without) => Finding::Warning(format!("{refusal}; without that, {without}")),
        })
    }
}

/// The needs of a gateway that reads plain subjects, or a stream whole: [`NatsSubjectsSource::needs`],
/// [`NatsStreamSource::needs`].
///
/// [`NatsSubjectsSource::needs`]: super::NatsSubjectsSource::needs
/// [`NatsStreamSource::needs`]: super::NatsStreamSource::needs
#[derive(Clone, Debug, Default)]
pub struct NatsNeeds {
    /// Subjects the gateway cannot do without.
    pub subscriptions: Vec<String>,
    /// Subjects for clients to request; a refusal concerns only these clients.
    pub requests: Vec<String>,
    /// The roles, each with the subjects that its clients may request.
    pub roles: Vec<(String, Vec<String>)>,
    /// Subjects to publish to. The check publishes an empty message there, so no program should be subscribed to them.
    pub published: Vec<String>,
    /// The largest message that is published, requests to JetStream included, bytes.
    pub payload_bytes_max: usize,
    /// Whether messages get positions, so that the server has to be the only one.
    pub has_positions: bool,
    /// What is done with streams.
    pub jetstream: JetStreamNeeds,
}

impl NatsNeeds {
    /// Adds the needs of the source that reads a stream. `self` are the needs of the names beside the stream.
    pub fn merge_stream_source(&mut self, stream_needs: Self) {
        self.payload_bytes_max = self.payload_bytes_max.max(stream_needs.payload_bytes_max);
        self.jetstream.stream = stream_needs.jetstream.stream;
        // Only questions of clients ask for next messages. If the user may not, the gateway works, and the history answers.
        if let Some((_, needs)) = &mut self.jetstream.stream {
            let without =
                "`last` of a pattern and `\"last\":\"all\"` bring only what the history has";
            needs.push(Need::may(Action::NextMessages, without));
        }
    }
}

/// What a source does with streams.
#[derive(Clone, Debug, Default)]
pub struct JetStreamNeeds {
    /// The stream that is read, and what its reader does there.
    pub(super) stream: Option<(String, Vec<Need>)>,
    /// What the questions for last values do, at the streams that hold the names of clients.
    pub(super) last_values: Vec<Need>,
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::stream::JetStreamReader;
    use super::super::subjects::Retained;
    use super::super::subscription::Subscription;
    use super::*;

    const DOCUMENT: &str = include_str!("../../../docs/reference/nats.md");

    /// The subjects to publish to, in the list after this text of the document.
    fn documented(after: &str) -> BTreeSet<String> {
        let (_, text) = DOCUMENT.split_once(after).expect("the text");
        let (_, list) = text.split_once("publish:").expect("a list");
        let (list, _) = list.split_once("subscribe: _INBOX.>").expect("its end");
        list.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn the_documents_list_what_the_sources_do() {
        let all = |needs: &[Need], stream| {
            let permissions = needs
                .iter()
                .map(|need| need.action.permission(stream, None));
            permissions.collect::<BTreeSet<_>>()
        };
        assert_eq!(
            documented("A NATS user of `weirgate levels` needs these permissions"),
            all(&Subscription::needs(), None)
        );
        assert_eq!(
            documented("With `--retained`, the user also needs"),
            all(&Retained::needs(), None)
        );
        assert_eq!(
            documented("### A stream for channels"),
            all(&JetStreamReader::needs(), Some("TICKS"))
        );
    }

    #[test]
    fn an_action_is_known_by_its_subject() {
        for action in [Action::GetMessage, Action::Acknowledge, Action::ControlFlow] {
            assert!(action.has_subject(&action.subject("S", "c")));
            assert!(!action.has_subject(&Action::StreamInfo.subject_about("S")));
        }
        assert!(Action::Acknowledge.has_subject("$JS.ACK.domain.hash.S.c.1.2.3.4.5.r"));
    }
}
