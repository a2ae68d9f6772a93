//! `/operator/clients` and `/operator/names`: what the next survey finds, as JSON, with a sentence for each client.
//! `docs/reference/http.md` explains the members.

// Type parameters of `object!` have the names of members.
#![allow(non_camel_case_types)]

mod diagnosis;

use std::net::IpAddr;
use std::sync::Arc;

use hyper::{StatusCode, header};
use serde::Serialize;
use url::form_urlencoded;

use self::diagnosis::ago;
use super::state::{end, json, object, refused_name, shown_client};
use super::{AdminReach, Cutter, refuse_other_page};
use crate::http::site::{Answer, Handler, LateAnswer, RequestParts, Route};
use crate::telemetry::{EndedAt, SEARCHES_MAX, Surveyed, Telemetry};
use weirgate_core::{
    Connected, Cut, FoundClient, FoundName, MaxRate, RefusedName, Revoked, Search, SearchOutcome,
    ShortHistory,
};
use weirgate_wire::auth::Refusal;
use weirgate_wire::base::Now;
use weirgate_wire::json::Json;

/// The most bytes of a query.
const QUERY_BYTES_MAX: usize = 8 * 1024;

/// The most ended connections and the most refused names in an answer.
const LISTED_MAX: usize = 20;

/// The words for the searched clients in the sentence about a search without a result. A supervisor replaces them by
/// its own.
pub(crate) const OF_THIS_INSTANCE: &str = "of this instance";

/// Where a supervisor asks how many clients of a process hold each of some names: it adds the numbers of all processes.
/// The body is a list of names.
pub(crate) const MEMBERS_PATH: &str = "/members";
/// The most bytes of this list: of a hundred clients with a hundred names each.
const MEMBERS_BYTES_MAX: usize = 16 * 1024 * 1024;

/// What an operator asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Query {
    /// The wanted clients, in the form of the conditions of a cut; nobody is cut off.
    who: Cut,
    /// The name that they hold.
    name: Option<String>,
}

impl Query {
    /// Reads the parameters of a request. `known` are those of its path.
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
        // The search may be by session or name alone, which fits no ended connection.
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
            methods: crate::http::Route::GET,
            answer,
        }
    })
}

/// The route of a process for the questions of its supervisor.
pub(crate) fn members_route(telemetry: &Arc<Telemetry>, cutter: &Cutter) -> Route {
    let (telemetry, cutter) = (Arc::clone(telemetry), cutter.clone());
    let answer = Handler::later(move |_, body| {
        let (telemetry, cutter) = (Arc::clone(&telemetry), cutter.clone());
        async move {
            let read = body.read(MEMBERS_BYTES_MAX).await.ok();
            let names = read.and_then(|body| Json::read(&body).ok()?.parse().ok());
            let result = names.and_then(|names| telemetry.surveys.search(Search::Members(names)));
            // Whatever is wrong, the supervisor goes on without the numbers of all processes.
            let Some(result) = result else {
                return LateAnswer::from(Answer::empty(StatusCode::SERVICE_UNAVAILABLE));
            };
            cutter.wake.wake();
            let found = result.await.map(|(found, _)| found).unwrap_or_default();
            let name = |found: &FoundName| {
                object!(Members {
                    name: found.name.as_str().to_owned(),
                    members: found.members,
                })
            };
            let names: Vec<_> = found.names.iter().map(name).collect();
            LateAnswer::from(Answer::json(StatusCode::OK, json(&names)))
        }
    });
    Route {
        path: MEMBERS_PATH,
        methods: Route::GET,
        answer,
    }
}

/// Has the next survey search, and answers with what it finds.
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
        // `/operator/names`, which has no other parameter.
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
    let at = AnswerContext {
        telemetry,
        now,
        query: &query,
        surveyed: &surveyed,
        revoked: &cutter.revoked,
    };
    Answer::json(StatusCode::OK, at.answer(&found))
}

/// What an answer is made of.
struct AnswerContext<'a> {
    telemetry: &'a Telemetry,
    now: Now,
    query: &'a Query,
    surveyed: &'a Surveyed,
    revoked: &'a Revoked,
}

impl AnswerContext<'_> {
    /// The JSON text of an answer; its lists of refused names and of ended connections have at most [`LISTED_MAX`] entries.
    fn answer(&self, found: &SearchOutcome) -> String {
        let refused = self.surveyed.survey.refused_names.iter();
        let refused = refused.filter(|refused| self.query.fits_refused(refused));
        let ends = self.surveyed.ends.iter();
        let ended: Vec<&EndedAt> = ends.filter(|at| self.query.fits_ended(at)).collect();
        json(&object!(FoundAnswer {
            gateway: self.telemetry.gateway_name(),
            version: self.telemetry.version(),
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
            return format!("no client {OF_THIS_INSTANCE} holds a name like this: {words}");
        }
        let mut text = format!("no client {OF_THIS_INSTANCE} is like this: {words}");
        if let Some(last) = ended.first() {
            let reason = last.ended.reason.label();
            // A reason of [`Refusal`] is about a token; another one says itself what it is about.
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
            // A search has no certificate, session or token.
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

/// A name that clients hold, as JSON: where its messages come from, how old the newest is, how far back they reach, and
/// if that is short, why.
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
            .map(ShortHistory::label),
    })
}

#[cfg(test)]
mod tests;
