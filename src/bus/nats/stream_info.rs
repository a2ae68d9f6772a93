//! What the leader of a JetStream stream says about it: the newest message, and which servers have what the leader has.
//! Only the leader answers about a stream. A server of the stream that was away catches up, and until then knows the
//! stream up to an older message. Pure.

use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};

use super::account::limit;
use super::api::{ApiError, refusal};
use super::subjects::stored_subjects;
use crate::server_words::shown;
use weirgate_core::StoredId;
use weirgate_wire::auth::StreamSubjects;
use weirgate_wire::json::Json;

/// The shortest time in which the servers of a stream elect a new leader if they hear nothing of the old one. A leader
/// that is cut off from them notices after 10 s.
const ELECTION_NS: i64 = 4_000_000_000;
/// A server that has nearly all that the leader has may be read: under load each follower is some messages behind.
/// Servers that catch up are behind by all that they missed.
const LAG_MAX: u64 = 1_000;
/// After so long without a word of it, a stream that is copied is away.
const COPY_AWAY_NS: i64 = 10_000_000_000;
/// Memory of a kept message beside its bytes in the stream. A low estimate: too many messages are read then, and the history
/// forgets at once what does not fit.
const MESSAGE_BYTES: u64 = 256;

/// The state of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct StreamInfo {
    /// The newest message that was ever stored; `None` for a stream without any so far.
    pub(super) head: Option<StoredId>,
    /// The sequence number of the oldest message; of an empty stream, the number of the next message.
    pub(super) first: u64,
    /// When the stream was made, Unix nanoseconds; 0 if unknown.
    pub(super) created_ns: u64,
    /// The number of messages in the stream.
    pub(super) messages: u64,
    /// The bytes of all its messages, in the stream.
    pub(super) bytes: u64,
    /// The number of different subjects in the stream; 0 if unknown.
    pub(super) names: u64,
    pub(super) limits: StreamLimits,
    pub(super) retention: Retention,
    /// Whether a new message of a subject can remove an older one (`max_msgs_per_subject`), as in a key-value bucket.
    pub(super) overwrites: bool,
    /// Whether numbers may be missing of messages that the stream never had: a mirror has the numbers of its origin, and
    /// leaves out subjects that it does not copy (nats-server 2.10), and what its origin lacks: messages that were deleted
    /// there or, if the origin is a mirror itself, what it leaves out.
    pub(super) leaves_out: bool,
    /// Whether only the first messages of the stream can go: no user may remove others, and none expires by itself.
    pub(super) keeps_within: bool,
    /// Whether no user may purge the stream.
    pub(super) denies_purge: bool,
    /// The numbers behind the first message that the stream lacks, if they were asked for.
    pub(super) missing: Option<Vec<u64>>,
    /// The subjects of the messages in the stream; empty if unknown.
    pub(super) subjects: StreamSubjects,
    /// The streams that this one copies.
    pub(super) copied: Vec<CopiedStream>,
    cluster: Option<StreamCluster>,
}

/// How long a stream keeps a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(from = "String")]
pub(super) enum Retention {
    /// Up to the limits of the stream.
    #[default]
    Limits,
    /// Until all consumers have acknowledged it; not at all without a consumer.
    Interest,
    /// Until one consumer has acknowledged it.
    WorkQueue,
}

impl From<String> for Retention {
    fn from(word: String) -> Self {
        match word.as_str() {
            "interest" => Self::Interest,
            "workqueue" => Self::WorkQueue,
            _ => Self::Limits,
        }
    }
}

/// The configuration of a stream that decides whether it takes another message, and what it removes. `None`: no limit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct StreamLimits {
    pub(super) bytes_max: Option<u64>,
    pub(super) messages_max: Option<u64>,
    /// The age at which messages expire.
    pub(super) age_max: Option<Duration>,
    /// The size of a message.
    pub(super) message_bytes_max: Option<u64>,
    /// Messages of each subject, if the stream refuses more (`discard_new_per_subject`).
    pub(super) per_name_max: Option<u64>,
    /// Whether a full stream refuses new messages (`discard: new`). Otherwise the oldest ones go.
    pub(super) refuses_new: bool,
    pub(super) is_sealed: bool,
    pub(super) is_in_memory: bool,
    pub(super) replicas: u64,
}

