//! What the subscription to a name brings: where its messages come from, how far back they reach, and how old the newest
//! is. The answers to clients, the operator's page and the metrics are made of this. Nothing of it is stored for a
//! subscription: it follows from the gateway, the history and the topic.

use super::core::Core;
use super::gateway::Gateway;
use super::{FoundName, HistoryStats, TopicName};

/// Where the messages of a name come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameSource {
    /// From the bus, as they are published.
    Live,
    /// As [`Self::Live`]; the last values come first.
    Retained,
    /// From the kept feed: names that the process reads from its start on.
    Kept,
    /// From a stream of the bus, which is the kept feed.
    Stream,
}

impl NameSource {
    /// The word for clients and operators.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Retained => "retained",
            Self::Kept => "kept",
            Self::Stream => "stream",
        }
    }

    /// Whether the history has messages of such names.
    pub const fn is_kept(self) -> bool {
        matches!(self, Self::Kept | Self::Stream)
    }
}

/// Whether the bus has confirmed the subscription to a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnBus {
    /// Messages come.
    Confirmed,
    /// The bus has not answered yet, or is away.
    Unconfirmed,
    /// The bus refuses the name: no message comes.
    Refused,
}

/// Why the history of a name is shorter than `--history-ms`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ShortHistory {
    /// Nothing from before is known here: a start, or a loss of the bus.
    #[default]
    Start,
    /// The limit on the bytes of the history.
    Bytes,
    /// A message of the name was left out, because it is too large.
    LeftOut,
}

impl ShortHistory {
    /// The word for clients and metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Bytes => "bytes",
            Self::LeftOut => "large",
        }
    }
}

/// How far back the kept messages reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reach {
    /// The age of the oldest time from which on no message is missing, microseconds.
    pub us: u64,
    /// Why this is less than `--history-ms`; `None` if it is not.
    pub short: Option<ShortHistory>,
}

/// Why the last values of a name, or all of its messages, are not whole: the `cut` of the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetainedCut {
    /// A pattern has more values than are sent.
    Limit,
    /// While clients waited for the values of a pattern, more of its subjects had live messages than are remembered: an
    /// older value could follow a newer message.
    Live,
    /// Subjects are no names for clients: not UTF-8, or too long.
    Unnamed,
    /// The bus does not give the values, or does not answer.
    Refused,
    /// An answer of the bus cannot be read.
    Unreadable,
    /// Messages after the client's position are no longer kept.
    Window,
    /// The client's position is of another stream, or of another epoch of the stream (it was made anew, or went back in
    /// time).
    Epoch,
    /// Nothing is kept of the name.
    Off,
    /// A message is larger than the gateway relays.
    Large,
    /// The bus is away.
    Away,
    /// Messages were lost after one of the newest that are known, so these may be outdated.
    Lost,
}

impl RetainedCut {
    /// The word for clients.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Limit => "limit",
            Self::Live => "live",
            Self::Unnamed => "unnamed",
            Self::Refused => "refused",
            Self::Unreadable => "unreadable",
            Self::Window => "window",
            Self::Epoch => "epoch",
            Self::Off => "off",
            Self::Large => "large",
            Self::Away => "away",
            Self::Lost => "lost",
        }
    }
}

/// What a client gets of a name that it subscribes to: messages from where, and since when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Brings {
    /// Where the messages come from.
    pub from: NameSource,
    /// The bus's word on the subscription.
    pub on_bus: OnBus,
    /// How far back the history of the name reaches; `None` without one.
    pub reach: Option<Reach>,
    /// The age of the newest message of the name, microseconds. `None`: there was none in the history, nor since the
    /// first of the present members joined.
    pub newest_us: Option<u64>,
}

impl Brings {
    /// The word for operators: where the messages come from, or why none come.
    pub const fn label(&self) -> &'static str {
        match self.on_bus {
            OnBus::Confirmed => self.from.label(),
            OnBus::Unconfirmed => "unconfirmed",
            OnBus::Refused => "refused",
        }
    }
}

impl HistoryStats {
    /// How far back the messages reach; `None` while none have a position. `unix_us` is the time now.
    pub fn reach(&self, unix_us: i64) -> Option<Reach> {
        let us = unix_us.saturating_sub(self.since_unix_us?);
        // 0 if the clock was set back.
        let us = u64::try_from(us).unwrap_or_default();
        Some(Reach {
            us,
            short: Some(self.short).filter(|_| us < self.keep_us),
        })
    }
}

impl Core {
    /// What the subscription to a name brings. The gateway says where the messages come from.
    pub fn brings(&self, name: &TopicName, (from, on_bus): (NameSource, OnBus)) -> Brings {
        let history = self.history.as_ref().filter(|_| from.is_kept());
        let has_positions = history.is_some_and(|history| !history.is_off);
        let from = match from {
            // Without positions no client can resume, so to clients these messages are as live ones.
            NameSource::Kept if !has_positions => NameSource::Live,
            from => from,
        };
        // A history that is being filled has nothing for clients yet.
        let history = history.filter(|_| !self.is_filling);
        let traffic = self.topics.traffic(name, self.now);
        let live_us = traffic
            .last_us
            .map(|at| self.now.mono_us.saturating_sub(at));
        let newest = history.and_then(|history| history.newest_unix_us(name));
        let kept_us = newest.map(|at| {
            let age_us = self.now.unix_us.saturating_sub(at);
            // 0 if the clock was set back.
            u64::try_from(age_us).unwrap_or_default()
        });
        Brings {
            from,
            on_bus,
            reach: history.and_then(|history| history.reach(name, self.now.unix_us)),
            newest_us: live_us.into_iter().chain(kept_us).min(),
        }
    }
}

/// A name with its members and messages, for operators.
pub(super) fn visit_name<G: Gateway>(core: &Core, gateway: &G, name: &TopicName) -> FoundName {
    let traffic = core.topics.traffic(name, core.now);
    FoundName {
        name: (core.shown_topic)(name),
        brings: core.brings(name, gateway.source_of(name)),
        subjects: gateway.subjects_of(name).map(<[String]>::to_vec),
        members: traffic.members,
        messages: traffic.messages,
        usual_gap_us: traffic.usual_gap_us,
    }
}
