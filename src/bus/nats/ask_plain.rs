//! The check before a start of a source of plain subjects, of a stream, or of both: whether NATS permits what the source
//! will do ([`NatsNeeds`]). Sends the requests that the source sends, but changes nothing in NATS: a request has a body that
//! JetStream refuses, and an acknowledgement has a word that it ignores. The check of levels is in `ask`.

use std::collections::BTreeSet;

use super::api::{JetStream, request_failed};
use super::ask::{AccountRoom, on_a_server, permission};
use super::error::NatsError;
use super::needs::{Action, NatsNeeds, Need};
use super::requester::{Named, Requester};
use super::settings::NatsSettings;
use super::stream_info::Retention;
use super::subjects::{StreamOfName, streams_in, subjects_in};
use crate::{Answers, list, names_to_check};
use weirgate_wire::auth::NameSyntax;
use weirgate_wire::base::Finding;
use weirgate_wire::json;

/// The most streams whose last values are tried.
const STREAMS_MAX: usize = 16;
/// The most names for which streams are looked up.
const NAMES_MAX: usize = 100;
/// The most roles whose names are listed.
const ROLES_MAX: usize = 20;

impl NatsNeeds {
    /// Checks plain subjects: whether this user has the permissions that are needed, and whether the server takes messages of
    /// the largest size.
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
            // Of the names of a stream, only those are asked for that the stream does not hold.
            let (mut needs_beside, mut answers) = (None, Answers::default());
            if let Some((stream, of_stream)) = &self.jetstream.stream {
                whole_stream(link, (stream, of_stream), found)?;
                let (beside, has_stream) = beside_stream(link, stream, self, found)?;
                (needs_beside, answers.has_stream) = (Some(beside), has_stream);
            }
            let needs = needs_beside.as_ref().unwrap_or(self);
            subscriptions(link, needs, answers, found)?;
            if !needs.jetstream.last_values.is_empty() {
                last_values(link, needs, found)?;
            }
            Ok(())
        })
    }
}