/// A stream that another one copies, as a mirror or as one of its sources.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(default)]
pub(super) struct CopiedStream {
    name: String,
    /// Nanoseconds since the server has heard of it; negative: not yet.
    active: i64,
}

impl CopiedStream {
    /// Whether the server has heard nothing of it for 10 s. It hears of a stream that it copies each second, also without
    /// messages.
    pub(super) const fn is_away(&self) -> bool {
        self.active < 0 || self.active > COPY_AWAY_NS
    }

    /// Its name, for the log.
    pub(super) fn shown_name(&self) -> String {
        shown(&self.name)
    }

    /// For how long the server has heard nothing of it, milliseconds; `None`: it never did.
    pub(super) fn silent_ms(&self) -> Option<u64> {
        let silent_ns = u64::try_from(self.active).ok();
        silent_ns.map(|ns| ns / 1_000_000)
    }
}

/// The answer about a stream, as far as it counts here.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(default)]
struct Reply {
    created: String,
    config: StreamConfig,
    state: Stored,
    cluster: Option<StreamCluster>,
    mirror: Option<CopiedStream>,
    sources: Option<Vec<CopiedStream>>,
}

#[derive(Debug, Default, serde::Deserialize)]
#[serde(default)]
struct StreamConfig {
    retention: Retention,
    max_bytes: i64,
    max_msgs: i64,
    max_age: i64,
    max_msg_size: i64,
    max_msgs_per_subject: i64,
    discard: String,
    discard_new_per_subject: bool,
    sealed: bool,
    storage: String,
    num_replicas: i64,
    mirror: Option<serde::de::IgnoredAny>,
    deny_delete: bool,
    deny_purge: bool,
    allow_msg_ttl: bool,
}

impl StreamConfig {
    const fn overwrites(&self) -> bool {
        self.max_msgs_per_subject > 0
    }

    /// As [`StreamInfo::keeps_within`]. A rollup needs the permission to purge.
    fn keeps_within(&self) -> bool {
        let is_denied = self.deny_delete && self.deny_purge;
        let can_end = self.allow_msg_ttl || self.overwrites();
        is_denied && !can_end && self.retention == Retention::Limits
    }
}

#[derive(Debug, Default, serde::Deserialize)]
#[serde(default)]
struct Stored {
    messages: Option<u64>,
    bytes: u64,
    first_seq: u64,
    last_seq: Option<u64>,
    last_ts: String,
    num_subjects: u64,
    deleted: Option<Vec<u64>>,
}

impl StreamLimits {
    /// Reads the limits of a configuration, in which a number below 1 means no limit.
    fn of(config: &StreamConfig) -> Self {
        let per_name_max = limit(config.max_msgs_per_subject);
        Self {
            bytes_max: limit(config.max_bytes),
            messages_max: limit(config.max_msgs),
            age_max: limit(config.max_age).map(Duration::from_nanos),
            message_bytes_max: limit(config.max_msg_size),
            per_name_max: per_name_max.filter(|_| config.discard_new_per_subject),
            refuses_new: config.discard == "new",
            is_sealed: config.sealed,
            is_in_memory: config.storage == "memory",
            replicas: limit(config.num_replicas).unwrap_or(1),
        }
    }
}

/// The servers of a stream in a cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(default)]
pub(super) struct StreamCluster {
    name: String,
    leader: String,
    replicas: Vec<Replica>,
}

