//! The check before a start: whether NATS answers, what NATS holds, what the limits of the account and of its streams
//! leave, and what this user may do. Changes nothing in NATS.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::account::{Account, limit};
use super::api::{ApiError, JetStream, request_failed};
use super::consumer_limits::{ConsumerLimits, PermittedLimits, StreamRoom};
use super::consumers::{Durable, DurableTarget, LIMITS, find_durable};
use super::error::NatsError;
use super::needs::{Action, Need};
use super::requester::{Named, Requester};
use super::settings::{NatsSettings, StreamSpec, SubscriptionSpec};
use super::stream_info::Retention;
use super::streams::{FoundStream, find_stream, presence_of};
use super::subscription::Subscription;
use weirgate_runtime::Lookup;
use weirgate_wire::base::Finding;
use weirgate_wire::json::Json;

/// The longest wait for an answer.
const TIMEOUT: Duration = Duration::from_secs(1);
/// How long the lookup of a server's name may take: enough for a second name server.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(3);

impl NatsSettings {
    /// Connects to every server of these settings. Asks the first reachable server about the streams and durable consumers
    /// needed by a [`NatsSource`](super::NatsSource) with them.
    pub fn check(&self) -> Vec<Finding> {
        on_a_server(self, |link, found| {
            let is_left_out = is_left_out(link, self, found)?;
            let room = AccountRoom::ask(link, self.processes);
            let mut room =
                room.map_err(|error| request_failed("tell of the account".to_owned(), error))?;
            for spec in &self.subscriptions {
                let is_its_own = |stream: &&StreamSpec| Some(&stream.name) == spec.stream.as_ref();
                let ours = self.streams.iter().find(is_its_own);
                if is_left_out && ours.is_some() {
                    continue;
                }
                match check_subject(link, &mut room, self.ephemeral, spec, ours, found) {
                    Err(error) if error.fails_all_requests() => return Err(error),
                    Err(error) => found.push(Finding::Error(error.to_string())),
                    Ok(()) => {}
                }
            }
            Ok(())
        })
    }
}

/// Connects to each server, and calls `further` with the first connection. An error of `further` is the last finding.
pub(super) fn on_a_server(
    settings: &NatsSettings,
    further: impl FnOnce(&mut Requester, &mut Vec<Finding>) -> Result<(), NatsError>,
) -> Vec<Finding> {
    let settings = &NatsSettings {
        lookup: Lookup::within(LOOKUP_TIMEOUT),
        ..settings.clone()
    };
    let (mut found, mut away, mut first) = (Vec::new(), Vec::new(), None);
    for endpoint in settings.endpoints() {
        let begin = Instant::now();
        let opened = endpoint.and_then(|endpoint| {
            let mut opened = Err(NatsError::Lost);
            for one in endpoint.servers(settings)? {
                opened = Requester::open(&one, settings, TIMEOUT);
                if opened.is_ok() {
                    break;
                }
            }
            opened.map(|link| (link, endpoint.url()))
        });
        match opened {
            Ok((link, url)) => {
                let (version, ms) = (link.info().version(), begin.elapsed().as_millis());
                found.push(Finding::Good(format!(
                    "NATS {version} at {url} answered in {ms} ms"
                )));
                match first {
                    None => first = Some(link),
                    Some(_) => link.close(),
                }
            }
            Err(error) => away.push(error.to_string()),
        }
    }
    let Some(mut link) = first else {
        return away.into_iter().map(Finding::Error).collect();
    };
    // A start uses the next server, so these failures are only warnings.
    found.extend(away.into_iter().map(Finding::Warning));
    if let Err(error) = further(&mut link, &mut found) {
        found.push(Finding::Error(error.to_string()));
    }
    link.close();
    found
}

/// Whether a start leaves the subjects of the optional streams out, because this user finds none of the streams. If so, adds
/// a finding that says it.
fn is_left_out(
    link: &mut Requester,
    settings: &NatsSettings,
    found: &mut Vec<Finding>,
) -> Result<bool, NatsError> {
    let streams = &settings.streams;
    if !settings.streams_optional || !presence_of(link, streams)?.is_left_out() {
        return Ok(false);
    }
    let names: Vec<_> = streams.iter().map(|stream| &stream.name[..]).collect();
    let names = names.join(" and ");
    found.push(Finding::Good(format!(
        "no stream {names} for this user; a start makes none, and reads only the relays (--market)"
    )));
    Ok(true)
}

