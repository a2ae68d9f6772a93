//! The errors between this process and NATS, each with its cause and a text for the log; and the server's refusals of
//! permissions, with the parser of their texts. A refusal arrives as an error without a request; code that misses an
//! answer looks for the reason here.

use std::io;

use super::needs::Need;
use crate::outage::shown;
use crate::relay;
use weirgate_wire::base::{LogBudget, Now};

/// The reason why NATS is away or cannot be used. The texts never hold a password or a token.
#[derive(Debug, thiserror::Error)]
pub enum NatsError {
    /// The settings: the URL cannot be used.
    #[error("{url} is not a NATS URL: {reason}; write nats://host:4222")]
    BadUrl {
        /// The URL, secrets hidden.
        url: String,
        /// The fault of the URL.
        reason: &'static str,
    },
    /// The network or the server: nobody answers there.
    #[error("cannot reach NATS at {url} ({source}); check {setting}, and that the server runs")]
    Unreachable {
        /// The URL, secrets hidden.
        url: String,
        /// The setting of the URL.
        setting: String,
        /// The system's error.
        source: io::Error,
    },
    /// The settings or the server: the server answers and refuses the connection.
    #[error(
        "no connection with NATS at {url} ({reason}); check user, password, token and credentials"
    )]
    Refused {
        /// The URL, secrets hidden.
        url: String,
        /// The error of the server.
        reason: String,
    },
    /// The server, the network or the settings: the TLS library refuses the server, or the server refuses the client's
    /// certificate.
    #[error(
        "no TLS with NATS at {url} ({reason}); check that TLS is on there, the CA and the certificates"
    )]
    Tls {
        /// The URL, secrets hidden.
        url: String,
        /// The error of the TLS library.
        reason: String,
    },
    /// The settings or the server: a message is larger than the server accepts.
    #[error(
        "NATS at {url} takes messages of at most {bytes_max} bytes (max_payload), and {what} {bytes} bytes"
    )]
    TooLarge {
        /// The URL, secrets hidden.
        url: String,
        /// The limit of the server, bytes.
        bytes_max: usize,
        /// What is larger, with its verb.
        what: &'static str,
        /// Its size, bytes.
        bytes: usize,
    },
    /// The settings: a file with credentials or certificates.
    #[error("cannot go to NATS: {0}; check the setting that names this file")]
    File(#[source] io::Error),
    /// The server or the network: an established connection is gone.
    #[error("the connection to NATS was lost")]
    Lost,
    /// The server or the network: an established connection has ended.
    #[error("the connection to NATS was lost ({0})")]
    Ended(String),
    /// The server or the network: the connection is open, and nothing has come back for this number of milliseconds.
    #[error("NATS has not answered for {0} ms; giving this connection up")]
    Silent(u64),
    /// The server: JetStream does not answer there, and answers at another server.
    #[error(
        "JetStream does not answer at this NATS server, and answers at another one; going there"
    )]
    ElsewhereOnly,
    /// The server: it is about to stop, and another server answers.
    #[error("this NATS server is about to stop (lame duck mode); going to another one")]
    LameDuck,
    /// The system: nothing to wait for NATS with.
    #[error("no poll to wait for NATS with ({0}); check the limit on open files")]
    NoPoll(#[source] io::Error),
    /// The server: this user lacks a permission needed for the relay.
    #[error(
        "NATS does not let this user {what}; change the permissions of this user (refused by the server)"
    )]
    NotPermitted {
        /// The refused action: to publish or to subscribe, and the subject.
        what: String,
        /// Whether no subject can be relayed without the permission.
        fails_all_requests: bool,
    },
    /// The server: JetStream refused or did not answer.
    #[error(
        "JetStream did not {action} ({reason}); check that nats-server runs with JetStream (-js) \
         and that this user may use it"
    )]
    JetStream {
        /// The request.
        action: String,
        /// JetStream's error, or the lack of an answer.
        reason: String,
        /// Whether no subject can be relayed; `false`: a single subject is known to be affected.
        fails_all_requests: bool,
    },
    /// The server: most servers of a stream are away, or this server is cut off from them.
    #[error(
        "JetStream did not {action}: the stream {stream} has no leader that reaches most of its servers"
    )]
    NoLeader {
        /// The request.
        action: String,
        /// The stream.
        stream: String,
    },
    /// The settings or the server: there is no stream of this name. The connection is well.
    #[error("the stream {0} does not exist; make it: nats stream add {0} --subjects 'SUBJECT.>'")]
    NoSuchStream(String),
    /// The settings or the server: the messages of this stream are for one reader each. The connection is well.
    #[error(
        "the stream {0} is a work queue (retention: workqueue), where each message is for one reader; read a stream \
         with the retention limits that has it as a source"
    )]
    WorkQueue(String),
    /// The server: no stream stores messages of a subject, or the stream does not answer.
    #[error(
        "JetStream did not store the message on {subject} ({reason}); check that nats-server runs \
         with JetStream (-js) and that this user may use it"
    )]
    NoStream {
        /// The subject.
        subject: String,
        /// Whether no stream has the subject, or the stream does not answer.
        reason: &'static str,
    },
}