/// A server beside the leader that has a copy of a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(default)]
struct Replica {
    name: String,
    /// Whether it has all that the leader has.
    current: bool,
    offline: bool,
    /// Nanoseconds since the leader has heard of it; 0: not yet.
    active: i64,
    /// The number of operations that it lacks.
    lag: u64,
}

impl Replica {
    /// Whether the leader has heard of it lately. One of which it has not heard yet (0) counts as reached.
    fn is_reached(&self) -> bool {
        self.active < ELECTION_NS
    }

    /// Whether a consumer on this server gives nearly what one on the leader gives.
    fn serves(&self) -> bool {
        let is_near = (1..=LAG_MAX).contains(&self.lag);
        !self.offline && self.is_reached() && (self.current || is_near)
    }
}

impl StreamCluster {
    /// The servers in the answer about a stream; `None` without a cluster.
    ///
    /// # Errors
    /// Nobody leads the stream, or another server may: a server that is cut off from its cluster goes on answering.
    pub(super) fn read(answer: Json<'_>) -> Result<Option<Self>, ApiError> {
        let cluster = answer.get(&["cluster"]);
        Self::led(
            cluster.and_then(|cluster| Json::of(&cluster).parse().ok()),
            answer,
        )
    }

    /// Returns the servers of the stream, or `None` without a cluster. The error is that the stream has no leader, or
    /// that its leader does not reach most of the servers (itself included). `answer` is only for the name in the
    /// error.
    fn led(cluster: Option<Self>, answer: Json<'_>) -> Result<Option<Self>, ApiError> {
        let Some(cluster) = cluster.filter(|cluster| !cluster.name.is_empty()) else {
            return Ok(None);
        };
        let reached = cluster.replicas.iter().filter(|one| one.is_reached());
        let reaches_most = 2 * (1 + reached.count()) > 1 + cluster.replicas.len();
        match cluster.leader.is_empty() || !reaches_most {
            true => {
                let stream = answer.text(&["config", "name"]);
                Err(ApiError::NoLeader(stream.unwrap_or_default()))
            }
            false => Ok(Some(cluster)),
        }
    }
}

impl StreamInfo {
    /// Reads the answer about a stream.
    ///
    /// # Errors
    /// JetStream refuses, the answer cannot be read, nobody leads the stream, or the stream is being made.
    pub(super) fn read(answer: &[u8]) -> Result<Self, ApiError> {
        Self::of(read_answer(answer)?)
    }

    /// As [`Self::read`], of an answer without an error.
    pub(super) fn of(answer: Json<'_>) -> Result<Self, ApiError> {
        let Reply {
            created,
            config,
            state,
            cluster,
            mirror,
            sources,
        } = answer.parse()?;
        let cluster = StreamCluster::led(cluster, answer)?;
        check_made(&created)?;
        let major = state.last_seq;
        let major = major.ok_or_else(|| ApiError::Unreadable("no state".to_owned()))?;
        // 0: the time is not known.
        let minor = unix_ns(&state.last_ts).unwrap_or(0);
        let copied = mirror.into_iter().chain(sources.unwrap_or_default());
        Ok(Self {
            head: (major > 0).then_some(StoredId { major, minor }),
            first: match state.messages {
                Some(0) => major + 1,
                _ => state.first_seq,
            },
            created_ns: unix_ns(&created).unwrap_or(0),
            messages: state.messages.unwrap_or(0),
            bytes: state.bytes,
            names: state.num_subjects,
            limits: StreamLimits::of(&config),
            copied: copied.collect(),
            retention: config.retention,
            overwrites: config.overwrites(),
            leaves_out: config.mirror.is_some(),
            keeps_within: config.keeps_within(),
            denies_purge: config.deny_purge,
            missing: state.deleted,
            subjects: stored_subjects(answer),
            cluster,
        })
    }

    /// Whether a consumer may begin at a time, whatever becomes of the messages. If messages within a stream in memory
    /// are gone ([`Self::has_holes`]), nats-server 2.9.10 crashes while it looks for a time.
    pub(super) const fn can_start_at_time(&self) -> bool {
        !self.limits.is_in_memory
    }