/// Checks the stream of a subject (`ours`: a start may make the stream), the durable consumer unless only `ephemeral`
/// ones are used, and this user's permissions on both.
fn check_subject(
    link: &mut Requester,
    room: &mut AccountRoom,
    ephemeral: bool,
    spec: &SubscriptionSpec,
    ours: Option<&StreamSpec>,
    found: &mut Vec<Finding>,
) -> Result<(), NatsError> {
    let Some(SubjectStream { name, stream: info }) = stream_of(link, room, spec, ours, found)?
    else {
        return Ok(());
    };
    let target = DurableTarget {
        stream: name,
        subject: spec.subject.clone(),
        durable: spec.durable.clone(),
    };
    let DurableTarget {
        stream, durable, ..
    } = &target;
    let create = match ephemeral {
        true => Some(Action::CreateConsumer),
        false => {
            // A stream that a start makes has no message.
            let last = info.as_ref().map_or(0, |info| info.state.last_seq);
            judge_durable(link, &target, last, found)?
        }
    };
    if let Some(info) = &info
        && create != Some(Action::CreateConsumer)
    {
        found.extend(info.ends_idle_durable(stream, durable));
    }
    if let Some(info) = info.filter(|_| create.is_some()) {
        found.extend(room.missing_for_consumer(stream, &info));
        found.extend(room.smaller_limits(stream, &info, LIMITS));
    }
    let mut needs = Subscription::needs();
    needs.retain(|need| match need.action {
        Action::CreateDurable => create == Some(Action::CreateDurable),
        Action::CreateConsumer | Action::DeleteConsumer => create == Some(Action::CreateConsumer),
        // Asked for above.
        Action::StreamInfo | Action::CreateStream => false,
        _ => true,
    });
    let action = format!("read {}", target.subject);
    let named = Named {
        stream: Some(stream),
        consumer: Some(durable),
    };
    let missing = link.missing_permissions(&needs, &[named], &action)?;
    if !missing.iter().any(Finding::is_error) {
        let text = format!("may read and acknowledge {}", target.subject);
        found.push(Finding::Good(text));
    }
    found.extend(missing);
    Ok(())
}

/// The stream of a subject.
struct SubjectStream {
    name: String,
    /// `None`: a start makes it.
    stream: Option<StreamRoom>,
}

/// Checks the stream of the subject. `None` if a start waits for the stream, or this user may not make it.
fn stream_of(
    link: &mut Requester,
    room: &mut AccountRoom,
    spec: &SubscriptionSpec,
    ours: Option<&StreamSpec>,
    found: &mut Vec<Finding>,
) -> Result<Option<SubjectStream>, NatsError> {
    let subject = &spec.subject;
    let failed = |error| request_failed(format!("tell of the stream of {subject}"), error);
    match (find_stream(link, spec).map_err(failed)?, ours) {
        (Some(stream), _) => {
            found.push(holds_subject(&stream, subject));
            Ok(Some(SubjectStream {
                name: stream.name,
                stream: Some(stream.room),
            }))
        }
        (None, Some(stream)) => {
            let name = &stream.name;
            let makes = [Need::must(Action::CreateStream)];
            let missing =
                link.missing_permissions(&makes, &[Named::stream(name)], "make a stream")?;
            if !missing.is_empty() {
                found.extend(missing);
                return Ok(None);
            }
            found.push(match room.missing_for_stream(link, stream).map_err(failed)? {
                None => Finding::Good(format!(
                    "the stream {name} for {subject} is not there; a start makes it"
                )),
                Some(missing) => Finding::Error(format!(
                    "the stream {name} for {subject} is not there, and cannot be made: {missing}"
                )),
            });
            Ok(Some(SubjectStream {
                name: name.clone(),
                stream: None,
            }))
        }
        (None, None) => {
            let text = format!("no stream holds {subject}; weirgate waits for one");
            found.push(Finding::Warning(text));
            Ok(None)
        }
    }
}

/// Whether the stream has messages of the subject.
fn holds_subject(stream: &FoundStream, subject: &str) -> Finding {
    let FoundStream { name, subjects, .. } = stream;
    match subjects.moved_to(subject) {
        _ if subjects.has_some_of(subject) => {
            Finding::Good(format!("the stream {name} holds {subject}"))
        }
        Some(stored) => {
            let error = NatsError::StoredElsewhere {
                stream: name.clone(),
                subject: subject.to_owned(),
                stored: stored.to_owned(),
            };
            Finding::Error(error.to_string())
        }
        None => Finding::Error(format!(
            "the stream {name} does not hold {subject}: its subjects are {}",
            subjects.stored().join(", ")
        )),
    }
}