impl NatsError {
    /// Whether another attempt may succeed: the server is away, or starts.
    pub fn may_pass(&self) -> bool {
        matches!(
            self,
            Self::Unreachable { .. } | Self::Lost | Self::Ended(_) | Self::Silent(_)
        )
    }

    /// The error for a silence of JetStream about a subject.
    pub(super) fn unanswered() -> Self {
        Self::JetStream {
            action: "answer about the stream of a subject".to_owned(),
            reason: "no answer".to_owned(),
            fails_all_requests: false,
        }
    }

    /// The error for a refused permission without which nothing works; `verb` is `publish` or `subscribe`.
    pub(super) fn not_permitted(verb: &str, subject: &str) -> Self {
        Self::NotPermitted {
            what: format!("{verb} to {subject}"),
            fails_all_requests: true,
        }
    }

    /// Whether no subject can be relayed on this connection.
    pub(super) fn fails_all_requests(&self) -> bool {
        match self {
            Self::JetStream {
                fails_all_requests, ..
            }
            | Self::NotPermitted {
                fails_all_requests, ..
            } => *fails_all_requests,
            Self::NoLeader { .. } => false,
            _ => true,
        }
    }

    /// Whether the connection is kept: another one would find the same.
    pub(super) fn keeps_connection(&self) -> bool {
        matches!(self, Self::NoSuchStream(_) | Self::WorkQueue(_))
    }
}

/// The reason for the end of work on a connection.
pub(super) type Stop = relay::Stop<NatsError>;

impl From<NatsError> for Stop {
    fn from(error: NatsError) -> Self {
        Self::Bus(error)
    }
}

/// The limit on log lines of a source, a second.
pub(super) const LINES_PER_SECOND: u32 = 5;
/// The limit on refusals remembered of a connection; the oldest are forgotten first. A connection uses a subject for
/// each stream and consumer, and a few verbs.
const REFUSALS_MAX: usize = 64;
/// A refusal of any inbox counts for all: the same permission covers all inboxes.
pub(super) const INBOXES: &str = "_INBOX.>";
/// The prefix of subjects made up by clients.
pub(super) const INBOX_PREFIX: &str = "_INBOX.";
/// Server errors logged per connection; the rest would say the same.
const ERRORS_LOGGED_MAX: u32 = 8;
const ACKS_PREFIX: &str = "$JS.ACK.";

/// An action that the server did not permit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// To subscribe to a subject.
    Subscription(String),
    /// To publish to a subject, such as a request to JetStream.
    Request(String),
    /// To acknowledge the messages of a consumer.
    Acks { stream: String, consumer: String },
}

impl Refusal {
    /// Reads the server's error, such as `Permissions Violation for Publish to "a.b"`.
    fn parse(error: &str) -> Option<Self> {
        Some(match refusal_in(error)? {
            Refused::Subscribe(subject) => Self::of_subscription(&subject),
            Refused::Publish(subject) => Self::of_publishing(&subject),
        })
    }

    /// The refusal of a subscription to `subject`.
    pub(super) fn of_subscription(subject: &str) -> Self {
        Self::Subscription(permission_of(subject))
    }

