//! The check before a start: whether the files named in the settings are readable, whether NATS
//! answers, what NATS holds, and what this user may do. Changes nothing in NATS.

use std::io;
use std::time::Instant;

mod room;

use self::room::{Room, Stream};
use super::connection::Link;
use super::consumers::{Durable, Target, asked, find_stream, look_for, look_up};
use super::error::{NatsError, Refusal, Refusals};
use super::settings::{
    Credentials, Login, NatsSettings, StreamSpec, SubscriptionSpec, Tls, tls_config,
};
use crate::auth::NameSyntax;
use crate::base::Finding;
use crate::sources::{Answers, to_ask};

/// Connects to every server of the settings. Asks the first reachable server about the streams and
/// durable consumers needed by a [`NatsSource`](super::NatsSource) with these settings.
pub fn ask(settings: &NatsSettings) -> Vec<Finding> {
    on_a_server(settings, |link, found| {
        let left_out = left_out(link, settings, found)?;
        let room = Room::ask(&link.api);
        let mut room = room.map_err(|error| asked("tell of the account".to_owned(), error))?;
        for spec in &settings.subscriptions {
            if left_out
                .iter()
                .any(|stream| Some(&stream.name) == spec.stream.as_ref())
            {
                continue;
            }
            match subject(link, &mut room, settings, spec, found) {
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
    /// Subjects to publish to. The check publishes an empty message there, so nobody may be
    /// listening.
    pub published: Vec<String>,
    /// The largest message, bytes.
    pub payload_bytes_max: usize,
    /// The JetStream stream that is read.
    pub stream: Option<String>,
}

/// Checks plain subjects: whether this user has the permissions of `needs`, and whether the server
/// takes messages of the largest size.
pub fn ask_plain(settings: &NatsSettings, needs: &NatsNeeds) -> Vec<Finding> {
    on_a_server(settings, |link, found| {
        let (payload_bytes, bytes) = (link.api.connection.max_payload(), needs.payload_bytes_max);
        if payload_bytes < bytes {
            found.push(Finding::Error(format!(
                "NATS takes messages of {payload_bytes} bytes (max_payload), and messages have up \
                 to {bytes}"
            )));
        }
        plain(link, needs, found)
    })
}

fn plain(link: &Link, needs: &NatsNeeds, found: &mut Vec<Finding>) -> Result<(), NatsError> {
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
        let answer = match may_subscribe(link, subject)? {
            true => Ok(()),
            false => Err("NATS does not permit it".to_owned()),
        };
        answers.take(subject.clone(), is_request, answer);
    }
    answers.report(
        "NATS",
        needs.subscriptions.len(),
        needs.requests.len(),
        found,
    );
    Ok(())
}

fn may_subscribe(link: &Link, subject: &str) -> Result<bool, NatsError> {
    let subscription = link.api.connection.subscribe(subject);
    let _subscription = subscription.map_err(|_| NatsError::Lost)?;
    is_permitted(link, &Refusal::Subscription(subject.to_owned()))
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

/// The optional streams, if their subjects are left out.
fn left_out<'a>(
    link: &Link,
    settings: &'a NatsSettings,
    found: &mut Vec<Finding>,
) -> Result<&'a [StreamSpec], NatsError> {
    let streams = &settings.streams[..];
    if !settings.streams_optional || !look_for(&link.api, streams)?.is_left_out() {
        return Ok(&[]);
    }
    let names: Vec<_> = streams.iter().map(|stream| &stream.name[..]).collect();
    let names = names.join(" and ");
    found.push(Finding::Good(format!(
        "no stream {names} for this user; a start makes none, and reads only the relays (--market)"
    )));
    Ok(streams)
}

/// Checks the stream of a subject, the durable consumer, and this user's permissions on both.
fn subject(
    link: &Link,
    room: &mut Room<'_>,
    settings: &NatsSettings,
    spec: &SubscriptionSpec,
    found: &mut Vec<Finding>,
) -> Result<(), NatsError> {
    let mut streams = settings.streams.iter();
    let ours = streams.find(|stream| Some(&stream.name) == spec.stream.as_ref());
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
    let create = match settings.ephemeral {
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
            let stored = &stream.config.subjects;
            let holds = |pattern: &String| NameSyntax::Nats.contains(pattern, subject);
            let holds = stored.iter().any(holds);
            let finding = match holds {
                true => Finding::Good(format!("the stream {name} holds {subject}")),
                false if stream.config.is_copy() => Finding::Good(format!(
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
    Ok(match look_up(&link.api, target).map_err(failed)? {
        Durable::Missing => {
            let text = format!("the durable consumer {name} is not there; a start makes it");
            (Finding::Good(text), Some(true))
        }
        Durable::Free(_) => {
            let text = format!("the durable consumer {name} is free");
            (Finding::Good(text), None)
        }
        Durable::Taken => {
            let text = format!(
                "the durable consumer {name} is held by another client; until it is free this \
                 instance reads from a consumer of its own"
            );
            (Finding::Warning(text), Some(false))
        }
        Durable::Unusable(why) => {
            let text = format!(
                "the durable consumer {name} cannot be used ({why}); this instance reads from a \
                 consumer of its own"
            );
            (Finding::Warning(text), Some(false))
        }
    })
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

/// Whether the server has not sent `refusal`. A refusal arrives before the answer to the next
/// request.
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

impl NatsSettings {
    /// Reads every file needed for a connection. `prefix` is the beginning of the flags: `nats` for
    /// `--nats-creds`.
    ///
    /// # Errors
    /// The flag, the file, and the fault of the file; nothing of the file's text.
    pub fn check_files(&self, prefix: &str) -> Result<(), String> {
        let wrong = |setting: &str, error: io::Error| format!("--{prefix}-{setting}: {error}");
        let mut has_tls = self.tls.is_demanded();
        for endpoint in self.endpoints() {
            let endpoint = endpoint.map_err(|error| error.to_string())?;
            has_tls |= endpoint.tls;
            let login = Login::read(&endpoint.auth, &self.credentials);
            login.map_err(|error| wrong(setting_of(&self.credentials), error))?;
        }
        if !has_tls {
            return Ok(());
        }
        let trusting = Tls {
            ca: self.tls.ca.clone(),
            client: None,
        };
        tls_config(&trusting).map_err(|error| wrong("ca", error))?;
        let both = format!("cert and --{prefix}-key");
        tls_config(&self.tls).map_err(|error| wrong(&both, error))?;
        Ok(())
    }
}

/// The setting for the file of these credentials.
fn setting_of(credentials: &Credentials) -> &'static str {
    match credentials {
        Credentials::CredsFile(_) => "creds",
        Credentials::NkeyFile(_) => "nkey",
        Credentials::None | Credentials::Token(_) => "token",
        Credentials::UserPassword(..) => "user",
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn each_broken_file_is_named_with_its_setting_and_not_shown() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("file");
        fs::write(&file, "s3cret").expect("written");
        let none = folder.path().join("none");
        let with = |credentials, ca, client| {
            let tls = Tls { ca, client };
            let settings = NatsSettings::plain("nats://h", credentials, tls);
            settings.check_files("nats")
        };
        let creds = |path: &std::path::Path| Credentials::CredsFile(path.to_owned());
        let nkey = Credentials::NkeyFile(file.clone());
        let client = Some((file.clone(), none.clone()));
        for (result, says) in [
            (with(creds(&none), None, None), "--nats-creds: "),
            (with(creds(&none), None, None), "none: No such file"),
            (with(creds(&file), None, None), "not hold a credentials"),
            (with(nkey, None, None), "--nats-nkey: "),
            (with(Credentials::None, Some(none), None), "--nats-ca: "),
            (
                with(Credentials::None, None, client),
                "--nats-cert and --nats-key: ",
            ),
        ] {
            let error = result.expect_err(says);
            assert!(error.contains(says) && !error.contains("s3cret"), "{error}");
        }
        let unused = NatsSettings::plain("nats://token@h", creds(&file), Tls::default());
        assert_eq!(unused.check_files("nats"), Ok(()), "the URL has a token");
    }
}
