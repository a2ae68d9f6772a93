//! Checks of Redis before a start: whether Redis answers, where the master is, and which names this
//! user may subscribe and publish to. Changes nothing on the server.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::ClientConfig;

use super::connection::Connection;
use super::error::RedisError;
use super::resp::Value;
use super::settings::{RedisEndpoint, RedisSettings};
use super::{HANDSHAKE_TIMEOUT, handshake, sentinel, tls_config};
use crate::base::Finding;
use crate::feeds::Subscription;
use crate::sources::asked::{Answers, to_ask};
use crate::sources::socket::Waiter;

/// The time that all names may take together.
const NAMES_TIMEOUT: Duration = Duration::from_secs(10);

/// The names that a gateway needs on Redis.
#[derive(Clone, Debug, Default)]
pub struct RedisNeeds {
    /// Names that the gateway cannot do without.
    pub subscriptions: Vec<Subscription>,
    /// Names that clients may ask for; a refusal concerns only those clients.
    pub requests: Vec<Subscription>,
    /// Channels that the gateway publishes to. The check publishes an empty message, so nobody must listen.
    pub published: Vec<String>,
    /// The channel of the marks: without the right to publish there, positions are valid on one instance.
    pub marks: Option<String>,
    /// The key of the stream that is read.
    pub stream: Option<String>,
}

/// Asks the sentinels if there are some, and checks whether the server answers and whether this user may
/// subscribe and publish as needed.
pub fn ask(settings: &RedisSettings, needs: &RedisNeeds) -> Vec<Finding> {
    let mut found = Vec::new();
    if let Err(error) = all(settings, needs, &mut found) {
        found.push(Finding::Error(error.to_string()));
    }
    found
}

fn all(
    settings: &RedisSettings,
    needs: &RedisNeeds,
    found: &mut Vec<Finding>,
) -> Result<(), RedisError> {
    let tls = tls_config(settings)?;
    let (mut waiter, _) =
        Waiter::new("a question to Redis").map_err(|source| RedisError::System { source })?;
    let has_sentinels = !settings.sentinels.is_empty();
    let endpoint = match has_sentinels {
        true => master(&mut waiter, settings, tls.as_ref(), found)?,
        false => settings.server.clone(),
    };
    let begin = Instant::now();
    let timeout = Duration::from_millis(settings.connect_timeout_ms);
    let mut connection = Connection::open(&mut waiter, &endpoint, tls.as_ref(), timeout)?;
    let until = Instant::now() + HANDSHAKE_TIMEOUT;
    handshake::log_in(&mut connection, &endpoint, until)?;
    let ms = begin.elapsed().as_millis();
    if has_sentinels {
        handshake::check_role(&mut connection, until)?;
    }
    let version = version(&mut connection, until)?;
    let server = endpoint.address();
    let text = format!("Redis {version} at {server} answered in {ms} ms");
    found.push(Finding::Good(text));
    published(&mut connection, &needs.published, found, Finding::Error)?;
    published(&mut connection, needs.marks.as_slice(), found, |text| {
        let effect = "positions are valid on one instance only";
        Finding::Warning(format!("{text}; {effect}"))
    })?;
    if let Some(key) = &needs.stream {
        read_stream(&mut connection, key, found)?;
    }
    subscribed(&mut connection, needs, found)
}

/// Asks every sentinel, so that an absent sentinel is seen before it is needed.
fn master(
    waiter: &mut Waiter,
    settings: &RedisSettings,
    tls: Option<&Arc<ClientConfig>>,
    found: &mut Vec<Finding>,
) -> Result<RedisEndpoint, RedisError> {
    let (name, mut masters) = (&settings.master_name, Vec::new());
    let mut reason = String::from("there is none to ask");
    for one in &settings.sentinels {
        let (begin, address) = (Instant::now(), one.address());
        match sentinel::ask(waiter, one, settings, tls) {
            Ok(master) => {
                let (at, ms) = (master.address(), begin.elapsed().as_millis());
                found.push(Finding::Good(format!(
                    "the sentinel at {address} answered in {ms} ms: {name} is at {at}"
                )));
                masters.push(master);
            }
            Err(error) => {
                reason = error.to_string();
                found.push(Finding::Warning(format!(
                    "the sentinel at {address}: {error}"
                )));
            }
        }
    }
    let addresses: Vec<_> = masters.iter().map(RedisEndpoint::address).collect();
    if addresses.iter().any(|one| Some(one) != addresses.first()) {
        let text = format!(
            "the sentinels name different masters: {}",
            addresses.join(", ")
        );
        found.push(Finding::Warning(text));
    }
    masters
        .into_iter()
        .next()
        .ok_or_else(|| RedisError::NoMaster {
            master: name.clone(),
            reason,
        })
}

