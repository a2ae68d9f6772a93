//! Which streams hold the messages of a name. JetStream finds a stream by the subjects that it takes from publishers. A
//! stream can store messages under other subjects too: those of its subject transform, and those of streams that it
//! mirrors or sources. For these, weirgate looks through the list of all streams.

use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use sonic_rs::LazyValue;
use weirgate_wire::auth::Subject;
use weirgate_wire::json::{self, Json};

use super::ANSWER_TIMEOUT;
use crate::nats::stream_info::{Retention, check_made};

/// How long the list of all streams is used. Questions for names without a stream can come all the time, and a list of
/// many streams is long.
const LIST_AGE_MAX: Duration = Duration::from_secs(1);
/// The most streams of the list that are looked at.
const LISTED_MAX: usize = 1_024;

/// A stream with values of a name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) stream: String,
    /// The part of the name in the stream.
    pub(super) filter: String,
    /// The server that leads the stream; empty if nobody does, or without a cluster.
    pub(super) leader: String,
    /// When the stream was made, as the server says it.
    pub(super) made: String,
    /// The number of the last message in the stream.
    pub(super) last: u64,
}

impl Target {
    /// Whether the server makes the stream at this moment.
    pub(super) fn is_being_made(&self) -> bool {
        check_made(&self.made).is_err()
    }
}

/// A stream of the list.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(default)]
struct Stream {
    config: Config,
    created: String,
    state: LastSequence,
    cluster: Option<Cluster>,
}

#[derive(Debug, Default, serde::Deserialize)]
#[serde(default)]
struct LastSequence {
    last_seq: u64,
}

#[derive(Debug, Default, serde::Deserialize)]
#[serde(default)]
struct Config {
    name: String,
    /// Subjects of publishers.
    subjects: Option<Vec<String>>,
    subject_transform: Option<Transform>,
    retention: Retention,
    mirror: Option<Origin>,
    sources: Option<Vec<Origin>>,
}

#[derive(Debug, Default, serde::Deserialize)]
#[serde(default)]
struct Cluster {
    leader: String,
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

impl Stream {
    /// `None` for JSON of another form.
    fn read(stream: &LazyValue<'_>) -> Option<Self> {
        json::value(stream).ok()
    }

    /// The subjects of publishers whose messages the stream stores.
    fn published(&self) -> impl Iterator<Item = Subject> {
        let subjects = self.config.subjects.iter().flatten();
        subjects.filter_map(|subject| Subject::parse(subject).ok())
    }

    /// The stream as one that holds messages of these subjects.
    fn holding(&self, subjects: Vec<Subject>) -> HoldingStream {
        let leader = self.cluster.as_ref().map(|cluster| cluster.leader.clone());
        HoldingStream {
            stream: self.config.name.clone(),
            leader: leader.unwrap_or_default(),
            made: self.created.clone(),
            last: self.state.last_seq,
            subjects,
        }
    }

    /// The subjects that the stream's own transform makes of those of publishers.
    fn transformed(&self) -> Option<Subject> {
        stored_pattern(&self.config.subject_transform.as_ref()?.dest)
    }

