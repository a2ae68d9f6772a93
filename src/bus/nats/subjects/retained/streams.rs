//! Which streams hold the messages of a name, by the answers of JetStream. It finds a stream by the subjects that the
//! stream takes from publishers; [`super::all_streams`] has the others.

use std::collections::VecDeque;

use sonic_rs::LazyValue;
use weirgate_wire::auth::Subject;
use weirgate_wire::json::Json;

use super::LIMITS;
use super::stream_config::{StreamConfig, stored_subjects};
use crate::nats::consumer_limits::{ConsumerLimits, PermittedLimits};
use crate::nats::stream_info::check_made;

/// The part of a name in a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct StreamPart {
    pub(super) stream: String,
    /// The name or pattern in the stream; empty: all of the stream.
    pub(super) filter: String,
    /// The server that leads the stream; empty if nobody does, or without a cluster.
    pub(super) leader: String,
    /// When the stream was made, as the server says it.
    pub(super) made: String,
    /// The number of the last message in the stream; `None` if it is not known.
    pub(super) last: Option<u64>,
    /// As [`StreamConfig::uncovers_older`].
    pub(super) uncovers_older: bool,
    /// How many messages of a subject the stream keeps at most; `None`: any number.
    pub(super) kept_max: Option<u64>,
    /// Whether messages behind the first one are missing.
    pub(super) has_holes: bool,
    /// The limits of a consumer of the part.
    pub(super) limits: ConsumerLimits,
}

impl Default for StreamPart {
    fn default() -> Self {
        Self {
            stream: String::new(),
            filter: String::new(),
            leader: String::new(),
            made: String::new(),
            last: None,
            uncovers_older: false,
            kept_max: None,
            has_holes: false,
            limits: LIMITS,
        }
    }
}

impl StreamPart {
    /// Whether both are the same part of the same stream.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        (&self.stream, &self.filter) == (&other.stream, &other.filter)
    }

    /// Whether the server makes the stream at this moment.
    pub(super) fn is_being_made(&self) -> bool {
        check_made(&self.made).is_err()
    }
}

/// A stream of the list.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(default)]
pub(super) struct ListedStream {
    pub(super) config: StreamConfig,
    created: String,
    state: StreamNumbers,
    cluster: Option<Cluster>,
}

#[derive(Debug, Default, serde::Deserialize)]
#[serde(default)]
struct StreamNumbers {
    messages: u64,
    first_seq: u64,
    last_seq: u64,
}

impl StreamNumbers {
    /// Whether messages behind the first one are missing.
    const fn has_holes(&self) -> bool {
        self.first_seq + self.messages <= self.last_seq
    }
}

#[derive(Debug, Default, serde::Deserialize)]
#[serde(default)]
struct Cluster {
    leader: String,
}

impl ListedStream {
    /// `None` for JSON of another form.
    fn read(stream: &LazyValue<'_>) -> Option<Self> {
        Json::of(stream).parse().ok()
    }
}

/// The streams in an answer with a list; one of another form has no subjects.
pub(super) fn listed_streams(answer: &Json<'_>) -> Vec<ListedStream> {
    let streams = answer.get(&["streams"]);
    let items = streams
        .iter()
        .filter_map(|streams| Json::of(streams).items());
    let streams = items.flatten().map(|stream| ListedStream::read(&stream));
    streams.map(Option::unwrap_or_default).collect()
}

/// A stream, with subjects of messages that it holds.
#[derive(Debug)]
pub(super) struct HoldingStream {
    stream: String,
    /// The server that leads the stream; empty if nobody does, or without a cluster.
    leader: String,
    /// When it was made, and the number of its last message.
    pub(super) made: String,
    last: Option<u64>,
    uncovers_older: bool,
    kept_max: Option<u64>,
    has_holes: bool,
    permitted: PermittedLimits,
    subjects: Vec<Subject>,
}

impl HoldingStream {
    /// A stream of the list as one that holds messages of these subjects.
    pub(super) fn of(stream: &ListedStream, subjects: Vec<Subject>) -> Self {
        let leader = stream.cluster.as_ref();
        let leader = leader.map(|cluster| cluster.leader.clone());
        Self {
            stream: stream.config.name.clone(),
            leader: leader.unwrap_or_default(),
            made: stream.created.clone(),
            last: Some(stream.state.last_seq),
            uncovers_older: stream.config.uncovers_older(),
            kept_max: stream.config.kept_max(),
            has_holes: stream.state.has_holes(),
            permitted: stream.config.consumer_limits.unwrap_or_default(),
            subjects,
        }
    }

