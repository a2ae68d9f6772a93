//! The check before a start: whether NATS answers, what NATS holds, what the limits of the account and of its streams
//! leave, and what this user may do. Changes nothing in NATS.

use std::collections::HashMap;
use std::time::Instant;

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::api::{Api, ApiError};
use super::connection::Link;
use super::consumers::{Durable, Target, asked, find_stream, look_for, look_up};
use super::error::{NatsError, Refusal, Refusals};
use super::settings::{NatsSettings, StreamSpec, SubscriptionSpec};
use crate::{Answers, to_ask};
use weirgate_wire::auth::NameSyntax;
use weirgate_wire::base::Finding;
use weirgate_wire::json;

/// Connects to every server of the settings. Asks the first reachable server about the streams and durable consumers
/// needed by a [`NatsSource`](super::NatsSource) with these settings.
pub fn ask(settings: &NatsSettings) -> Vec<Finding> {
    on_a_server(settings, |link, found| {
        let is_left_out = is_left_out(link, settings, found)?;
        let room = Room::ask(&link.api);
        let mut room = room.map_err(|error| asked("tell of the account".to_owned(), error))?;
        for spec in &settings.subscriptions {
            let is_its_own = |stream: &&StreamSpec| Some(&stream.name) == spec.stream.as_ref();
            let ours = settings.streams.iter().find(is_its_own);
            if is_left_out && ours.is_some() {
                continue;
            }
            match subject(link, &mut room, settings.ephemeral, (spec, ours), found) {
                Err(error) if error.is_of_all() => return Err(error),
                Err(error) => found.push(Finding::Error(error.to_string())),
                Ok(()) => {}
            }
        }
        Ok(())
    })
}

/// The permissions and sizes needed by a gateway on plain subjects.
#[derive(Clone, Debug, Default)]
pub struct NatsNeeds {
    /// Subjects the gateway cannot do without.
    pub subscriptions: Vec<String>,
    /// Subjects for clients to request; a refusal concerns only these clients.
    pub requests: Vec<String>,
    /// Subjects to publish to. The check publishes an empty message there, so no program should be subscribed to them.
    pub published: Vec<String>,
    /// The largest message, bytes.
    pub payload_bytes_max: usize,
    /// The JetStream stream that is read.
    pub stream: Option<String>,
}

/// Checks plain subjects: whether this user has the permissions of `needs`, and whether the server takes messages of
/// the largest size.
pub fn ask_plain(settings: &NatsSettings, needs: &NatsNeeds) -> Vec<Finding> {
    on_a_server(settings, |link, found| {
        let (payload_bytes, bytes) = (link.api.connection.max_payload(), needs.payload_bytes_max);
        if payload_bytes < bytes {
            found.push(Finding::Error(format!(
                "NATS takes messages of {payload_bytes} bytes (max_payload), and messages have up \
                 to {bytes}"
            )));
        }
        for subject in &needs.published {
            let published = link.api.connection.publish(subject, b"");
            published.map_err(|_| NatsError::Lost)?;
            let permitted = is_permitted(link, &Refusal::Request(subject.clone()))?;
            found.push(permission(&format!("publish to {subject}"), permitted));
        }
        if let Some(stream) = &needs.stream {
            whole_stream(link, stream, found)?;
        }
        let mut answers = Answers::default();
        for (subject, is_request) in to_ask(&needs.subscriptions, &needs.requests) {
            let subscription = link.api.connection.subscribe(subject);
            let _subscription = subscription.map_err(|_| NatsError::Lost)?;
            let answer = match is_permitted(link, &Refusal::Subscription(subject.clone()))? {
                true => Ok(()),
                false => Err("NATS does not permit it".to_owned()),
            };
            answers.take(subject.clone(), is_request, answer);
        }
        let (needed, requests) = (needs.subscriptions.len(), needs.requests.len());
        answers.report("NATS", needed, requests, found);
        Ok(())
    })
}