/// Checks whether the durable consumer is free. Returns the request by which a start makes a consumer; `None`: it makes
/// none.
fn judge_durable(
    link: &mut Requester,
    target: &DurableTarget,
    last_sequence: u64,
    found: &mut Vec<Finding>,
) -> Result<Option<Action>, NatsError> {
    let name = &target.durable;
    let failed = |error| request_failed(format!("tell of the consumer {name}"), error);
    let (finding, create) = match find_durable(link, target, last_sequence).map_err(failed)? {
        Durable::Missing => {
            let text = format!("the durable consumer {name} is not there; a start makes it");
            (Finding::Good(text), Some(Action::CreateDurable))
        }
        Durable::Free(_) => {
            let text = format!("the durable consumer {name} is free");
            (Finding::Good(text), None)
        }
        Durable::Taken => {
            let text = format!(
                "the durable consumer {name} is held by another client; until it is free this instance reads from a \
                 consumer of its own"
            );
            (Finding::Warning(text), Some(Action::CreateConsumer))
        }
        Durable::Unusable(why) => {
            let text = format!(
                "the durable consumer {name} cannot be used ({why}); this instance reads from a consumer of its own"
            );
            (Finding::Warning(text), Some(Action::CreateConsumer))
        }
    };
    found.push(finding);
    Ok(create)
}

/// The finding of a check that this user may do `what`, or may not, which is an error.
pub(super) fn permission(what: &str, is_permitted: bool) -> Finding {
    if is_permitted {
        return Finding::Good(format!("may {what}"));
    }
    let error = NatsError::NotPermitted {
        what: what.to_owned(),
        fails_all_requests: false,
    };
    Finding::Error(error.to_string())
}

/// The room that the limits leave, less the streams and consumers that the subjects checked before need.
pub(super) struct AccountRoom {
    /// How many processes make consumers.
    processes: u32,
    /// `None` if the user may not ask; a start does not need it.
    account: Option<Account>,
    /// Streams that a start makes.
    streams: u64,
    /// Consumers that a start makes, by stream.
    consumers: HashMap<String, u64>,
}

impl StreamRoom {
    /// A warning if the server deletes an idle consumer of this stream, even a durable one.
    fn ends_idle_durable(&self, name: &str, durable: &str) -> Option<Finding> {
        let seconds = self.permitted().idle_max_ms()?.div_ceil(1_000);
        Some(Finding::Warning(format!(
            "the stream {name} deletes the durable consumer {durable} if nobody reads it for {seconds} s \
             (consumer_limits.inactive_threshold): after a longer outage, only the last message is relayed"
        )))
    }
}

impl AccountRoom {
    /// Asks about the account.
    ///
    /// # Errors
    /// The connection is lost.
    pub(super) fn ask(link: &mut Requester, processes: u32) -> Result<Self, ApiError> {
        let account = match link.request(&Action::AccountInfo.subject_without_stream(), b"") {
            Ok(answer) => Json::read(&answer)?.parse().ok(),
            Err(error @ ApiError::Lost) => return Err(error),
            // A start does not need this permission.
            Err(_) => None,
        };
        Ok(Self {
            processes,
            account,
            streams: 0,
            consumers: HashMap::new(),
        })
    }

    /// Counts a missing stream. Returns why a start cannot make it, as far as limits tell.
    fn missing_for_stream(
        &mut self,
        link: &mut Requester,
        spec: &StreamSpec,
    ) -> Result<Option<String>, ApiError> {
        for subject in &spec.subjects {
            match link.stream_holding(subject) {
                Ok(Some(other)) => {
                    return Ok(Some(format!(
                        "the stream {other} holds {subject}, or a part"
                    )));
                }
                Ok(None) => {}
                // A start does not need this permission.
                Err(ApiError::NotPermitted(_)) => break,
                Err(error) => return Err(error),
            }
        }
        self.streams += 1;
        Ok(self.lack_of_account())
    }

    /// The part of the account for streams with one copy.
    fn account(&self) -> Option<&Account> {
        self.account.as_ref().map(|account| account.of_copies(1))
    }