    /// The stream of an answer about it, with all of its subjects.
    fn answered(answer: Json<'_>) -> Self {
        let subjects = stored_subjects(answer);
        let config = answer.get(&["config"]);
        let config = config.and_then(|config| Json::of(&config).parse().ok());
        let config: StreamConfig = config.unwrap_or_default();
        let state = answer.get(&["state"]);
        let state = state.and_then(|state| Json::of(&state).parse().ok());
        Self {
            stream: answer.text(&["config", "name"]).unwrap_or_default(),
            leader: answer.text(&["cluster", "leader"]).unwrap_or_default(),
            made: answer.text(&["created"]).unwrap_or_default(),
            last: answer.number(&["state", "last_seq"]),
            uncovers_older: config.uncovers_older(),
            kept_max: config.kept_max(),
            has_holes: state.is_some_and(|state: StreamNumbers| state.has_holes()),
            permitted: config.consumer_limits.unwrap_or_default(),
            subjects: (subjects.stored().iter())
                .filter_map(|subject| Subject::parse(subject).ok())
                .collect(),
        }
    }

    /// What the subjects have in common with the name.
    pub(super) fn subjects_of(&self, name: &Subject) -> impl Iterator<Item = Subject> {
        let subjects = self.subjects.iter();
        subjects.filter_map(|subject| name.intersection(subject))
    }

    /// The part with this subject.
    pub(super) fn part(&self, subject: &Subject) -> StreamPart {
        StreamPart {
            stream: self.stream.clone(),
            filter: subject.to_string(),
            leader: self.leader.clone(),
            made: self.made.clone(),
            last: self.last,
            uncovers_older: self.uncovers_older,
            kept_max: self.kept_max,
            has_holes: self.has_holes,
            limits: LIMITS.within(self.permitted),
        }
    }

    /// The parts of the name in the stream.
    pub(super) fn parts_of(&self, name: &Subject) -> impl Iterator<Item = StreamPart> {
        self.subjects_of(name).map(|subject| self.part(&subject))
    }
}

/// The parts of the name in the stream of an answer about it, copies of other streams too.
pub(super) fn parts_in_stream(name: &str, answer: Json<'_>) -> Vec<StreamPart> {
    let Ok(name) = Subject::parse(name) else {
        return Vec::new();
    };
    HoldingStream::answered(answer).parts_of(&name).collect()
}

/// The number of the last message of a stream in an answer about it, or with a list of streams.
pub(super) fn last_number(stream: &str, answer: Json<'_>) -> Option<u64> {
    if answer
        .text(&["config", "name"])
        .is_some_and(|name| name == stream)
    {
        return answer.number(&["state", "last_seq"]);
    }
    let listed = listed_streams(&answer).into_iter();
    let mut found = listed.filter(|listed| listed.config.name == stream);
    found.next().map(|listed| listed.state.last_seq)
}

/// The parts of a name in streams that take them from publishers.
#[derive(Debug)]
pub(super) struct PartsFound {
    pub(super) parts: VecDeque<StreamPart>,
    /// The server knows more streams of the name than the answer has.
    pub(super) has_more_streams: bool,
}

/// The parts of the name in the streams of an answer with a list, as far as the streams take them from publishers. A
/// consumer's filter has to lie within one subject of its stream.
pub(super) fn parts_taken_by_streams(name: &str, answer: Json<'_>) -> PartsFound {
    let (mut parts, streams) = (VecDeque::new(), listed_streams(&answer));
    if let Ok(name) = Subject::parse(name) {
        for stream in &streams {
            let subjects = stream.config.published().collect();
            parts.extend(HoldingStream::of(stream, subjects).parts_of(&name));
        }
    }
    // Without a count, there are no more.
    let has_more_streams = answer.number(&["total"]).unwrap_or(0) > streams.len() as u64;
    PartsFound {
        parts,
        has_more_streams,
    }
}

/// A stream that takes a part of a name from publishers.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::nats) struct StreamOfName {
    pub(in crate::nats) stream: String,
    /// Why a pattern gets no last values of it; `None`: it gets them.
    pub(in crate::nats) gives_no_pattern: Option<&'static str>,
}

/// The streams of an answer with a list that take a part of the name from publishers.
pub(in crate::nats) fn streams_taking(name: &str, answer: Json<'_>) -> Vec<StreamOfName> {
    let Ok(name) = Subject::parse(name) else {
        return Vec::new();
    };
    let mut taking = listed_streams(&answer);
    taking.retain(|stream| {
        let mut subjects = stream.config.published();
        subjects.any(|subject| name.intersection(&subject).is_some())
    });
    let taking = taking.into_iter().map(|stream| StreamOfName {
        gives_no_pattern: stream.config.gives_no_pattern(),
        stream: stream.config.name,
    });
    taking.collect()
}