    /// How many numbers up to the newest have no message.
    pub(super) fn gone(&self) -> u64 {
        self.head_number().saturating_sub(self.messages)
    }

    /// Whether messages within the stream are gone, or may be by the time that a consumer is made.
    pub(super) fn has_holes(&self) -> bool {
        let numbers = (self.head_number() + 1).saturating_sub(self.first);
        self.overwrites || self.messages < numbers
    }

    /// How many messages of this stream fit in so many bytes of memory, by their mean size; at least one.
    pub(super) fn messages_in(&self, memory_bytes: u64) -> u64 {
        (memory_bytes / (self.message_bytes() + MESSAGE_BYTES)).max(1)
    }

    /// The mean size of a message in the stream, bytes; 0 of an empty stream.
    pub(super) fn message_bytes(&self) -> u64 {
        self.bytes.checked_div(self.messages).unwrap_or(0)
    }

    /// The sequence number of the newest message; 0 without any so far.
    pub(super) fn head_number(&self) -> u64 {
        self.head.map_or(0, |head| head.major)
    }

    /// The server that leads the stream; empty without a cluster.
    pub(super) fn leader(&self) -> &str {
        self.cluster.as_ref().map_or("", |cluster| &cluster.leader)
    }

    /// Whether a consumer on this server gives what the leader has. `None`: the server has no cluster.
    pub(super) fn serves(&self, server: Option<&str>) -> bool {
        let (Some(cluster), Some(server)) = (&self.cluster, server) else {
            return true;
        };
        let mut replicas = cluster.replicas.iter();
        server == cluster.leader || replicas.any(|one| one.name == server && one.serves())
    }
}

/// The message in the leader's answer to the question for a message (`STREAM.MSG.GET`): its number and time. `None`:
/// there is no such message.
///
/// # Errors
/// JetStream refuses, or the answer cannot be read.
pub(super) fn stored_message(answer: &[u8]) -> Result<Option<StoredId>, ApiError> {
    let answer = match read_answer(answer) {
        Err(error) if error.message_is_missing() => return Ok(None),
        answer => answer?,
    };
    let major = answer.number(&["message", "seq"]);
    let minor = answer.text(&["message", "time"]);
    match (major, minor.as_deref().and_then(unix_ns)) {
        (Some(major), Some(minor)) => Ok(Some(StoredId { major, minor })),
        _ => Err(ApiError::Unreadable("no message".to_owned())),
    }
}

/// A time in the form of JetStream's API, from Unix nanoseconds.
pub(super) fn rfc_3339(unix_ns: u64) -> String {
    let time = DateTime::<Utc>::from_timestamp_nanos(i64::try_from(unix_ns).unwrap_or(i64::MAX));
    time.to_rfc3339_opts(SecondsFormat::Nanos, true)
}

/// Checks by its creation time that a stream has been made.
///
/// # Errors
/// The server knows the name already, but has not made the stream: two clients that make a stream at once may get such
/// an answer. Its creation time is the zero of Go, and another one a moment later would count as another stream.
pub(super) fn check_made(created: &str) -> Result<(), ApiError> {
    match created.starts_with("0001-01-01T") {
        true => Err(ApiError::Unfinished),
        false => Ok(()),
    }
}

/// Unix nanoseconds of a time in the form of JetStream's API.
pub(super) fn unix_ns(text: &str) -> Option<u64> {
    let time = DateTime::parse_from_rfc3339(text).ok()?;
    u64::try_from(time.timestamp_nanos_opt()?).ok()
}

/// Reads an answer that is no error.
///
/// # Errors
/// JetStream refuses, or the answer cannot be read.
pub(super) fn read_answer(answer: &[u8]) -> Result<Json<'_>, ApiError> {
    let answer = Json::read(answer)?;
    refusal(answer).map_or(Ok(answer), Err)
}
