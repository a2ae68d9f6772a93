//! Why a client gets what it gets, and what it does not get: a sentence for the operator, with its cause.
//!
//! The `brings` of a name say from where its messages come, whether the bus has confirmed it, how old its newest
//! message is, and how far its history reaches back.

use super::super::state::some_text;
use super::AnswerContext;
use crate::telemetry::MetricsReading;
use weirgate_core::{
    ClientState, FoundClient, FoundName, NameRefusal, NameSource, OnBus, RefusedName, ShortHistory,
};
use weirgate_runtime::BusStatus;

/// Names without a message for this long are worth a sentence.
const QUIET_US: u64 = 60_000_000;

/// A gateway that is this far behind a stream is the reason that its clients see old messages.
const BEHIND_US: u64 = 5_000_000;

/// The sentence shows refusals of names that are not older.
const REFUSED_LATELY_US: u64 = 600_000_000;

/// The sentence about a client.
pub(super) struct Verdict {
    /// The label of the first reason.
    pub(super) cause: &'static str,
    /// The sentence.
    pub(super) say: String,
    /// For how long the first reason has applied, microseconds; `None`: unknown.
    pub(super) since_us: Option<u64>,
}

impl AnswerContext<'_> {
    /// Why a client gets what it gets: the first reason that applies. The sentence has all of them.
    pub(super) fn verdict(&self, found: &FoundClient) -> Verdict {
        let reasons = [
            slow(found),
            self.refused(found),
            self.refused_by_bus(found),
            self.feed(found),
            self.stopped(found),
            no_names(found),
            unconfirmed(found),
            own_rate(found),
            quiet(found),
            unknown(found),
        ];
        let mut reasons = reasons.into_iter().flatten();
        let mut first = reasons.next().unwrap_or_else(|| healthy(found));
        let others = reasons.map(|other| other.say).chain(short_history(found));
        for other in others {
            first.say += "; ";
            first.say += &other;
        }
        first
    }

    /// A stream that takes no messages, and from which messages of the client's names come.
    fn stopped(&self, found: &FoundClient) -> Option<Verdict> {
        let bus = self.telemetry.bus()?;
        let stopped = bus
            .streams()
            .into_iter()
            .filter(|(_, state)| state.is_stopped);
        let mut of_client = stopped.filter(|(stream, _)| {
            let subjects = bus.subjects_of_stream(stream);
            let mut names = found.names.iter();
            names.any(|one| is_of_stream(one, subjects.as_deref()))
        });
        let (stream, state) = of_client.next()?;
        Some(Verdict {
            cause: "stream_stopped",
            say: format!("the stream {stream} {}", state.text),
            since_us: None,
        })
    }

    /// The names that the client was refused lately and does not have by now, the newest first, with their ages.
    fn refused_lately<'b>(
        &'b self,
        found: &'b FoundClient,
    ) -> impl Iterator<Item = (&'b RefusedName, u64)> {
        let gets = |name: &FoundName| name.brings.on_bus == OnBus::Confirmed;
        let has_by_now = move |refused: &RefusedName| {
            let mut names = found.names.iter();
            names.any(|name| gets(name) && refused.is_of_name(&name.name))
        };
        let refused = self.surveyed.survey.refused_names.iter();
        let refused = refused.filter(|refused| refused.session == found.snapshot.session);
        refused
            .map(|refused| (refused, self.now.mono_us.saturating_sub(refused.at_us)))
            .filter(move |(refused, age)| *age <= REFUSED_LATELY_US && !has_by_now(refused))
    }

    /// The names that the bus refuses, if the record of their refusal is old or displaced: no message of them comes.
    fn refused_by_bus(&self, found: &FoundClient) -> Option<Verdict> {
        let is_listed = |one: &FoundName| {
            let mut lately = self.refused_lately(found);
            lately.any(|(refused, _)| refused.is_of_name(&one.name))
        };
        let names = names_with(found, OnBus::Refused, |one| !is_listed(one))?;
        Some(Verdict {
            cause: "refused_name",
            say: format!("does not get {names}: {}", NameRefusal::Bus.words()),
            since_us: None,
        })
    }

    /// The newest name that the client was refused lately, with the number of others.
    fn refused(&self, found: &FoundClient) -> Option<Verdict> {
        let mut lately = self.refused_lately(found);
        let (newest, age_us) = lately.next()?;
        let others = match lately.count() {
            0 => String::new(),
            n => format!(", and {n} more"),
        };
        let (name, words) = (newest.name.as_str(), newest.reason.words());
        let role = newest
            .role
            .as_deref()
            .map_or_else(String::new, |role| format!(" ({role})"));
        Some(Verdict {
            cause: "refused_name",
            say: format!(
                "does not get {name}{others}, refused {}: {words}{role}",
                ago(age_us)
            ),
            since_us: Some(age_us),
        })
    }

    /// What many clients of the gateway have: the bus is away, or the gateway is behind it.
    fn feed(&self, found: &FoundClient) -> Option<Verdict> {
        if let Some(away_us) = self.bus_away_ms().map(|ms| ms * 1_000) {
            return Some(Verdict {
                cause: "bus_away",
                say: format!("the bus is away for {}", time(away_us)),
                since_us: Some(away_us),
            });
        }
        let at = MetricsReading::read(self.telemetry);
        let behind = self.telemetry.bus().and_then(BusStatus::stream_behind);
        // `None`: of any stream.
        let has_stream = found.names.iter().any(|one| is_of_stream(one, None));
        let behind = behind.filter(|_| has_stream);
        let behind_us = behind.map_or(0, |(_, ms)| ms * 1_000);
        let say = match () {
            () if behind_us >= BEHIND_US => {
                let behind = time(behind_us);
                format!("weirgate is {behind} behind the newest message of the stream")
            }
            () if at.turn.hub.overload.is_behind => {
                "weirgate cannot write every message to every client: the loop is behind".to_owned()
            }
            () => return None,
        };
        Some(Verdict {
            cause: "behind",
            say,
            since_us: None,
        })
    }
}