    /// The subjects of copies of other streams. Copies of a stream that `is_listed` with the same subjects do not count:
    /// that stream has them, and may be ahead.
    fn copied(&self, is_listed: impl Fn(&str) -> bool) -> Vec<Subject> {
        let mirror = self.config.mirror.iter();
        let origins = mirror.chain(self.config.sources.iter().flatten());
        let mut copied = Vec::new();
        for origin in origins {
            match origin.subject_transforms.as_deref() {
                Some(transforms @ [_, ..]) => {
                    copied.extend(
                        transforms
                            .iter()
                            .filter_map(|one| stored_pattern(&one.dest)),
                    );
                }
                _ if origin.external.is_none() && is_listed(&origin.name) => {}
                _ if origin.filter_subject.is_empty() => copied.extend(Subject::parse(">")),
                _ => copied.extend(Subject::parse(&origin.filter_subject)),
            }
        }
        copied
    }
}

/// The subjects of the messages in the stream of an answer about it: what it takes from publishers, unless a transform
/// changes that, what the transform makes, and what it copies from other streams.
pub(in crate::nats) fn subjects_in(answer: Json<'_>) -> Vec<String> {
    let config = answer.get(&["config"]);
    let Some(config) = config.and_then(|config| json::value::<Config>(&config).ok()) else {
        return Vec::new();
    };
    let stream = Stream {
        config,
        ..Stream::default()
    };
    let transform = stream.config.subject_transform.as_ref();
    let source =
        transform.map(|one| Subject::parse(if one.src.is_empty() { ">" } else { &one.src }));
    let source = source.and_then(Result::ok);
    let is_kept = |subject: &Subject| {
        let both = source
            .as_ref()
            .and_then(|source| source.intersection(subject));
        both.as_ref() != Some(subject)
    };
    let own = stream.published().filter(is_kept);
    let all = own
        .chain(stream.transformed())
        .chain(stream.copied(|_| false));
    all.map(|subject| subject.to_string()).collect()
}

/// The parts of the name in the stream of an answer about it.
pub(super) fn targets_in(name: &str, answer: Json<'_>) -> Vec<Target> {
    let Ok(name) = Subject::parse(name) else {
        return Vec::new();
    };
    let subjects = subjects_in(answer).into_iter();
    let stream = HoldingStream {
        stream: answer.text(&["config", "name"]).unwrap_or_default(),
        leader: answer.text(&["cluster", "leader"]).unwrap_or_default(),
        made: answer.text(&["created"]).unwrap_or_default(),
        last: answer.number(&["state", "last_seq"]).unwrap_or(u64::MAX),
        subjects: subjects
            .filter_map(|subject| Subject::parse(&subject).ok())
            .collect(),
    };
    stream.targets(&name).collect()
}

/// The pattern of the subjects under which a transform has messages stored: its destination with `*` for a function of one token, and `>` from
/// a function of several tokens on.
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

/// A stream, with subjects of messages that it holds.
#[derive(Debug)]
struct HoldingStream {
    stream: String,
    /// The server that leads the stream; empty if nobody does, or without a cluster.
    leader: String,
    /// When it was made, and the number of its last message.
    made: String,
    last: u64,
    subjects: Vec<Subject>,
}

impl HoldingStream {
    /// The parts of the name in the stream.
    fn targets(&self, name: &Subject) -> impl Iterator<Item = Target> {
        let part = |subject: &Subject| name.intersection(subject);
        self.subjects.iter().filter_map(part).map(|part| Target {
            stream: self.stream.clone(),
            filter: part.to_string(),
            leader: self.leader.clone(),
            made: self.made.clone(),
            last: self.last,
        })
    }
}

/// The streams in an answer that store a part of a name as it is published.
#[derive(Debug)]
pub(super) struct TargetsFound {
    pub(super) targets: VecDeque<Target>,
    /// The server knows more streams of the name than the answer has.
    pub(super) has_more_streams: bool,
}

/// The streams in an answer with a list; one of another form has no subjects.
fn streams_listed(answer: &Json<'_>) -> Vec<Stream> {
    let streams = answer.get(&["streams"]);
    let items = streams.iter().filter_map(|streams| json::items(streams));
    let streams = items.flatten().map(|stream| Stream::read(&stream));
    streams.map(Option::unwrap_or_default).collect()
}

/// The streams in the answer that take a part of the name from publishers. A consumer's filter has to lie within one subject
/// of its stream.
pub(super) fn targets(name: &str, answer: Json<'_>) -> TargetsFound {
    let (mut targets, streams) = (VecDeque::new(), streams_listed(&answer));
    if let Ok(name) = Subject::parse(name) {
        for stream in &streams {
            targets.extend(stream.holding(stream.published().collect()).targets(&name));
        }
    }
    let has_more_streams = answer.number(&["total"]).unwrap_or(0) > streams.len() as u64;
    TargetsFound {
        targets,
        has_more_streams,
    }
}

/// A stream that takes a part of a name from publishers.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::nats) struct StreamOfName {
    pub(in crate::nats) stream: String,
    /// Its retention permits no consumer for last values.
    pub(in crate::nats) is_work_queue: bool,
}

/// The streams in an answer that take a part of the name from publishers.
pub(in crate::nats) fn streams_in(name: &str, answer: Json<'_>) -> Vec<StreamOfName> {
    let Ok(name) = Subject::parse(name) else {
        return Vec::new();
    };
    let takes = |stream: &Stream| {
        stream
            .published()
            .any(|subject| name.intersection(&subject).is_some())
    };
    let taking = streams_listed(&answer)
        .into_iter()
        .filter(takes)
        .map(|stream| StreamOfName {
            is_work_queue: stream.config.retention == Retention::WorkQueue,
            stream: stream.config.name,
        });
    taking.collect()
}

/// The list of all streams, for one connection.
#[derive(Debug, Default)]
pub(super) struct AllStreams {
    state: Listing,
}

#[derive(Debug, Default)]
enum Listing {
    #[default]
    Unknown,
    /// The request with this number is on its way, for the streams after those that were listed.
    Pending {
        number: u64,
        since: Instant,
        listed: Vec<Stream>,
    },
    Known {
        since: Instant,
        found: StoredElsewhere,
    },
}