/// The version from `HELLO`, which every user may ask; servers before 6.0 do not know the command.
fn version(connection: &mut Connection<'_>, until: Instant) -> Result<String, RedisError> {
    let answers = connection.ask(&[&["HELLO"]], until)?;
    let Some(Value::Array(fields)) = answers.first() else {
        return Ok("(of an unknown version)".to_owned());
    };
    let is_version = |pair: &&[Value]| matches!(pair, [Value::Bulk(name), _] if name == b"version");
    let version = match fields.chunks(2).find(is_version) {
        Some([_, Value::Bulk(version)]) => String::from_utf8_lossy(version).into_owned(),
        _ => "(of an unknown version)".to_owned(),
    };
    Ok(handshake::shown(&version))
}

fn published(
    connection: &mut Connection<'_>,
    channels: &[String],
    found: &mut Vec<Finding>,
    refused: impl Fn(String) -> Finding,
) -> Result<(), RedisError> {
    for channel in channels {
        let until = Instant::now() + HANDSHAKE_TIMEOUT;
        let answers = connection.ask(&[&["PUBLISH", channel, ""]], until)?;
        found.push(match answers.first() {
            Some(Value::Error(words)) => {
                let reason = handshake::shown(words);
                refused(format!("may not publish to {channel}: {reason}"))
            }
            _ => Finding::Good(format!("may publish to {channel}")),
        });
    }
    Ok(())
}

/// Reads the newest entry in the three ways of the source.
fn read_stream(
    connection: &mut Connection<'_>,
    key: &str,
    found: &mut Vec<Finding>,
) -> Result<(), RedisError> {
    let until = Instant::now() + HANDSHAKE_TIMEOUT;
    let commands: [&[&str]; 3] = [
        &["XREVRANGE", key, "+", "-", "COUNT", "1"],
        &["XRANGE", key, "+", "+"],
        &["XREAD", "COUNT", "1", "STREAMS", key, "$"],
    ];
    let answers = connection.ask(&commands, until)?;
    let refused = answers.iter().find_map(|answer| match answer {
        Value::Error(words) => Some(handshake::shown(words)),
        _ => None,
    });
    let is_empty = matches!(answers.first(), Some(Value::Array(entries)) if entries.is_empty());
    found.push(match refused {
        Some(reason) => Finding::Error(format!("cannot read the stream {key}: {reason}")),
        None if is_empty => Finding::Warning(format!("the stream {key} has no entry")),
        None => Finding::Good(format!("may read the stream {key}")),
    });
    Ok(())
}

/// Subscribes for a moment: the connection is closed at once.
fn subscribed(
    connection: &mut Connection<'_>,
    needs: &RedisNeeds,
    found: &mut Vec<Finding>,
) -> Result<(), RedisError> {
    let (needed, requests) = (&needs.subscriptions[..], &needs.requests[..]);
    let asked: Vec<_> = to_ask(needed, requests).collect();
    if asked.is_empty() {
        return Ok(());
    }
    let commands: Vec<[&str; 2]> = asked.iter().map(|(one, _)| command(one)).collect();
    let commands: Vec<&[&str]> = commands.iter().map(|words| &words[..]).collect();
    let until = Instant::now() + NAMES_TIMEOUT;
    let answers = connection.ask_for(&commands, until, is_confirmation)?;
    let mut told = Answers::default();
    for ((one, is_request), answer) in asked.into_iter().zip(&answers) {
        let name = match one.is_pattern {
            true => format!("the pattern {}", one.name),
            false => one.name.to_string(),
        };
        let answer = match answer {
            Value::Error(words) => Err(handshake::shown(words)),
            _ => Ok(()),
        };
        told.take(name, is_request, answer);
    }
    told.tell("Redis", needed.len(), requests.len(), found);
    Ok(())
}

fn command(one: &Subscription) -> [&str; 2] {
    let verb = if one.is_pattern {
        "PSUBSCRIBE"
    } else {
        "SUBSCRIBE"
    };
    [verb, &one.name]
}

/// Tells confirmations from the messages in between.
fn is_confirmation(value: &Value) -> bool {
    match value {
        Value::Error(_) => true,
        Value::Array(items) => matches!(
            items.first(),
            Some(Value::Bulk(word)) if word == b"subscribe" || word == b"psubscribe"
        ),
        _ => false,
    }
}