/// Whether messages of the name come from a stream with one of these subjects. If they or those of the name are not
/// known, any stream counts.
fn is_of_stream(name: &FoundName, subjects: Option<&[String]>) -> bool {
    let has_one = match (&name.subjects, subjects) {
        (Some(own), Some(subjects)) => own.iter().any(|subject| subjects.contains(subject)),
        _ => true,
    };
    name.brings.from == NameSource::Stream && has_one
}

/// Returns the first of the client's names that are in this state on the bus and are wanted, with the number of others;
/// `None` if there is none.
fn names_with(
    found: &FoundClient,
    on_bus: OnBus,
    is_wanted: impl Fn(&FoundName) -> bool,
) -> Option<String> {
    let names = found.names.iter();
    let mut names = names.filter(|one| one.brings.on_bus == on_bus && is_wanted(one));
    let first = names.next()?.name.as_str();
    Some(match names.count() {
        0 => first.to_owned(),
        n => format!("{first}, and {n} more"),
    })
}

/// A client with names whose subscription the bus has not confirmed: messages may not come yet.
fn unconfirmed(found: &FoundClient) -> Option<Verdict> {
    let names = names_with(found, OnBus::Unconfirmed, |_| true)?;
    Some(Verdict {
        cause: "unconfirmed",
        say: format!("the bus has not confirmed the subscription to {names}"),
        since_us: None,
    })
}

/// Why a client is slow: the cause that the core has found, or else the state of its queue.
fn slow(found: &FoundClient) -> Option<Verdict> {
    let snapshot = &found.snapshot;
    if let Some(slow) = &snapshot.slow
        && let Some(why) = slow.why
    {
        let words = some_text(&slow.say).unwrap_or("no cause is certain");
        return Some(Verdict {
            cause: why.label(),
            say: format!("slow for {}: {words}", time(slow.slow_us)),
            since_us: Some(slow.slow_us),
        });
    }
    let words = match snapshot.state {
        ClientState::Blocked => "its kernel takes no more bytes",
        ClientState::Conflating => "newer messages replace older ones for it",
        ClientState::OverSoft => "so much waits for it that it is dropped unless it reads in time",
        _ => return None,
    };
    Some(Verdict {
        cause: snapshot.state.label(),
        say: format!("{words}; {} messages wait", snapshot.queue_messages),
        since_us: snapshot.oldest_us,
    })
}

fn no_names(found: &FoundClient) -> Option<Verdict> {
    (found.snapshot.topics == 0).then(|| Verdict {
        cause: "no_names",
        say: "holds no name: it has subscribed to nothing, or has given all up".to_owned(),
        since_us: None,
    })
}

/// A client that has asked for a limit on its states a second.
fn own_rate(found: &FoundClient) -> Option<Verdict> {
    let hz = found.max_rate?.hz();
    Some(Verdict {
        cause: "own_rate",
        say: format!("has asked for at most {hz} states a second of each name (max_hz)"),
        since_us: None,
    })
}

