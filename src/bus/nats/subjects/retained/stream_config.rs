//! What a stream stores, by its settings: messages under the subjects that it takes from publishers, those that its
//! transform makes, and those that it copies from other streams.

use weirgate_wire::auth::{MovedSubjects, StreamSubjects, Subject};
use weirgate_wire::json::Json;

use crate::nats::account::limit;
use crate::nats::consumer_limits::PermittedLimits;
use crate::nats::stream_info::Retention;

/// A consumer that ends sooner without a request may end before the first request reaches the server.
const IDLE_MAX_MIN_MS: u64 = 1_000;

/// The settings of a stream that say which messages it stores.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(default)]
pub(super) struct StreamConfig {
    pub(super) name: String,
    /// Subjects of publishers.
    subjects: Option<Vec<String>>,
    subject_transform: Option<Transform>,
    pub(super) retention: Retention,
    pub(super) consumer_limits: Option<PermittedLimits>,
    max_msgs_per_subject: i64,
    deny_delete: bool,
    allow_msg_ttl: bool,
    mirror: Option<Origin>,
    sources: Option<Vec<Origin>>,
}

/// A change of subjects before messages are stored.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(default)]
struct Transform {
    src: String,
    dest: String,
}

/// A stream whose messages are copied.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(default)]
struct Origin {
    name: String,
    filter_subject: String,
    /// Given if the stream is that of another account or domain.
    external: Option<serde::de::IgnoredAny>,
    subject_transforms: Option<Vec<Transform>>,
}

impl Transform {
    /// The subjects of the messages to which it applies.
    fn changed(&self) -> Option<Subject> {
        let all = self.src.is_empty();
        Subject::parse(if all { ">" } else { &self.src }).ok()
    }

    /// Whether it says which messages are copied, and does not change their subjects.
    const fn keeps_subjects(&self) -> bool {
        self.dest.is_empty()
    }

    /// The subjects under which it has messages stored.
    fn stored(&self) -> Option<Subject> {
        match self.keeps_subjects() {
            true => self.changed(),
            false => stored_pattern(&self.dest),
        }
    }
}

impl StreamConfig {
    /// Why no consumer of the stream gives the last values of a pattern.
    pub(super) fn gives_no_pattern(&self) -> Option<&'static str> {
        let permitted = self.consumer_limits.unwrap_or_default();
        let is_short = permitted
            .idle_max_ms()
            .is_some_and(|ms| ms < IDLE_MAX_MIN_MS);
        match (self.retention, is_short) {
            (Retention::WorkQueue, _) => {
                Some("(retention: workqueue): a work queue permits no consumer for them")
            }
            (_, true) => Some(
                "if their consumers end before they are read (consumer_limits.inactive_threshold under 1 s)",
            ),
            _ => None,
        }
    }

    /// Whether the message before the last one of a subject can become the last one again: the last one is deleted, or expires
    /// by a time of its own. What a limit or a purge removes of a subject is older than what it leaves.
    pub(super) const fn uncovers_older(&self) -> bool {
        self.max_msgs_per_subject != 1 && (self.allow_msg_ttl || !self.deny_delete)
    }

    /// How many messages of a subject the stream keeps at most; `None`: any number.
    pub(super) fn kept_max(&self) -> Option<u64> {
        limit(self.max_msgs_per_subject)
    }

    /// The subjects of publishers whose messages the stream stores.
    pub(super) fn published(&self) -> impl Iterator<Item = Subject> {
        let subjects = self.subjects.iter().flatten();
        subjects.filter_map(|subject| Subject::parse(subject).ok())
    }

    /// The subjects that the stream's own transform makes of those of publishers.
    pub(super) fn transformed(&self) -> Option<Subject> {
        self.own_transform()?.stored()
    }

    /// The stream's own transform, which applies to messages of publishers and to copies; a server ignores one without a
    /// destination.
    fn own_transform(&self) -> Option<&Transform> {
        let transform = self.subject_transform.as_ref();
        transform.filter(|transform| !transform.keeps_subjects())
    }

    /// The subjects of copies of other streams. Copies of a stream that `is_listed` with the same subjects do not count:
    /// that stream has them, and may be ahead.
    pub(super) fn copied(&self, is_listed: impl Fn(&str) -> bool) -> Vec<Subject> {
        let mirror = self.mirror.iter();
        let origins = mirror.chain(self.sources.iter().flatten());
        let mut copied = Vec::new();
        for origin in origins {
            match origin.subject_transforms.as_deref() {
                Some(transforms @ [_, ..]) => {
                    copied.extend(transforms.iter().filter_map(Transform::stored));
                }
                _ if origin.external.is_none() && is_listed(&origin.name) => {}
                _ if origin.filter_subject.is_empty() => copied.extend(Subject::parse(">")),
                _ => copied.extend(Subject::parse(&origin.filter_subject)),
            }
        }
        copied
    }

    /// What the stream's own transform changes, and into what.
    fn moved(&self) -> Option<MovedSubjects> {
        let transform = self.own_transform()?;
        Some(MovedSubjects {
            from: transform.changed()?.to_string(),
            to: transform.stored()?.to_string(),
        })
    }

    /// The subjects of all messages in the stream. A pattern is whole here even if the transform changes a part of its
    /// subjects ([`Self::moved`] has that part).
    fn stored(&self) -> impl Iterator<Item = Subject> {
        let source = self.own_transform().and_then(Transform::changed);
        // Messages whose subjects the transform changes are stored under its subjects only.
        let is_changed = move |subject: &Subject| {
            let both = source
                .as_ref()
                .and_then(|source| source.intersection(subject));
            both.as_ref() == Some(subject)
        };
        // `false`: all copies count here.
        let taken = self.published().chain(self.copied(|_| false));
        let kept = taken.filter(move |subject| !is_changed(subject));
        kept.chain(self.transformed())
    }
}