/// The streams that hold messages under other subjects than those of publishers.
#[derive(Debug, Default)]
struct StoredElsewhere {
    transformed: Vec<HoldingStream>,
    copied: Vec<HoldingStream>,
    /// The subjects that some stream stores itself, from publishers or by its transform: a copy of these does not count.
    /// Empty if nothing is copied.
    own: Vec<Subject>,
    /// There are more streams than were looked at.
    has_more_streams: bool,
}

impl StoredElsewhere {
    fn in_streams(streams: &[Stream]) -> Self {
        let names: BTreeSet<_> = streams.iter().map(|one| &*one.config.name).collect();
        let mut all = Self::default();
        for stream in streams {
            let transformed = stream.transformed();
            all.transformed
                .extend(transformed.map(|one| stream.holding(vec![one])));
            let copied = stream.copied(|origin| names.contains(origin));
            if !copied.is_empty() {
                all.copied.push(stream.holding(copied));
            }
        }
        if !all.copied.is_empty() {
            let own = |stream: &Stream| {
                stream
                    .published()
                    .chain(stream.transformed())
                    .collect::<Vec<_>>()
            };
            all.own = streams.iter().flat_map(own).collect();
        }
        all
    }

    /// Whether no stream of the list is being made.
    fn is_finished(&self) -> bool {
        let mut all = self.transformed.iter().chain(&self.copied);
        all.all(|stream| check_made(&stream.made).is_ok())
    }

    fn targets(&self, name: &Subject) -> Vec<Target> {
        let transformed = self
            .transformed
            .iter()
            .flat_map(|stream| stream.targets(name));
        let copied = self.copied.iter().flat_map(|stream| stream.targets(name));
        let is_own = |target: &Target| {
            let part = Subject::parse(&target.filter);
            part.is_ok_and(|part| self.own.iter().any(|own| own.intersection(&part).is_some()))
        };
        let all = transformed.chain(copied.filter(|copy| !is_own(copy)));
        // The list may be older than what was read.
        let last = u64::MAX;
        all.map(|target| Target { last, ..target }).collect()
    }
}

/// What follows a page of the list of all streams.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum AfterPage {
    /// Another page is to be asked for.
    NextPage,
    /// The list is known.
    Known,
}

impl AllStreams {
    /// Whether the list is known, young enough, and without a stream that is being made.
    pub(super) fn is_known(&self, now: Instant) -> bool {
        match &self.state {
            Listing::Known { since, found } => now < *since + LIST_AGE_MAX && found.is_finished(),
            Listing::Unknown | Listing::Pending { .. } => false,
        }
    }

    /// Begins to ask with the request of this number. Returns false if a request is on its way.
    pub(super) fn ask(&mut self, number: u64, now: Instant) -> bool {
        let is_asked =
            matches!(self.state, Listing::Pending { since, .. } if now < since + ANSWER_TIMEOUT);
        if !is_asked {
            self.state = Listing::Pending {
                number,
                since: now,
                listed: Vec::new(),
            };
        }
        !is_asked
    }

    /// The number of the request that is on its way.
    pub(super) fn asked(&self) -> Option<u64> {
        match self.state {
            Listing::Pending { number, .. } => Some(number),
            Listing::Unknown | Listing::Known { .. } => None,
        }
    }

    /// The body of the request.
    pub(super) fn request(&self) -> String {
        let offset = match &self.state {
            Listing::Pending { listed, .. } => listed.len(),
            Listing::Unknown | Listing::Known { .. } => 0,
        };
        sonic_rs::json!({ "offset": offset }).to_string()
    }

    /// Forgets the request on its way, which is refused.
    pub(super) fn refused(&mut self) {
        self.state = Listing::Unknown;
    }

    /// Adds a page to the list. The list is whole with as many streams as the server counts, or after a page without
    /// streams; a list that would be longer than [`LISTED_MAX`] ends there.
    pub(super) fn add_page(&mut self, answer: Json<'_>) -> AfterPage {
        let Listing::Pending { since, listed, .. } = &mut self.state else {
            return AfterPage::Known;
        };
        let page = streams_listed(&answer);
        let is_last = page.is_empty();
        listed.extend(page);
        let total = answer.number(&["total"]).unwrap_or(0);
        let is_whole = is_last || listed.len() as u64 >= total;
        if !is_whole && listed.len() < LISTED_MAX {
            return AfterPage::NextPage;
        }
        let (since, mut found) = (*since, StoredElsewhere::in_streams(listed));
        found.has_more_streams = !is_whole;
        self.state = Listing::Known { since, found };
        AfterPage::Known
    }