/// A client of whose names one is silent for longer than usual, or all have had no message for long.
fn quiet(found: &FoundClient) -> Option<Verdict> {
    silent_name(found).or_else(|| silent_client(found))
}

/// A client with a name that is silent for longer than usual.
fn silent_name(found: &FoundClient) -> Option<Verdict> {
    // The gap is there only if the name is silent for longer than usual.
    let silent = |one: &&FoundName| one.usual_gap_us.is_some();
    let one = found.names.iter().find(silent)?;
    let (age_us, gap_us) = (one.brings.newest_us?, one.usual_gap_us?);
    let others = match found.names.iter().filter(silent).count() - 1 {
        0 => String::new(),
        n => format!(", and nothing for {n} more names"),
    };
    let (name, age, gap) = (one.name.as_str(), time(age_us), time(gap_us));
    Some(Verdict {
        cause: "quiet",
        say: format!(
            "nothing is published for {name}: its newest message is {age} old, and before there was one every {gap} \
             at least{others}"
        ),
        since_us: Some(age_us),
    })
}

/// A client whose names have all had no message for long; `None` also if not all of its names were looked at.
fn silent_client(found: &FoundClient) -> Option<Verdict> {
    let count = found.names.len() as u64;
    if count == 0 || count < found.snapshot.topics {
        return None;
    }
    let Some((age_us, one)) = newest(found) else {
        return Some(Verdict {
            cause: "quiet",
            say: format!(
                "none of its {count} names has had a message since the first client held it"
            ),
            since_us: None,
        });
    };
    (age_us >= QUIET_US).then(|| Verdict {
        cause: "quiet",
        say: format!(
            "nothing is published: the newest message of its names is {} old ({})",
            time(age_us),
            one.name.as_str()
        ),
        since_us: Some(age_us),
    })
}

/// The newest message of the client's names that were looked at: its age, and the name.
fn newest(found: &FoundClient) -> Option<(u64, &FoundName)> {
    let names = found.names.iter();
    let newest = names.filter_map(|one| Some((one.brings.newest_us?, one)));
    newest.min_by_key(|(age_us, _)| *age_us)
}

/// A client that may be healthy or quiet: a search looks at a part of the names only, and these have had no message
/// lately.
fn unknown(found: &FoundClient) -> Option<Verdict> {
    let (looked_at, all) = (found.names.len() as u64, found.snapshot.topics);
    let is_fresh = newest(found).is_some_and(|(age_us, _)| age_us < QUIET_US);
    (looked_at < all && !is_fresh).then(|| Verdict {
        cause: "unknown",
        say: match looked_at {
            0 => format!("its {all} names were not looked at: search for its session"),
            _ => format!(
                "{looked_at} of its {all} names were looked at, and these have had no message lately: search for \
                 the name in question"
            ),
        },
        since_us: None,
    })
}

/// The verdict on a client for which no reason applies.
fn healthy(found: &FoundClient) -> Verdict {
    let newest = newest(found).map_or_else(String::new, |(age_us, _)| {
        let waits = match found.snapshot.queue_messages {
            0 => ", and nothing waits",
            // They go out with the next write.
            _ => "",
        };
        let age = time(age_us);
        format!(": the newest message of its names is {age} old{waits}")
    });
    Verdict {
        cause: "healthy",
        say: format!("healthy{newest}"),
        since_us: Some(found.snapshot.age_us),
    }
}

/// How far back the history of the client's names reaches, if that is less than `--history-ms`.
fn short_history(found: &FoundClient) -> Option<String> {
    let reaches = found
        .names
        .iter()
        .filter_map(|one| Some((one, one.brings.reach?)));
    let (one, reach) = reaches.min_by_key(|(_, reach)| reach.us)?;
    let why = match reach.short? {
        ShortHistory::Bytes => "no more fits in --history-bytes-max",
        ShortHistory::LeftOut => "a message was over --bus-message-bytes-max",
        ShortHistory::Start => "weirgate began to read then, or had lost the bus",
    };
    let (name, reach) = (one.name.as_str(), time(reach.us));
    Some(format!("the history of {name} reaches back {reach}: {why}"))
}

/// A time for people: seconds, minutes, hours or days.
fn time(us: u64) -> String {
    let s = us / 1_000_000;
    match s {
        0..60 => format!("{:.1} s", us as f64 / 1e6),
        60..3_600 => format!("{} min {} s", s / 60, s % 60),
        3_600..86_400 => format!("{} h {} min", s / 3_600, s / 60 % 60),
        _ => format!("{} days", s / 86_400),
    }
}

pub(super) fn ago(us: u64) -> String {
    format!("{} ago", time(us))
}