    /// The refusal to publish to `subject`.
    pub(super) fn of_publishing(subject: &str) -> Self {
        acks(subject).unwrap_or_else(|| Self::Request(permission_of(subject)))
    }
}

/// The subject of the permission for a subject: one for all inboxes.
fn permission_of(subject: &str) -> String {
    match subject.starts_with(INBOX_PREFIX) {
        true => INBOXES.to_owned(),
        false => subject.to_owned(),
    }
}

/// Stream and consumer of an acknowledgement, in both forms of the subject (see
/// [`AckSubject`](super::protocol::AckSubject)).
fn acks(subject: &str) -> Option<Refusal> {
    let tokens: Vec<&str> = subject.strip_prefix(ACKS_PREFIX)?.split('.').collect();
    let skip = if tokens.len() >= 9 { 2 } else { 0 };
    let [stream, consumer] = [skip, skip + 1].map(|at| tokens.get(at).map(|&t| t.to_owned()));
    Some(Refusal::Acks {
        stream: stream?,
        consumer: consumer?,
    })
}

/// The refusals of a connection, in order of arrival.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    all: Vec<Refusal>,
    /// Refusals not yet taken by the session.
    news: Vec<Refusal>,
    /// Errors in the log.
    logged: u32,
}

impl Refusals {
    /// Those of a connection for a check or a command, which says itself what is refused.
    pub(super) fn unlogged() -> Self {
        Self {
            logged: ERRORS_LOGGED_MAX,
            ..Self::default()
        }
    }

    /// Takes in an error of the server, and logs the error unless it is a known refusal or one of many.
    pub(super) fn report(&mut self, error: &str) {
        if self.take_in(error) {
            return;
        }
        if self.logged < ERRORS_LOGGED_MAX {
            self.logged += 1;
            let error = shown(error);
            tracing::warn!(error, "nats-server reported an error");
        }
    }

    /// Takes in an error of the server. Returns whether the error is a known refusal.
    fn take_in(&mut self, error: &str) -> bool {
        let Some(refusal) = Refusal::parse(error) else {
            return false;
        };
        if !self.news.contains(&refusal) {
            remember(&mut self.news, refusal.clone());
        }
        if self.all.contains(&refusal) {
            return true;
        }
        remember(&mut self.all, refusal);
        false
    }

    /// Forgets a refusal before the action is tried again.
    pub(super) fn forget(&mut self, refusal: &Refusal) {
        self.all.retain(|known| known != refusal);
    }

    /// Whether the server has sent this refusal.
    pub(super) fn has(&self, refusal: &Refusal) -> bool {
        self.all.contains(refusal)
    }

    /// The refusals since the last call.
    pub(super) fn take_news(&mut self) -> Vec<Refusal> {
        std::mem::take(&mut self.news)
    }
}

fn remember(list: &mut Vec<Refusal>, refusal: Refusal) {
    if list.len() >= REFUSALS_MAX {
        list.remove(0);
    }
    list.push(refusal);
}

/// Logs an error of the server that belongs to nothing else.
pub(super) fn log_error(lines: &mut LogBudget, now: Now, words: &str) {
    if let Some(line) = lines.line(now) {
        tracing::warn!(
            error = shown(words),
            lines_left_out = line.suppressed,
            "nats-server reported an error"
        );
    }
}

/// What the server does not permit this user, as its error says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// To publish to this subject.
    Publish(String),
    /// To subscribe to this subject.
    Subscribe(String),
}

impl Refused {
    /// The error for the refusal of something without which nothing works.
    pub(super) fn error(&self) -> NatsError {
        match self {
            Self::Publish(subject) => NatsError::not_permitted("publish", &shown(subject)),
            Self::Subscribe(subject) => NatsError::not_permitted("subscribe", &shown(subject)),
        }
    }

    /// Whether it refuses a request or an acknowledgement of this need.
    pub(super) fn is_of(&self, need: &Need) -> bool {
        matches!(self, Self::Publish(subject) if need.action.is_at(subject))
    }
}

