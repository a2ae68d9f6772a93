//! The check before a start of a source of plain subjects, of a stream, or of both: whether NATS permits what the source
//! will do ([`NatsNeeds`]). Sends the requests that the source sends, but changes nothing in NATS: a request has a body that
//! JetStream refuses, and an acknowledgement has a word that it ignores. The check of levels is in `check`.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use super::api::{JetStream, request_failed};
use super::check::{AccountRoom, on_a_server, permission};
use super::consumer_limits::StreamRoom;
use super::error::NatsError;
use super::needs::{Action, NatsNeeds, Need};
use super::requester::{Named, Requester};
use super::settings::NatsSettings;
use super::stream::JetStreamReader;
use super::stream_info::Retention;
use super::subjects::{StreamOfName, stored_subjects, streams_taking};
use crate::{Answers, list, names_to_check};
use weirgate_wire::auth::{NameSyntax, StreamSubjects};
use weirgate_wire::base::Finding;
use weirgate_wire::json::Json;

/// The most streams whose last values are tried.
const STREAMS_MAX: usize = 16;
/// The most names for which streams are looked up.
const NAMES_LOOKED_UP_MAX: usize = 100;
/// The most roles whose names are listed.
const ROLES_MAX: usize = 20;

impl NatsNeeds {
    /// Checks what these settings need: the size of messages, permissions for subjects, the stream if one is read, and last
    /// values.
    pub fn check(&self, settings: &NatsSettings) -> Vec<Finding> {
        on_a_server(settings, |link, found| {
            let (bytes_max, bytes) = (link.info().max_payload(), self.payload_bytes_max);
            if bytes_max < bytes {
                found.push(Finding::Error(format!(
                    "NATS takes messages of {bytes_max} bytes (max_payload), and messages have up to {bytes}"
                )));
            }
            if self.has_positions && link.info().is_clustered() {
                found.push(Finding::Warning(
                    "NATS names a cluster, whatever --bus-settle-ms 0 says: messages have no position, and nobody resumes \
                     (`off`)"
                        .to_owned(),
                ));
            }
            for subject in &self.published {
                let may = link.may_publish(subject, b"")?;
                found.push(permission(&format!("publish to {subject}"), may));
            }
            let (mut needs, mut has_stream) = (Cow::Borrowed(self), false);
            if let Some((stream, of_stream)) = &self.jetstream.stream {
                let held = check_stream(link, stream, of_stream, settings.processes, found)?;
                report_sources(&held, &self.roles, found);
                has_stream = self.requests.iter().any(|name| held.has_some_of(name));
                needs = Cow::Owned(self.without_names_of(&held));
            }
            check_subscriptions(link, &needs, has_stream, found)?;
            if !needs.jetstream.last_values.is_empty() {
                check_last_values(link, &needs, found)?;
            }
            Ok(())
        })
    }

    /// The needs of a source that also reads the stream with these subjects: clients need no subscription for a name that
    /// the stream holds.
    fn without_names_of(&self, held: &StreamSubjects) -> Self {
        let mut needs = self.clone();
        needs.requests.retain(|name| !held.has_all_of(name));
        needs
    }
}

/// Checks the subjects of the gateway and of its clients, by subscribing to each. `has_stream`: a stream has messages of
/// some names of clients, so a check that finds no other name that they may request is no error.
fn check_subscriptions(
    link: &mut Requester,
    needs: &NatsNeeds,
    has_stream: bool,
    found: &mut Vec<Finding>,
) -> Result<(), NatsError> {
    let mut answers = Answers::default();
    answers.has_stream = has_stream;
    for (subject, needed_by) in names_to_check(&needs.subscriptions, &needs.requests) {
        let answer = match link.may_subscribe(subject)? {
            true => Ok(()),
            false => Err("NATS does not permit it".to_owned()),
        };
        answers.record(subject.clone(), needed_by, answer);
    }
    let (needed, requests) = (needs.subscriptions.len(), needs.requests.len());
    answers.report("NATS", needed, requests, found);
    Ok(())
}

/// Says which names of each role come from the stream with these subjects, and which from the bus.
fn report_sources(
    subjects: &StreamSubjects,
    roles: &[(String, Vec<String>)],
    found: &mut Vec<Finding>,
) {
    for (role, names) in roles.iter().take(ROLES_MAX) {
        let (held, others): (Vec<_>, Vec<_>) = names
            .iter()
            .cloned()
            .partition(|name| subjects.has_all_of(name));
        // Of the other names, the stream holds a part (a pattern that is wider than the stream) or nothing.
        let (wider, beside): (Vec<_>, Vec<_>) = others
            .into_iter()
            .partition(|name| subjects.has_some_of(name));
        let sources = [
            ("from the stream", held),
            ("live from the bus", beside),
            ("from the stream as far as it holds them", wider),
        ];
        let sources = sources.iter().filter(|(_, names)| !names.is_empty());
        let sources = sources.map(|(source, names)| format!("{} {source}", list(names)));
        let sources = sources.collect::<Vec<_>>().join("; ");
        found.push(Finding::Good(format!("role {role}: {sources}")));
    }
    let more = roles.len().saturating_sub(ROLES_MAX);
    if more > 0 {
        found.push(Finding::Good(format!("and {more} more roles")));
    }
}

