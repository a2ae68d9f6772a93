//! `/operator/clients` and `/operator/names`: what the next survey finds, as JSON, with a sentence for each client.
//! `docs/reference/http.md` explains the members.

// Type parameters of `object!` have the names of members.
#![allow(non_camel_case_types)]

use std::net::IpAddr;
use std::sync::Arc;

use hyper::{StatusCode, header};
use serde::Serialize;
use url::form_urlencoded;

use super::state::{end, json, object, refused_name, shown_client, some_text};
use super::{AdminReach, Cutter, refuse_other_page};
use crate::http::site::{Answer, Handler, LateAnswer, RequestParts, Route};
use crate::telemetry::{EndedAt, Reading, SEARCHES_MAX, Surveyed, Telemetry};
use weirgate_bus::status::BusStatus;
use weirgate_core::{
    ClientState, Connected, Cut, Found, FoundClient, FoundName, MaxRate, NameSource, Now, OnBus,
    RefusedName, Revoked, Search, Short,
};
use weirgate_wire::auth::Refusal;

/// The most bytes of a query.
const QUERY_BYTES_MAX: usize = 8 * 1024;

/// The most ended connections and the most refused names in an answer.
const LISTED_MAX: usize = 20;

/// Names without a message for this long are worth a sentence.
const QUIET_US: u64 = 60_000_000;

/// A gateway that is this far behind a stream is the reason that its clients see old messages.
const BEHIND_US: u64 = 5_000_000;

/// The sentence shows refusals of names that are not older.
const REFUSED_LATELY_US: u64 = 600_000_000;

/// What an operator asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Query {
    who: Cut,
    name: Option<String>,
}

impl Query {
    /// Reads the parameters of a request.
    ///
    /// # Errors
    /// What is wrong, for the operator.
    fn read(request: &RequestParts, known: &[&str]) -> Result<Self, String> {
        let wanted = || format!("wanted: at least one of {}", known.join(", "));
        let text = request.head.uri.query().unwrap_or_default();
        if text.len() > QUERY_BYTES_MAX {
            return Err(format!("a query of at most {QUERY_BYTES_MAX} bytes"));
        }
        let mut query = Self::default();
        for (key, value) in form_urlencoded::parse(text.as_bytes()) {
            if !known.contains(&&*key) || value.is_empty() {
                return Err(wanted());
            }
            let value = value.into_owned();
            match &*key {
                "name" => query.name = Some(value),
                "user" => query.who.user = Some(value),
                "session" => query.who.session = Some(value),
                _ => {
                    let ip: IpAddr = value.parse().map_err(|_| "address: not an IP address")?;
                    query.who.set_address(ip);
                }
            }
        }
        match query == Self::default() {
            true => Err(wanted()),
            false => Ok(query),
        }
    }

    /// The conditions in words, for a sentence.
    fn words(&self) -> String {
        let address = self.who.address.map(|ip| ip.to_string());
        let parts = [
            ("user", self.who.user.as_ref()),
            ("address", address.as_ref()),
            ("session", self.who.session.as_ref()),
            ("name", self.name.as_ref()),
        ];
        let parts = parts
            .iter()
            .filter_map(|(what, text)| Some(format!("{what} {}", text.as_ref()?)));
        parts.collect::<Vec<_>>().join(" and ")
    }

    /// Whether these conditions fit a refused name.
    fn fits_refused(&self, refused: &RefusedName) -> bool {
        let who = &self.who;
        let user = who.user.as_deref();
        let session = who.session.as_ref();
        let name = self.name.as_deref();
        user.is_none_or(|user| refused.is_of_user(user))
            && who.has_address(refused.client.ip())
            && session.is_none_or(|session| refused.session.to_string() == *session)
            && name.is_none_or(|name| refused.name.as_str().contains(name))
    }

    /// Whether an ended connection was of such a user or address; the record has neither session nor names.
    fn fits_ended(&self, at: &EndedAt) -> bool {
        let user = self.who.user.as_deref();
        let is_asked = user.is_some() || self.who.address.is_some();
        is_asked
            && user.is_none_or(|user| at.ended.user.as_deref() == Some(user))
            && self.who.has_address(at.ended.client.ip())
    }
}

/// The routes of the searches.
pub(super) fn routes(telemetry: &Arc<Telemetry>, cutter: &Cutter, reach: AdminReach) -> [Route; 2] {
    let clients = ["user", "address", "session", "name"].as_slice();
    let names = ["name"].as_slice();
    [("/operator/clients", clients), ("/operator/names", names)].map(|(path, known)| {
        let (telemetry, cutter) = (Arc::clone(telemetry), cutter.clone());
        let answer = Handler::later(move |request, _| {
            let (telemetry, cutter) = (Arc::clone(&telemetry), cutter.clone());
            async move {
                let answer = match refuse_other_page(&request, reach) {
                    Some(refusal) => refusal,
                    None => answer(&telemetry, &cutter, &request, known).await,
                };
                LateAnswer::from(answer.no_store())
            }
        });
        Route {
            path,
            methods: &crate::http::site::GET,
            answer,
        }
    })
}