/// The refusal in an error of the server, which quotes the subject as a Go string; `None`: another error.
pub(super) fn refusal_in(words: &str) -> Option<Refused> {
    let (before, quoted) = words.split_once('"')?;
    let before = before.to_ascii_lowercase();
    if !before.contains("permissions violation for ") {
        return None;
    }
    let mut subject = String::new();
    let mut chars = quoted.chars();
    loop {
        match chars.next()? {
            '"' if before.contains("subscription") => return Some(Refused::Subscribe(subject)),
            '"' => return Some(Refused::Publish(subject)),
            '\\' => subject.push(chars.next()?),
            char => subject.push(char),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subscription(subject: &str) -> Refusal {
        Refusal::Subscription(subject.to_owned())
    }

    fn acks_of(stream: &str, consumer: &str) -> Refusal {
        Refusal::Acks {
            stream: stream.to_owned(),
            consumer: consumer.to_owned(),
        }
    }

    #[test]
    fn the_servers_words_are_read() {
        let request = Refusal::Request("$JS.API.CONSUMER.INFO.S.c".to_owned());
        for (error, want) in [
            (
                r#"Permissions Violation for Subscription to "chosen.levels""#,
                Some(subscription("chosen.levels")),
            ),
            (
                r#"Permissions Violation for Subscription to "_INBOX.a.b" (sid "4")"#,
                Some(subscription(INBOXES)),
            ),
            (
                r#"permissions violation for subscription to "a" using queue "q""#,
                Some(subscription("a")),
            ),
            (
                r#"Permissions Violation for Publish to "$JS.API.CONSUMER.INFO.S.c""#,
                Some(request),
            ),
            (
                r#"Permissions Violation for Publish to "$JS.ACK.S.c.1.2.3.4.5""#,
                Some(acks_of("S", "c")),
            ),
            (
                r#"Permissions Violation for Publish to "$JS.ACK.d.h.S.c.1.2.3.4.5.r""#,
                Some(acks_of("S", "c")),
            ),
            (
                r#"Permissions Violation for Publish to "_INBOX.a""#,
                Some(Refusal::Request(INBOXES.to_owned())),
            ),
            ("Authorization Violation", None),
            (r#"Unknown "Protocol""#, None),
            (r#"Permissions Violation for Publish to "unfinished"#, None),
        ] {
            assert_eq!(Refusal::parse(error), want, "{error}");
        }
    }

    #[test]
    fn a_refusal_is_news_once_and_known_until_it_is_tried_again() {
        let mut refusals = Refusals::default();
        let error = r#"Permissions Violation for Subscription to "a""#;
        assert!(!refusals.take_in(error) && refusals.take_in(error));
        assert_eq!(refusals.take_news(), [subscription("a")]);
        assert!(refusals.take_news().is_empty() && refusals.has(&subscription("a")));
        refusals.forget(&subscription("a"));
        assert!(!refusals.has(&subscription("a")) && !refusals.take_in(error));
    }

    #[test]
    fn a_server_that_refuses_everything_fills_no_memory() {
        let mut refusals = Refusals::default();
        for n in 0..1_000 {
            refusals.take_in(&format!(r#"Permissions Violation for Publish to "a.{n}""#));
        }
        assert_eq!(refusals.all.len(), REFUSALS_MAX);
        assert_eq!(refusals.take_news().len(), REFUSALS_MAX);
        assert!(refusals.has(&Refusal::Request("a.999".to_owned())));
    }

    #[test]
    fn the_subject_of_a_refusal_is_read() {
        let subject_of = |subject: &str| {
            refusal_in(&format!(
                "Permissions Violation for Subscription to {subject}"
            ))
        };
        for (quoted, subject) in [
            ("\"a.b\"", "a.b"),
            ("\"a.>\" (sid \"7\")", "a.>"),
            (r#""a\"b\\c""#, r#"a"b\c"#),
        ] {
            let refused = Refused::Subscribe(subject.to_owned());
            assert_eq!(subject_of(quoted), Some(refused));
        }
        assert_eq!(subject_of("\"a"), None);
        let publish = refusal_in("Permissions Violation for Publish to \"a\"");
        assert_eq!(publish, Some(Refused::Publish("a".to_owned())));
        for other in ["", "é", "Maximum Subscriptions Exceeded"] {
            assert_eq!(refusal_in(other), None, "{other}");
        }
    }
}