    /// Whether there are more streams than were looked at.
    pub(super) fn has_more_streams(&self) -> bool {
        matches!(&self.state, Listing::Known { found, .. } if found.has_more_streams)
    }

    /// The streams that hold a part of the name under other subjects than those of publishers. A copy counts only if no
    /// stream takes or makes such subjects itself, because a copy may be behind.
    pub(super) fn targets(&self, name: &str) -> Vec<Target> {
        match (Subject::parse(name), &self.state) {
            (Ok(name), Listing::Known { found, .. }) => found.targets(&name),
            _ => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(pages: &[String]) -> AllStreams {
        let (mut all, now) = (AllStreams::default(), Instant::now());
        assert!(all.ask(1, now) && !all.ask(2, now) && all.asked() == Some(1));
        for (n, page) in pages.iter().enumerate() {
            let want = match n + 1 == pages.len() {
                true => AfterPage::Known,
                false => AfterPage::NextPage,
            };
            let page = json::read(page.as_bytes()).expect("JSON");
            assert_eq!(all.add_page(page), want);
        }
        assert!(all.is_known(now) && !all.is_known(now + LIST_AGE_MAX));
        all
    }

    fn page(total: usize, configs: &[&str]) -> String {
        let stream =
            |config: &&str| format!(r#"{{"config":{{{config}}},"cluster":{{"leader":"s1"}}}}"#);
        let streams: Vec<String> = configs.iter().map(stream).collect();
        format!(r#"{{"total":{total},"streams":[{}]}}"#, streams.join(","))
    }

    fn found(all: &AllStreams, name: &str) -> Vec<(String, String)> {
        let targets = all.targets(name).into_iter();
        targets.map(|one| (one.stream, one.filter)).collect()
    }

    fn pair(stream: &str, filter: &str) -> (String, String) {
        (stream.to_owned(), filter.to_owned())
    }

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
    fn messages_are_found_under_the_subjects_that_transforms_make() {
        let all = known(&[page(
            4,
            &[
                r#""name":"T","subjects":["in.>"],"subject_transform":{"src":"in.>","dest":"out.>"}"#,
                r#""name":"O","subjects":["o.>"]"#,
                r#""name":"S","sources":[{"name":"O","subject_transforms":[{"src":"o.>","dest":"s.>"}]},{"name":"T"}]"#,
                r#""name":"M","mirror":{"name":"O","subject_transforms":[{"src":"o.>","dest":"m.{{wildcard(1)}}"}]}"#,
            ],
        )]);
        assert_eq!(found(&all, "out.a"), [pair("T", "out.a")]);
        assert_eq!(found(&all, "s.*"), [pair("S", "s.*")]);
        assert_eq!(found(&all, "m.>"), [pair("M", "m.*")]);
        assert_eq!(found(&all, "o.a"), []);
        assert_eq!(found(&all, ">").len(), 3);
    }

    #[test]
    fn a_copy_counts_if_no_stream_takes_the_subject() {
        let configs = [
            r#""name":"O","subjects":["o.>"]"#,
            r#""name":"SAME","sources":[{"name":"O"}]"#,
            r#""name":"BACK","sources":[{"name":"O","subject_transforms":[{"src":"o.a","dest":"o.b"}]}]"#,
            r#""name":"FAR","mirror":{"name":"O","external":{"api":"$JS.far.API"},"filter_subject":"far.*"}"#,
            r#""name":"LEFT","sources":[{"name":"GONE"}]"#,
            r#""name":"BAD","subjects":7"#,
        ];
        let pages: Vec<_> = configs
            .iter()
            .map(|one| page(configs.len(), &[one]))
            .collect();
        let all = known(&pages);
        assert_eq!(found(&all, "o.b"), []);
        assert_eq!(
            found(&all, "far.x"),
            [pair("FAR", "far.x"), pair("LEFT", "far.x")]
        );
        assert_eq!(found(&all, "else"), [pair("LEFT", "else")]);
    }

    #[test]
    fn the_streams_that_are_looked_through_are_bounded() {
        let mut all = AllStreams::default();
        let many = page(2_000, &vec![r#""name":"S","subjects":["a"]"#; 600]);
        let many = json::read(many.as_bytes()).expect("JSON");
        assert!(all.ask(1, Instant::now()));
        assert_eq!(all.request(), r#"{"offset":0}"#);
        assert_eq!(all.add_page(many), AfterPage::NextPage);
        assert_eq!(all.request(), r#"{"offset":600}"#);
        assert_eq!(all.add_page(many), AfterPage::Known);
        assert_eq!(
            (all.add_page(many), all.targets("a")),
            (AfterPage::Known, vec![])
        );
        assert!(all.has_more_streams());
        all.refused();
        assert!(!all.is_known(Instant::now()));
    }
}