/// Checks a stream that is read whole. Returns its subjects.
///
/// # Errors
/// There is no answer, this user may not ask, there is no such stream, or it is a work queue.
fn check_stream(
    link: &mut Requester,
    stream: &str,
    needs: &[Need],
    processes: u32,
    found: &mut Vec<Finding>,
) -> Result<StreamSubjects, NatsError> {
    let failed = |error| request_failed(format!("read the stream {stream}"), error);
    let mut room = AccountRoom::ask(link, processes).map_err(failed)?;
    let answer = match link.request(&Action::StreamInfo.subject_about(stream), b"") {
        Err(error) if error.stream_is_missing() => {
            return Err(NatsError::NoSuchStream(stream.to_owned()));
        }
        answer => answer.map_err(failed)?,
    };
    let answer = Json::read(&answer).map_err(|error| failed(error.into()))?;
    let info: StreamRoom = answer.parse().map_err(|error| failed(error.into()))?;
    if info.config.retention == Retention::WorkQueue {
        return Err(NatsError::WorkQueue(stream.to_owned()));
    }
    if info.config.retention == Retention::Interest {
        found.push(Finding::Warning(format!(
            "the stream {stream} keeps no message after all consumers have it (retention: interest): what is \
             published while weirgate is away is lost, and a restart has no history"
        )));
    }
    found.extend(room.missing_for_consumer(stream, &info));
    found.extend(room.smaller_limits(stream, &info, JetStreamReader::LIMITS));
    let action = format!("read the stream {stream}");
    let missing = link.missing_permissions(needs, &[Named::stream(stream)], &action)?;
    if only_warnings(&missing) {
        found.push(Finding::Good(format!("may read the stream {stream}")));
    }
    found.extend(missing);
    Ok(stored_subjects(answer))
}

/// Checks the questions for last values, at the streams with the subjects that clients may ask for.
fn check_last_values(
    link: &mut Requester,
    needs: &NatsNeeds,
    found: &mut Vec<Finding>,
) -> Result<(), NatsError> {
    let action = "give last values";
    let last_values = needs.jetstream.last_values.iter();
    let (about_a_stream, about_the_account): (Vec<Need>, Vec<Need>) =
        last_values.partition(|need| need.action.names_stream());
    // Requests about the account name no stream and no consumer.
    let mut missing = link.missing_permissions(&about_the_account, &[Named::default()], action)?;
    let (streams, without) = streams_of_names(link, &needs.requests);
    for (why, streams) in without {
        let streams = list(&Vec::from_iter(streams));
        found.push(Finding::Warning(format!(
            "patterns get no last values of {streams} {why}"
        )));
    }
    let tried = streams.iter().take(STREAMS_MAX);
    let tried: Vec<_> = tried.map(|stream| Named::stream(stream)).collect();
    missing.extend(link.missing_permissions(&about_a_stream, &tried, action)?);
    if only_warnings(&missing) {
        report_last_values(streams.len(), needs.requests.len(), found);
    }
    found.extend(missing);
    warn_of_more(
        streams.len(),
        STREAMS_MAX,
        "streams were not asked for",
        found,
    );
    let unknown = "names were not looked up: they may be of other streams";
    warn_of_more(needs.requests.len(), NAMES_LOOKED_UP_MAX, unknown, found);
    Ok(())
}

/// Whether a start works without the permissions of these findings.
fn only_warnings(missing: &[Finding]) -> bool {
    let mut missing = missing.iter();
    missing.all(|finding| matches!(finding, Finding::Warning(_)))
}

/// The streams that hold a part of these names, and those of which a pattern asks for last values in vain, by the reason.
fn streams_of_names(
    link: &mut Requester,
    names: &[String],
) -> (BTreeSet<String>, BTreeMap<&'static str, BTreeSet<String>>) {
    let (mut streams, mut without) = (BTreeSet::new(), BTreeMap::new());
    for name in names.iter().take(NAMES_LOOKED_UP_MAX) {
        for found in streams_of(link, name) {
            if NameSyntax::Nats.is_pattern(name)
                && let Some(why) = found.gives_no_pattern
            {
                let of_reason: &mut BTreeSet<_> = without.entry(why).or_default();
                of_reason.insert(found.stream.clone());
            }
            streams.insert(found.stream);
        }
    }
    (streams, without)
}

/// Says of how many streams this user may ask for last values. `streams` and `names` are the numbers of all of them, also of
/// those that were not asked for or looked up.
fn report_last_values(streams: usize, names: usize, found: &mut Vec<Finding>) {
    found.push(match streams.min(STREAMS_MAX) {
        0 if names > NAMES_LOOKED_UP_MAX => Finding::Warning(format!(
            "no stream holds any of the first {NAMES_LOOKED_UP_MAX} subjects that clients may ask for"
        )),
        0 => Finding::Warning(
            "no stream holds a subject that clients may ask for: there are no last values"
                .to_owned(),
        ),
        asked => Finding::Good(format!("may ask for the last values of {asked} streams")),
    });
}

/// Warns of those beyond the most that the check asks about.
fn warn_of_more(all: usize, max: usize, what: &str, found: &mut Vec<Finding>) {
    let more = all.saturating_sub(max);
    if more > 0 {
        found.push(Finding::Warning(format!("{more} more {what}")));
    }
}

/// The streams that hold a part of this name; none if NATS does not answer, which the check of permissions reports.
fn streams_of(link: &mut Requester, name: &str) -> Vec<StreamOfName> {
    let body = sonic_rs::json!({ "subject": name }).to_string();
    let subject = Action::StreamList.subject_without_stream();
    let answer = link.request(&subject, body.as_bytes()).unwrap_or_default();
    let answer = Json::read(&answer).ok();
    answer.map_or_else(Vec::new, |answer| streams_taking(name, answer))
}