/// The subjects of the messages in the stream of an answer about it; none if the answer has another form.
pub(in crate::nats) fn stored_subjects(answer: Json<'_>) -> StreamSubjects {
    let config = answer.get(&["config"]);
    let config = config.and_then(|config| Json::of(&config).parse::<StreamConfig>().ok());
    config.map_or_else(StreamSubjects::default, |config| {
        let stored = config.stored().map(|subject| subject.to_string());
        StreamSubjects::new(stored.collect(), config.moved())
    })
}

/// The pattern of the subjects under which a transform has messages stored: its destination with `*` for a function of
/// one token, and `>` from a function of several tokens on.
fn stored_pattern(destination: &str) -> Option<Subject> {
    const OF_ONE_TOKEN: [&str; 5] = ["wildcard", "partition", "left", "right", "random"];
    let mut tokens = Vec::new();
    for token in destination.split('.') {
        let function = token.split_once("{{").map(|(_, function)| function);
        let name = function.and_then(|function| function.split('(').next());
        let is_of_one = |name: &str| {
            let name = name.trim_matches(' ').to_ascii_lowercase();
            OF_ONE_TOKEN.contains(&name.as_str())
        };
        match name {
            Some(name) if !is_of_one(name) => {
                tokens.push(">");
                break;
            }
            Some(_) => tokens.push("*"),
            None if token.starts_with('$') && token[1..].parse::<u32>().is_ok() => tokens.push("*"),
            None => tokens.push(token),
        }
    }
    Subject::parse(&tokens.join(".")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_destination_is_a_pattern() {
        for (destination, want) in [
            ("out.>", "out.>"),
            ("out.*.x", "out.*.x"),
            ("out.$1.{{wildcard(2)}}", "out.*.*"),
            ("out.{{ Partition(10,1) }}.x", "out.*.x"),
            ("out.{{split(1,-)}}.x", "out.>"),
            ("$1x.$", "$1x.$"),
        ] {
            let stored = stored_pattern(destination).map(|subject| subject.to_string());
            assert_eq!(stored.as_deref(), Some(want));
        }
        assert_eq!(stored_pattern(""), None);
    }

    #[test]
    fn a_transform_without_a_destination_changes_no_subject() {
        let sources = r#""sources":[{"name":"T","subject_transforms":[{"src":"a.>","dest":""},{"src":"b.*"}]}]"#;
        let mirror = r#""mirror":{"name":"T","subject_transforms":[{"src":"a.>","dest":""}]}"#;
        let ignored = r#""subjects":["c.>"],"subject_transform":{"src":">","dest":""}"#;
        // Also of copies, and of a part.
        let part = r#""subjects":["t.>"],"subject_transform":{"src":"t.*.raw","dest":"raw.{{wildcard(1)}}"}"#;
        let own = r#""mirror":{"name":"T","filter_subject":"a.b.>"},"subject_transform":{"src":"a.>","dest":"z.>"}"#;
        for (config, want) in [
            (sources, &["a.>", "b.*"][..]),
            (mirror, &["a.>"]),
            (ignored, &["c.>"]),
            (own, &["z.>"]),
            (part, &["t.>", "raw.*"]),
        ] {
            let answer = format!(r#"{{"config":{{{config}}}}}"#);
            let answer = Json::read(answer.as_bytes()).expect("good");
            assert_eq!(stored_subjects(answer).stored(), want);
        }
    }
}