async fn answer(
    telemetry: &Arc<Telemetry>,
    cutter: &Cutter,
    request: &RequestParts,
    known: &[&str],
) -> Answer {
    let query = match Query::read(request, known) {
        Ok(query) => query,
        Err(error) => return Answer::detail(StatusCode::BAD_REQUEST, &error),
    };
    let search = match (known, &query.name) {
        (["name"], Some(name)) => Search::Names(name.clone()),
        _ => Search::Clients {
            who: query.who.clone(),
            name: query.name.clone(),
        },
    };
    let Some(result) = telemetry.surveys.search(search) else {
        let detail = format!("{SEARCHES_MAX} searches wait for the next survey already");
        return Answer::detail(StatusCode::SERVICE_UNAVAILABLE, &detail)
            .with(header::RETRY_AFTER, header::HeaderValue::from_static("1"));
    };
    cutter.wake.wake();
    let Ok((found, surveyed)) = result.await else {
        let detail = "The gateway is stopping";
        return Answer::detail(StatusCode::SERVICE_UNAVAILABLE, detail);
    };
    let now = cutter.clock.now();
    let at = Shown {
        telemetry,
        now,
        query: &query,
        surveyed: &surveyed,
        revoked: &cutter.revoked,
    };
    Answer::json(StatusCode::OK, at.answer(&found))
}

/// What an answer is made of.
struct Shown<'a> {
    telemetry: &'a Telemetry,
    now: Now,
    query: &'a Query,
    surveyed: &'a Surveyed,
    revoked: &'a Revoked,
}