    /// Why the account has no room for the missing streams so far.
    fn lack_of_account(&self) -> Option<String> {
        let account = self.account()?;
        let (streams, bytes, limits) =
            (account.streams, account.reserved_storage, account.limits());
        let full = limit(limits.max_streams).filter(|max| streams + self.streams > *max);
        let bytes_max = limits.max_storage.and_then(|max| u64::try_from(max).ok());
        match (full, bytes_max) {
            (Some(max), _) => Some(format!("the account has {streams} of {max} (max_streams)")),
            (_, Some(max)) if bytes >= max => Some(format!(
                "the account has no file storage left: {bytes} of {max} bytes (max_file)"
            )),
            _ if limits.max_bytes_required => Some(
                "the account takes only streams with max_bytes (max_bytes_required); make it with \
                 `nats stream add`"
                    .to_owned(),
            ),
            _ => None,
        }
    }

    /// What a start says of the limits of its consumer if the stream or the account permits less than it asks for.
    pub(super) fn smaller_limits(
        &self,
        name: &str,
        stream: &StreamRoom,
        wanted: ConsumerLimits,
    ) -> Option<Finding> {
        let of_account = self.account().map(|it| it.limits().max_ack_pending);
        let of_account = PermittedLimits {
            max_ack_pending: of_account.unwrap_or_default(),
            ..PermittedLimits::default()
        };
        let permitted = wanted.within(stream.permitted()).within(of_account);
        let (max, usual) = (permitted.pending_max, wanted.pending_max);
        (max < usual).then(|| {
            Finding::Good(format!(
                "a consumer of the stream {name} has at most {max} messages on their way in place of {usual} (max_ack_pending)"
            ))
        })
    }

    /// Why a start cannot make another consumer of a stream for each process, as far as limits tell; a warning if it can, and a
    /// roll of the processes cannot.
    pub(super) fn missing_for_consumer(
        &mut self,
        name: &str,
        stream: &StreamRoom,
    ) -> Option<Finding> {
        if stream.config.retention == Retention::WorkQueue {
            return Some(Finding::Error(format!(
                "the stream {name} is a work queue (retention: workqueue): it takes no consumer that \
                 begins at the newest message"
            )));
        }
        let of_account = self.account().map(|it| it.limits().max_consumers);
        let more = self.consumers.entry(name.to_owned()).or_default();
        *more += u64::from(self.processes);
        let limits = [Some(stream.config.max_consumers), of_account];
        // Without a limit, nothing can be missing.
        let max = limits.into_iter().flatten().filter_map(limit).min()?;
        let (there, processes) = (stream.state.consumer_count, self.processes);
        let has = format!("it has {there} of {max} (max_consumers)");
        match there + *more > max {
            true if processes == 1 => Some(Finding::Error(format!(
                "no consumer of the stream {name} is left: {has}"
            ))),
            true => Some(Finding::Error(format!(
                "the stream {name} has no consumer for each of {processes} processes: {has}"
            ))),
            // The new processes start before the old ones end.
            false if processes > 1 && there + 2 * *more > max => Some(Finding::Warning(format!(
                "the stream {name} has no consumers for a roll (SIGUSR2), which starts {processes} more processes: {has}"
            ))),
            false => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    fn read<T: for<'de> Deserialize<'de>>(json: &str) -> T {
        let json = Json::read(json.as_bytes()).expect("JSON");
        json.parse().expect("an answer")
    }

    #[test]
    fn smaller_limits_of_a_stream_and_of_an_account_are_told() {
        let limited = r#"{"max_ack_pending":100,"inactive_threshold":60000000000}"#;
        for (limits, of_account, told, durable) in [
            ("null", 0, None, None),
            ("{}", -1, None, None),
            (limited, 0, Some("at most 100 messages"), Some("for 60 s")),
            (limited, 50, Some("at most 50 messages"), Some("for 60 s")),
            ("{}", 50, Some("at most 50 messages"), None),
            ("{}", 1_000, None, None),
        ] {
            let config = format!(r#"{{"config":{{"consumer_limits":{limits}}},"state":{{}}}}"#);
            let account = format!(r#"{{"limits":{{"max_ack_pending":{of_account}}}}}"#);
            let (stream, room) = (
                read::<StreamRoom>(&config),
                AccountRoom {
                    processes: 1,
                    account: Some(read(&account)),
                    streams: 0,
                    consumers: HashMap::new(),
                },
            );
            let says = |finding: Option<Finding>, words: Option<&str>| match (finding, words) {
                (Some(Finding::Good(text) | Finding::Warning(text)), Some(words)) => {
                    text.contains(words)
                }
                (finding, words) => finding.is_none() && words.is_none(),
            };
            let smaller = room.smaller_limits("S", &stream, LIMITS);
            assert!(says(smaller, told), "{config} {account}");
            assert!(
                says(stream.ends_idle_durable("S", "d"), durable),
                "{config}"
            );
        }
    }
}