/// Connects to each server, and calls `further` with the first connection. An error of `further` is the last finding.
fn on_a_server(
    settings: &NatsSettings,
    further: impl FnOnce(&Link, &mut Vec<Finding>) -> Result<(), NatsError>,
) -> Vec<Finding> {
    let (mut found, mut away, mut first) = (Vec::new(), Vec::new(), None);
    for endpoint in settings.endpoints() {
        let begin = Instant::now();
        let opened = endpoint.and_then(|endpoint| {
            let mut opened = Err(NatsError::Lost);
            for one in endpoint.servers(settings)? {
                opened = Link::open(&one, settings, Refusals::default());
                if opened.is_ok() {
                    break;
                }
            }
            opened.map(|link| (link, endpoint.url()))
        });
        match opened {
            Ok((link, url)) => {
                let (version, ms) = (link.info.version(), begin.elapsed().as_millis());
                found.push(Finding::Good(format!(
                    "NATS {version} at {url} answered in {ms} ms"
                )));
                match first {
                    None => first = Some(link),
                    Some(_) => link.abandon(),
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
    link.api = link.api.hasty();
    if let Err(error) = further(&link, &mut found) {
        found.push(Finding::Error(error.to_string()));
    }
    link.abandon();
    found
}

/// Whether the subjects of the optional streams are left out.
fn is_left_out(
    link: &Link,
    settings: &NatsSettings,
    found: &mut Vec<Finding>,
) -> Result<bool, NatsError> {
    let streams = &settings.streams;
    if !settings.streams_optional || !look_for(&link.api, streams)?.is_left_out() {
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
fn subject(
    link: &Link,
    room: &mut Room<'_>,
    ephemeral: bool,
    (spec, ours): (&SubscriptionSpec, Option<&StreamSpec>),
    found: &mut Vec<Finding>,
) -> Result<(), NatsError> {
    let Some((stream, look)) = stream_of(link, room, spec, ours, found)? else {
        return Ok(());
    };
    let target = Target {
        stream,
        subject: spec.subject.clone(),
        durable: spec.durable.clone(),
    };
    let Target {
        stream, durable, ..
    } = &target;
    let own = format!("CONSUMER.CREATE.{stream}");
    let create = match ephemeral {
        true => Some(own),
        false => {
            let (finding, is_missing) = look_at(link, &target)?;
            found.push(finding);
            let makes = format!("CONSUMER.DURABLE.CREATE.{stream}.{durable}");
            is_missing.map(|is_missing| if is_missing { makes } else { own })
        }
    };
    if let Some(look) = look.filter(|_| create.is_some()) {
        let lack = room.lack_of_consumer(stream, &look);
        found.extend(lack.map(Finding::Error));
    }
    let get = format!("STREAM.MSG.GET.{stream}");
    let verbs: Vec<_> = [Some(get), create].into_iter().flatten().collect();
    let may = read_and_acknowledge(link, &verbs, (stream, durable), &target.subject)?;
    found.push(may);
    Ok(())
}

/// The name of the stream holding the subject, and the stream if it is there. `None` if a start waits for the stream.
fn stream_of(
    link: &Link,
    room: &mut Room<'_>,
    spec: &SubscriptionSpec,
    ours: Option<&StreamSpec>,
    found: &mut Vec<Finding>,
) -> Result<Option<(String, Option<Stream>)>, NatsError> {
    let subject = &spec.subject;
    let failed = |error| asked(format!("tell of the stream of {subject}"), error);
    let (finding, stream) = match (find_stream(&link.api, spec).map_err(failed)?, ours) {
        (Some((name, _)), _) => {
            let stream = room.stream(&name).map_err(failed)?;
            let (config, stored) = (&stream.config, &stream.config.subjects);
            let is_copy = config.mirror.is_some() || config.sources.is_some();
            let holds = |pattern: &String| NameSyntax::Nats.contains(pattern, subject);
            let holds = stored.iter().any(holds);
            let finding = match holds {
                true => Finding::Good(format!("the stream {name} holds {subject}")),
                false if is_copy => Finding::Good(format!(
                    "the stream {name} has the messages of other streams"
                )),
                false => Finding::Error(format!(
                    "the stream {name} does not hold {subject}: its subjects are {}",
                    stored.join(", ")
                )),
            };
            (finding, Some((name, Some(stream))))
        }
        (None, Some(stream)) => {
            let name = &stream.name;
            let verb = format!("STREAM.CREATE.{name}");
            link.api.permits(&verb).map_err(failed)?;
            let finding = match room.lack_of_stream(stream).map_err(failed)? {
                None => Finding::Good(format!(
                    "the stream {name} for {subject} is not there; a start makes it"
                )),
                Some(lack) => Finding::Error(format!(
                    "the stream {name} for {subject} is not there, and cannot be made: {lack}"
                )),
            };
            (finding, Some((name.clone(), None)))
        }
        (None, None) => {
            let text = format!("no stream holds {subject}; weirgate waits for one");
            (Finding::Warning(text), None)
        }
    };
    found.push(finding);
    Ok(stream)
}

/// Checks whether the durable consumer is free. If a start makes a consumer, returns whether it is the durable one.
fn look_at(link: &Link, target: &Target) -> Result<(Finding, Option<bool>), NatsError> {
    let name = &target.durable;
    let failed = |error| asked(format!("tell of the consumer {name}"), error);
    let (says, makes) = match look_up(&link.api, target).map_err(failed)? {
        Durable::Missing => ("is not there; a start makes it".to_owned(), Some(true)),
        Durable::Free(_) => ("is free".to_owned(), None),
        Durable::Taken => {
            let says = "is held by another client; until it is free this instance reads from a \
                        consumer of its own";
            (says.to_owned(), Some(false))
        }
        Durable::Unusable(why) => {
            let own = "this instance reads from a consumer of its own";
            (format!("cannot be used ({why}); {own}"), Some(false))
        }
    };
    let text = format!("the durable consumer {name} {says}");
    let finding = match makes {
        Some(false) => Finding::Warning(text),
        _ => Finding::Good(text),
    };
    Ok((finding, makes))
}

/// Checks the permissions to read `what` by these requests, and to acknowledge the messages of a consumer. The requests
/// have an unreadable body, so JetStream refuses them and changes nothing; an acknowledgement with an unknown word is
/// ignored.
fn read_and_acknowledge(
    link: &Link,
    verbs: &[String],
    (stream, consumer): (&str, &str),
    what: &str,
) -> Result<Finding, NatsError> {
    for verb in verbs {
        let failed = |error| asked(format!("take the request {verb}"), error);
        link.api.permits(verb).map_err(failed)?;
    }
    let acks = Refusal::Acks {
        stream: stream.to_owned(),
        consumer: consumer.to_owned(),
    };
    let ack = format!("$JS.ACK.{stream}.{consumer}.1.0.0.0.0");
    let published = link.api.connection.publish(&ack, b"check");
    published.map_err(|_| NatsError::Lost)?;
    Ok(match is_permitted(link, &acks)? {
        true => Finding::Good(format!("may read and acknowledge {what}")),
        false => permission("publish to $JS.ACK.>", false),
    })
}

/// Checks a stream that is read whole.
fn whole_stream(link: &Link, stream: &str, found: &mut Vec<Finding>) -> Result<(), NatsError> {
    let failed = |error| asked(format!("read the stream {stream}"), error);
    let mut room = Room::ask(&link.api).map_err(failed)?;
    let look = match room.stream(stream) {
        Err(error) if error.stream_is_missing() => {
            return Err(NatsError::NoSuchStream(stream.to_owned()));
        }
        look => look.map_err(failed)?,
    };
    if look.config.retention == "workqueue" {
        return Err(NatsError::WorkQueue(stream.to_owned()));
    }
    if look.config.retention == "interest" {
        found.push(Finding::Warning(format!(
            "the stream {stream} keeps no message after all consumers have it (retention: interest): what is \
             published while weirgate is away is lost, and a restart has no history"
        )));
    }
    let lack = room.lack_of_consumer(stream, &look);
    found.extend(lack.map(Finding::Error));
    let create = [format!("CONSUMER.CREATE.{stream}")];
    let what = format!("the stream {stream}");
    found.push(read_and_acknowledge(
        link,
        &create,
        (stream, "weirgate"),
        &what,
    )?);
    Ok(())
}

/// Whether the server has not sent `refusal`. A refusal arrives before the answer to the next request.
fn is_permitted(link: &Link, refusal: &Refusal) -> Result<bool, NatsError> {
    let rtt = link.api.connection.rtt();
    rtt.map_err(|_| NatsError::Lost)?;
    Ok(!link.api.refusals.has(refusal))
}

fn permission(what: &str, is_permitted: bool) -> Finding {
    if is_permitted {
        return Finding::Good(format!("may {what}"));
    }
    let error = NatsError::NotPermitted {
        what: what.to_owned(),
        is_of_all: false,
    };
    Finding::Error(error.to_string())
}

/// The room that the limits leave, less the streams and consumers that the subjects checked before need.
struct Room<'a> {
    api: &'a Api,
    /// `None` if the user may not ask; a start does not need it.
    account: Option<Account>,
    /// Streams that a start makes.
    streams: u64,
    /// Consumers that a start makes, by stream.
    consumers: HashMap<String, u64>,
}

/// The state of an account. An account with limits for each number of replicas (`tiers`) has no other limits.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Account {
    streams: u64,
    reserved_storage: u64,
    limits: Limits,
    tiers: HashMap<String, Self>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Limits {
    max_streams: i64,
    max_consumers: i64,
    max_storage: Option<i64>,
    max_bytes_required: bool,
}

/// The facts about a stream that a start needs.
#[derive(Deserialize)]
struct Stream {
    config: Config,
    state: State,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Config {
    subjects: Vec<String>,
    retention: String,
    max_consumers: i64,
    mirror: Option<IgnoredAny>,
    sources: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct State {
    #[serde(default)]
    consumer_count: u64,
}

/// A limit; 0 or less means no limit.
fn limit(number: i64) -> Option<u64> {
    u64::try_from(number).ok().filter(|number| *number > 0)
}

impl<'a> Room<'a> {
    /// Asks about the account.
    ///
    /// # Errors
    /// The connection is lost.
    fn ask(api: &'a Api) -> Result<Self, ApiError> {
        let account = match api.ask("INFO", b"") {
            Ok(answer) => json::read(&answer)?.parse().ok(),
            Err(error @ (ApiError::Lost | ApiError::Connection(_))) => return Err(error),
            // A start does not need this permission.
            Err(_) => None,
        };
        let of_one_replica = |mut account: Account| account.tiers.remove("R1").unwrap_or(account);
        Ok(Self {
            api,
            account: account.map(of_one_replica),
            streams: 0,
            consumers: HashMap::new(),
        })
    }

    fn stream(&self, name: &str) -> Result<Stream, ApiError> {
        let answer = self.api.ask(&format!("STREAM.INFO.{name}"), b"")?;
        Ok(json::read(&answer)?.parse()?)
    }

    /// Why a start cannot make a missing stream, as far as limits tell.
    fn lack_of_stream(&mut self, spec: &StreamSpec) -> Result<Option<String>, ApiError> {
        for subject in &spec.subjects {
            match self.api.stream_holding(subject) {
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
        let Some(Account {
            streams,
            reserved_storage: bytes,
            limits,
            ..
        }) = &self.account
        else {
            return Ok(None);
        };
        let full = limit(limits.max_streams).filter(|max| streams + self.streams > *max);
        let bytes_max = limits.max_storage.and_then(|max| u64::try_from(max).ok());
        Ok(match (full, bytes_max) {
            (Some(max), _) => Some(format!("the account has {streams} of {max} (max_streams)")),
            (_, Some(max)) if *bytes >= max => Some(format!(
                "the account has no file storage left: {bytes} of {max} bytes (max_file)"
            )),
            _ if limits.max_bytes_required => Some(
                "the account takes only streams with max_bytes (max_bytes_required); make it with \
                 `nats stream add`"
                    .to_owned(),
            ),
            _ => None,
        })
    }

    /// Why a start cannot make another consumer of a stream, as far as limits tell.
    fn lack_of_consumer(&mut self, name: &str, stream: &Stream) -> Option<String> {
        if stream.config.retention == "workqueue" {
            return Some(format!(
                "the stream {name} is a work queue (retention: workqueue): it takes no consumer that \
                 begins at the newest message"
            ));
        }
        let more = self.consumers.entry(name.to_owned()).or_default();
        *more += 1;
        let of_account = self.account.as_ref().map(|it| it.limits.max_consumers);
        let limits = [Some(stream.config.max_consumers), of_account];
        let max = limits.into_iter().flatten().filter_map(limit).min()?;
        let there = stream.state.consumer_count;
        (there + *more > max).then(|| {
            format!(
                "no consumer of the stream {name} is left: it has {there} of {max} (max_consumers)"
            )
        })
    }
}
