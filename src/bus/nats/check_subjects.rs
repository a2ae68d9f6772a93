//! The check before a start of a source of plain subjects, of a stream, or of both: whether NATS permits what the source
//! will do ([`NatsNeeds`]). Sends the requests that the source sends, but changes nothing in NATS: a request has a body that
//! JetStream refuses, and an acknowledgement has a word that it ignores. The check of levels is in `check`.

use std::collections::BTreeSet;

use super::api::{JetStream, request_failed};
use super::check::{AccountRoom, on_a_server, permission};
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
            // Of the names of a stream, only those are asked for that the stream does not hold.
            let (mut needs_beside, mut answers) = (None, Answers::default());
            if let Some((stream, of_stream)) = &self.jetstream.stream {
                check_stream(link, (stream, of_stream), found)?;
                let held = HeldSubjects::ask(link, stream)?;
                held.report_sources(&self.roles, found);
                answers.has_stream = self.requests.iter().any(|name| held.meet(name));
                needs_beside = Some(self.beside(&held));
            }
            let needs = needs_beside.as_ref().unwrap_or(self);
            check_subscriptions(link, needs, answers, found)?;
            if !needs.jetstream.last_values.is_empty() {
                check_last_values(link, needs, found)?;
            }
            Ok(())
        })
    }

    /// The needs of a source that also reads the stream with these subjects: clients need no subscription for a name that
    /// the stream holds.
    fn beside(&self, held: &HeldSubjects) -> Self {
        let mut beside = self.clone();
        beside.requests.retain(|name| !held.hold(name));
        beside
    }
}

/// Checks the subjects of the gateway and of its clients, by subscribing to each.
fn check_subscriptions(
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

/// The subjects of a stream that is read whole.
struct HeldSubjects(Vec<String>);

impl HeldSubjects {
    /// Asks for the subjects of a stream.
    ///
    /// # Errors
    /// There is no answer, or this user may not ask.
    fn ask(link: &mut Requester, stream: &str) -> Result<Self, NatsError> {
        let failed = |error| request_failed(format!("read the stream {stream}"), error);
        let subject = Action::StreamInfo.subject_about(stream);
        let answer = link.request(&subject, b"").map_err(failed)?;
        let answer = json::read(&answer).map_err(|error| failed(error.into()))?;
        Ok(Self(subjects_in(answer)))
    }

    /// Whether all messages of a name or pattern are in the stream.
    fn hold(&self, name: &str) -> bool {
        let mut subjects = self.0.iter();
        subjects.any(|held| NameSyntax::Nats.contains(held, name))
    }

    /// Whether messages of a name or pattern may be in the stream.
    fn meet(&self, name: &str) -> bool {
        let mut subjects = self.0.iter();
        subjects.any(|held| NameSyntax::Nats.meets(held, name))
    }

    /// Says which names of each role come from the stream, and which from the bus.
    fn report_sources(&self, roles: &[(String, Vec<String>)], found: &mut Vec<Finding>) {
        for (role, names) in roles.iter().take(ROLES_MAX) {
            let (held, others): (Vec<_>, Vec<_>) =
                names.iter().cloned().partition(|name| self.hold(name));
            let (wider, beside): (Vec<_>, Vec<_>) =
                others.into_iter().partition(|name| self.meet(name));
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
}

/// Checks a stream that is read whole.
fn check_stream(
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
    let no_room = room.missing_for_consumer(stream, &info);
    found.extend(no_room.map(Finding::Error));
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
fn check_last_values(
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
    for name in needs.requests.iter().take(NAMES_LOOKED_UP_MAX) {
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
    match missing.is_empty() {
        true => report_last_values(streams.len(), needs.requests.len(), found),
        false => found.extend(missing),
    }
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

/// The streams that hold a part of these subjects; none if NATS does not answer, which the check of permissions reports.
fn streams_of(link: &mut Requester, name: &str) -> Vec<StreamOfName> {
    let body = sonic_rs::json!({ "subject": name }).to_string();
    let subject = Action::StreamList.subject_without_stream();
    let answer = link.request(&subject, body.as_bytes()).unwrap_or_default();
    let answer = json::read(&answer).ok();
    answer.map_or_else(Vec::new, |answer| streams_in(name, answer))
}