impl Shown<'_> {
    /// The JSON text of an answer; its lists of refused names and of ended connections have at most [`LISTED_MAX`] entries.
    fn answer(&self, found: &Found) -> String {
        let build = self.telemetry.build();
        let refused = self.surveyed.survey.refused_names.iter();
        let refused = refused.filter(|refused| self.query.fits_refused(refused));
        let ends = self.surveyed.ends.iter();
        let ended: Vec<&EndedAt> = ends.filter(|at| self.query.fits_ended(at)).collect();
        json(&object!(FoundAnswer {
            gateway: build.gateway,
            version: build.version,
            now_unix_ms: self.now.unix_ms(),
            uptime_seconds: self.telemetry.uptime_seconds(self.now),
            bus_away_ms: self.bus_away_ms(),
            count: found.count,
            sentence: (found.count == 0).then(|| self.sentence_for_none(&ended)),
            clients: found
                .clients
                .iter()
                .map(|one| self.client(one))
                .collect::<Vec<_>>(),
            names: found.names.iter().map(name).collect::<Vec<_>>(),
            refused_names: refused
                .take(LISTED_MAX)
                .map(|one| refused_name(one, self.now))
                .collect::<Vec<_>>(),
            ended: ended
                .iter()
                .take(LISTED_MAX)
                .map(|one| end(one, self.now))
                .collect::<Vec<_>>(),
        }))
    }

    fn bus_away_ms(&self) -> Option<u64> {
        self.telemetry.bus().and_then(|bus| bus.away_ms(self.now))
    }

    /// The sentence for a search that finds nothing.
    fn sentence_for_none(&self, ended: &[&EndedAt]) -> String {
        let words = self.query.words();
        if self.query.who == Cut::default() {
            return format!("no client of this instance holds a name like this: {words}");
        }
        let mut text = format!("no client of this instance is like this: {words}");
        if let Some(last) = ended.first() {
            let reason = last.ended.reason.label();
            let refusal = match last.ended.refusal {
                None => String::new(),
                Some(why) if Refusal::ALL.iter().any(|one| one.label() == why) => {
                    format!(" (token: {why})")
                }
                Some(why) => format!(" ({why})"),
            };
            let ago = ago(self.now.mono_us.saturating_sub(last.at_us));
            text += &format!("; the last connection ended {ago}: {reason}{refusal}");
        }
        let who = Connected {
            user: self.query.who.user.as_deref(),
            certificate: None,
            address: self.query.who.address,
            session: "",
            marks: None,
        };
        if self.revoked.admit(&who, self.now.unix_ms()).is_err() {
            text += "; an operator has cut this client off, and it is refused";
        }
        text
    }

    /// A client with its names, and the sentence about it.
    fn client<'b>(&self, found: &'b FoundClient) -> impl Serialize + use<'b> {
        let verdict = self.verdict(found);
        Row {
            cause: verdict.cause,
            sentence: verdict.say,
            since_ms: verdict.since_us.map(|us| us / 1_000),
            role: found.role.as_deref(),
            max_hz: found.max_rate.map(MaxRate::hz),
            client: shown_client(&found.snapshot),
            names: found.names.iter().map(name).collect::<Vec<_>>(),
        }
    }

    /// Why a client gets what it gets: the first reason that applies. The sentence has all of them.
    fn verdict(&self, found: &FoundClient) -> Verdict {
        let reasons = [
            slow(found),
            self.refused(found),
            self.feed(),
            self.stopped(found),
            no_names(found),
            own_rate(found),
            quiet(found),
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

    /// A stream that takes no messages, of which the client has names.
    fn stopped(&self, found: &FoundClient) -> Option<Verdict> {
        let of_stream = |one: &FoundName| one.brings.from == NameSource::Stream;
        let states = self.telemetry.bus()?.stream_states();
        let (stream, state) = states.iter().find(|(_, state)| state.is_stopped())?;
        found.names.iter().any(of_stream).then(|| Verdict {
            cause: "stream_stopped",
            say: format!("the stream {stream} {state}"),
            since_us: None,
        })
    }

    /// The newest name that the client was refused lately, with the number of others.
    fn refused(&self, found: &FoundClient) -> Option<Verdict> {
        let refused = self.surveyed.survey.refused_names.iter();
        let mut lately = refused
            .map(|refused| (refused, self.now.mono_us.saturating_sub(refused.at_us)))
            .filter(|(refused, age)| {
                refused.session == found.snapshot.session && *age <= REFUSED_LATELY_US
            });
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

    /// What every client of the gateway has: the bus is away, or the gateway is behind it.
    fn feed(&self) -> Option<Verdict> {
        if let Some(away_us) = self.bus_away_ms().map(|ms| ms * 1_000) {
            return Some(Verdict {
                cause: "bus_away",
                say: format!("the bus is away for {}", time(away_us)),
                since_us: Some(away_us),
            });
        }
        let at = Reading::now(self.telemetry);
        let behind = self.telemetry.bus().and_then(BusStatus::stream_behind);
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

/// How far back the history of the client's names reaches, if that is less than `--history-ms`.
fn short_history(found: &FoundClient) -> Option<String> {
    let reaches = found
        .names
        .iter()
        .filter_map(|one| Some((one, one.brings.reach?)));
    let (one, reach) = reaches.min_by_key(|(_, reach)| reach.us)?;
    let why = match reach.short? {
        Short::Bytes => "no more fits in --history-bytes-max",
        Short::Start => "weirgate began to read then, or had lost the bus",
    };
    let (name, reach) = (one.name.as_str(), time(reach.us));
    Some(format!("the history of {name} reaches back {reach}: {why}"))
}

/// A client that was found.
#[derive(Serialize)]
struct Row<'a, C, N> {
    cause: &'static str,
    sentence: String,
    since_ms: Option<u64>,
    role: Option<&'a str>,
    max_hz: Option<f64>,
    #[serde(flatten)]
    client: C,
    names: Vec<N>,
}

/// The sentence about a client.
struct Verdict {
    cause: &'static str,
    say: String,
    since_us: Option<u64>,
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

fn silent_name(found: &FoundClient) -> Option<Verdict> {
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

fn silent_client(found: &FoundClient) -> Option<Verdict> {
    let count = found.names.len() as u64;
    if count == 0 || count < found.snapshot.topics {
        return None;
    }
    let newest = found
        .names
        .iter()
        .filter_map(|one| Some((one.brings.newest_us?, one)));
    let newest = newest.min_by_key(|(age_us, _)| *age_us);
    let Some((age_us, one)) = newest else {
        let why = match found.names[0].brings.on_bus {
            OnBus::Confirmed => "",
            OnBus::Unconfirmed => "; the bus has not confirmed the subscription",
            OnBus::Refused => "; the bus refuses the subscription",
        };
        return Some(Verdict {
            cause: "quiet",
            say: format!(
                "none of its {count} names has had a message since the first client held it{why}"
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

/// The verdict on a client for which no reason applies.
fn healthy(found: &FoundClient) -> Verdict {
    let newest = found
        .names
        .iter()
        .filter_map(|one| one.brings.newest_us)
        .min();
    let newest = newest.map_or_else(String::new, |age_us| {
        format!(
            ": the newest message of its names is {} old, and nothing waits",
            time(age_us)
        )
    });
    Verdict {
        cause: "healthy",
        say: format!("healthy{newest}"),
        since_us: Some(found.snapshot.age_us),
    }
}

/// A name that the client holds, as JSON.
fn name(found: &FoundName) -> impl Serialize + use<'_> {
    object!(Name {
        name: found.name.as_str(),
        from: found.brings.label(),
        members: found.members,
        messages: found.messages,
        last_ms: found.brings.newest_us.map(|us| us / 1_000),
        reach_ms: found.brings.reach.map(|reach| reach.us / 1_000),
        why: found
            .brings
            .reach
            .and_then(|reach| reach.short)
            .map(Short::label),
    })
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

fn ago(us: u64) -> String {
    format!("{} ago", time(us))
}

#[cfg(test)]
mod tests;