/// Checks the subjects of the gateway and of its clients, by subscribing to each.
fn subscriptions(
    link: &mut Requester,
    needs: &NatsNeeds,
    mut answers: Answers,
    found: &mut Vec<Finding>,
) -> Result<(), NatsError> {
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

/// Says which names of each role come from the stream, and which from the bus. Returns the needs beside the stream, and
/// whether clients get any names from the stream.
fn beside_stream(
    link: &mut Requester,
    stream: &str,
    needs: &NatsNeeds,
    found: &mut Vec<Finding>,
) -> Result<(NatsNeeds, bool), NatsError> {
    let failed = |error| request_failed(format!("read the stream {stream}"), error);
    let answer = link
        .request(&Action::StreamInfo.subject_about(stream), b"")
        .map_err(failed)?;
    let subjects = subjects_in(json::read(&answer).map_err(|e| failed(e.into()))?);
    let syntax = NameSyntax::Nats;
    let holds = |name: &&String| subjects.iter().any(|held| syntax.contains(held, name));
    let meets = |name: &&String| subjects.iter().any(|held| syntax.meets(held, name));
    for (role, names) in needs.roles.iter().take(ROLES_MAX) {
        let (held, others): (Vec<_>, Vec<_>) = names.iter().partition(holds);
        let (wider, beside): (Vec<_>, Vec<_>) = others.into_iter().partition(meets);
        let kinds = [
            ("from the stream", held),
            ("live from the bus", beside),
            ("from the stream as far as it holds them", wider),
        ];
        let kinds = kinds.iter().filter(|(_, names)| !names.is_empty());
        let kinds = kinds.map(|(kind, names)| {
            let names: Vec<String> = names.iter().map(|name| (*name).clone()).collect();
            format!("{} {kind}", list(&names))
        });
        let kinds = kinds.collect::<Vec<_>>().join("; ");
        found.push(Finding::Good(format!("role {role}: {kinds}")));
    }
    let more = needs.roles.len().saturating_sub(ROLES_MAX);
    if more > 0 {
        found.push(Finding::Good(format!("and {more} more roles")));
    }
    let mut beside = needs.clone();
    beside.requests.retain(|name| !holds(&name));
    Ok((beside, needs.requests.iter().any(|name| meets(&name))))
}

/// Checks a stream that is read whole.
fn whole_stream(
    link: &mut Requester,
    (stream, needs): (&str, &[Need]),
    found: &mut Vec<Finding>,
) -> Result<(), NatsError> {
    let failed = |error| request_failed(format!("read the stream {stream}"), error);
    let mut room = AccountRoom::ask(link).map_err(failed)?;
    let info = match AccountRoom::stream(link, stream) {
        Err(error) if error.stream_is_missing() => {
            return Err(NatsError::NoSuchStream(stream.to_owned()));
        }
        info => info.map_err(failed)?,
    };
    if info.config.retention == Retention::WorkQueue {
        return Err(NatsError::WorkQueue(stream.to_owned()));
    }
    if info.config.retention == Retention::Interest {
        found.push(Finding::Warning(format!(
            "the stream {stream} keeps no message after all consumers have it (retention: interest): what is \
             published while weirgate is away is lost, and a restart has no history"
        )));
    }
    let missing = room.missing_for_consumer(stream, &info);
    found.extend(missing.map(Finding::Error));
    let action = format!("read the stream {stream}");
    let missing = link.missing_permissions(needs, Named::stream(stream), &action)?;
    if missing
        .iter()
        .all(|finding| matches!(finding, Finding::Warning(_)))
    {
        found.push(Finding::Good(format!("may read the stream {stream}")));
    }
    found.extend(missing);
    Ok(())
}

/// Checks the questions for last values, at the streams with the subjects that clients may ask for.
fn last_values(
    link: &mut Requester,
    needs: &NatsNeeds,
    found: &mut Vec<Finding>,
) -> Result<(), NatsError> {
    let action = "give last values";
    let all = needs.jetstream.last_values.iter();
    let (of_streams, general): (Vec<Need>, Vec<Need>) =
        all.partition(|need| need.action.names_stream());
    let mut missing = link.missing_permissions(&general, Named::default(), action)?;
    let (mut streams, mut work_queues) = (BTreeSet::new(), BTreeSet::new());
    for name in needs.requests.iter().take(NAMES_MAX) {
        for of_name in streams_of(link, name) {
            if of_name.is_work_queue && NameSyntax::Nats.is_pattern(name) {
                work_queues.insert(of_name.stream.clone());
            }
            streams.insert(of_name.stream);
        }
    }
    if !work_queues.is_empty() {
        let streams = list(&Vec::from_iter(work_queues));
        found.push(Finding::Warning(format!(
            "patterns get no last values of {streams} (retention: workqueue): a work queue permits no consumer for them"
        )));
    }
    for stream in streams.iter().take(STREAMS_MAX) {
        missing.extend(link.missing_permissions(&of_streams, Named::stream(stream), action)?);
    }
    match (missing.is_empty(), streams.len()) {
        (true, 0) => found.push(Finding::Warning(
            "no stream holds a subject that clients may ask for: there are no last values"
                .to_owned(),
        )),
        (true, count) => found.push(Finding::Good(format!(
            "may ask for the last values of {count} streams"
        ))),
        (false, _) => found.extend(missing),
    }
    let more = streams.len().saturating_sub(STREAMS_MAX);
    if more > 0 {
        let text = format!("{more} more streams were not asked for");
        found.push(Finding::Warning(text));
    }
    Ok(())
}

/// The streams that hold a part of these subjects; none without an answer.
fn streams_of(link: &mut Requester, name: &str) -> Vec<StreamOfName> {
    let body = sonic_rs::json!({ "subject": name }).to_string();
    let subject = Action::StreamList.subject_without_stream();
    let answer = link.request(&subject, body.as_bytes()).unwrap_or_default();
    let answer = json::read(&answer).ok();
    answer.map_or_else(Vec::new, |answer| streams_in(name, answer))
}
