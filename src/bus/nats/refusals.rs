//! The server's refusals of permissions, with the parser of their texts. A refusal arrives as an error without a request;
//! code that misses an answer looks for the reason here.

use super::error::NatsError;
use super::needs::Need;
use super::protocol::INBOX_PREFIX;
use crate::server_words::shown;

/// The limit on refusals remembered of a connection; the oldest are forgotten first. A connection uses a subject for
/// each stream and consumer, and a few verbs.
const REFUSALS_MAX: usize = 64;
/// A refusal of any inbox counts for all: the same permission covers all inboxes.
pub(super) const INBOXES: &str = "_INBOX.>";
/// Server errors logged per connection; the rest would say the same.
const ERRORS_LOGGED_MAX: u32 = 8;
const ACKS_PREFIX: &str = "$JS.ACK.";

/// A refusal as it is remembered: one for all inboxes, and one for all acknowledgements of a consumer.
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
        Some(match violation_in(error)? {
            PermissionsViolation::Subscribe(subject) => Self::of_subscription(&subject),
            PermissionsViolation::Publish(subject) => Self::of_publishing(&subject),
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
    // The long form begins with domain and account.
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

/// A refusal as the server's error says it, such as `Permissions Violation for Publish to "a.b"`. [`Refusal`] is what is
/// remembered of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum PermissionsViolation {
    /// To publish to this subject.
    Publish(String),
    /// To subscribe to this subject.
    Subscribe(String),
}

impl PermissionsViolation {
    /// The error for the refusal of something without which nothing works.
    pub(super) fn error(&self) -> NatsError {
        match self {
            Self::Publish(subject) => NatsError::not_permitted("publish", &shown(subject)),
            Self::Subscribe(subject) => NatsError::not_permitted("subscribe", &shown(subject)),
        }
    }

    /// Whether it refuses a request or an acknowledgement of this need.
    pub(super) fn is_of(&self, need: &Need) -> bool {
        matches!(self, Self::Publish(subject) if need.action.has_subject(subject))
    }
}

/// The violation in an error of the server, which quotes the subject as a Go string; `None`: another error.
pub(super) fn violation_in(words: &str) -> Option<PermissionsViolation> {
    let (before, quoted) = words.split_once('"')?;
    let before = before.to_ascii_lowercase();
    if !before.contains("permissions violation for ") {
        return None;
    }
    let mut subject = String::new();
    let mut chars = quoted.chars();
    loop {
        match chars.next()? {
            '"' if before.contains("subscription") => {
                return Some(PermissionsViolation::Subscribe(subject));
            }
            '"' => return Some(PermissionsViolation::Publish(subject)),
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
            violation_in(&format!(
                "Permissions Violation for Subscription to {subject}"
            ))
        };
        for (quoted, subject) in [
            ("\"a.b\"", "a.b"),
            ("\"a.>\" (sid \"7\")", "a.>"),
            (r#""a\"b\\c""#, r#"a"b\c"#),
        ] {
            let refused = PermissionsViolation::Subscribe(subject.to_owned());
            assert_eq!(subject_of(quoted), Some(refused));
        }
        assert_eq!(subject_of("\"a"), None);
        let publish = violation_in("Permissions Violation for Publish to \"a\"");
        assert_eq!(publish, Some(PermissionsViolation::Publish("a".to_owned())));
        for other in ["", "é", "Maximum Subscriptions Exceeded"] {
            assert_eq!(violation_in(other), None, "{other}");
        }
    }
}
