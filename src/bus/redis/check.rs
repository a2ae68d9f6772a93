//! Checks of Redis before a start: whether Redis answers, where the master is, and the rights of this
//! user to subscribe and publish. Changes nothing on the server.

use std::time::{Duration, Instant};

use super::connection::Connection;
use super::error::{RedisError, advice, is_of_user_or_key, shown_trimmed};
use super::marks::NO_POSITIONS;
use super::resp::Value;
use super::role::{bulk_field, says_lone_master};
use super::sentinels::name_same_server;
use super::servers::{RedisServers, waiter};
use super::settings::{RedisEndpoint, RedisSettings};
use super::stream::{STATE, StateAnswer, read_limits};
use crate::socket::Waiter;
use crate::{Answers, names_to_check};
use weirgate_core::Subscription;
use weirgate_runtime::Lookup;
use weirgate_wire::base::Finding;

/// What Redis answers to `XINFO STREAM` if there is no stream and the user may use the command.
const NO_KEY: &str = "ERR no such key";

/// The needs of a gateway on Redis.
#[derive(Clone, Debug, Default)]
pub struct RedisNeeds {
    /// Names without which the gateway cannot work.
    pub subscriptions: Vec<Subscription>,
    /// Names that clients may request; a refusal concerns only the clients that request the name.
    pub requests: Vec<Subscription>,
    /// Channels that the gateway publishes to. The check publishes an empty message there, so nobody must be listening.
    pub published: Vec<String>,
    /// The channel of the marks. If this user may not publish there, positions are valid on one instance only.
    pub marks: Option<String>,
    /// The key of the stream to read.
    pub stream: Option<String>,
}

impl RedisNeeds {
    /// Asks the sentinels, if there are any, and checks whether the server answers, and whether this user may subscribe,
    /// publish and read as needed. The server may take up to nearly `limit` for its answers.
    pub fn check(&self, settings: &RedisSettings, limit: Duration) -> Vec<Finding> {
        let mut found = Vec::new();
        // What is found is to be reported within the limit.
        if let Err(error) = check_all(settings, limit * 9 / 10, self, &mut found) {
            found.push(Finding::Error(error.to_string()));
        }
        found
    }
}

/// A server that is asked, with the longest silence of its answers.
struct AskedServer<'w> {
    connection: Connection<'w>,
    patience: Duration,
}

impl AskedServer<'_> {
    fn ask_one(&mut self, command: &[&str]) -> Result<Value, RedisError> {
        self.connection.ask_one(command, self.patience)
    }

    fn ask(&mut self, commands: &[Vec<&str>]) -> Result<Vec<Value>, RedisError> {
        self.connection.ask(commands, self.patience)
    }
}

/// Connects as a start does, and appends what is found.
fn check_all(
    settings: &RedisSettings,
    patience: Duration,
    needs: &RedisNeeds,
    found: &mut Vec<Finding>,
) -> Result<(), RedisError> {
    // A name server that says nothing about one name leaves time for the others: the findings say which name it is.
    let names = u32::try_from(settings.sentinels.len() + 1).unwrap_or(u32::MAX);
    let mut settings = settings.clone();
    settings.lookup = Lookup::within(patience / names);
    let payload_bytes_max = settings.payload_bytes_max;
    let mut servers = RedisServers::new(settings)?.with_patience(patience);
    // Nobody wakes this thread.
    let (mut waiter, _) = waiter("a question to Redis")?;
    if servers.has_sentinels() {
        ask_sentinels(&mut servers, &mut waiter, found)?;
    }
    let begin = Instant::now();
    let mut server = AskedServer {
        connection: servers.connect(&mut waiter)?,
        patience,
    };
    let ms = begin.elapsed().as_millis();
    // Every user may send `HELLO`; servers before 6.0 do not know the command.
    let hello = server.ask_one(&["HELLO"])?;
    let version = bulk_field(&hello, b"version").unwrap_or(b"(of an unknown version)");
    let version = shown_trimmed(&String::from_utf8_lossy(version));
    let address = server.connection.endpoint.address();
    let text = format!("Redis {version} at {address} answered in {ms} ms");
    found.push(Finding::Good(text));
    if needs.marks.is_some() && !says_lone_master(&hello) {
        found.push(Finding::Warning(format!("{address}: {NO_POSITIONS}")));
    }
    check_publishing(&mut server, &needs.published, found, Finding::Error)?;
    check_publishing(&mut server, needs.marks.as_slice(), found, |text| {
        let effect = "positions are valid on one instance only";
        Finding::Warning(format!("{text}; {effect}"))
    })?;
    if let Some(key) = &needs.stream {
        let limits = read_limits(payload_bytes_max);
        server.connection.reader.set_limits(limits);
        check_stream(&mut server, key, found)?;
    }
    check_subscribing(&mut server, needs, found)
}

/// Asks every sentinel, so that an absent one is reported before it is needed.
fn ask_sentinels(
    servers: &mut RedisServers,
    waiter: &mut Waiter,
    found: &mut Vec<Finding>,
) -> Result<(), RedisError> {
    let name = servers.settings.master_name.clone();
    let (mut masters, mut last_error) = (Vec::new(), None);
    for (index, one) in servers.settings.sentinels.clone().iter().enumerate() {
        let (begin, address) = (Instant::now(), one.address());
        match servers.ask_sentinel(waiter, index) {
            Ok(named) => {
                let master = named.server;
                let (at, ms) = (master.address(), begin.elapsed().as_millis());
                found.push(Finding::Good(format!(
                    "the sentinel at {address} answered in {ms} ms: {name} is at {at}"
                )));
                masters.push(master);
            }
            Err(error) => {
                let text = format!("the sentinel at {address}: {error}");
                found.push(Finding::Warning(text));
                last_error = Some(error);
            }
        }
    }
    let lookup = &servers.settings.lookup;
    let is_same = |first: &_, one: &_| name_same_server(first, one, lookup);
    if let Some((first, more)) = masters.split_first()
        && !more.iter().all(|one| is_same(first, one))
    {
        let addresses: Vec<_> = masters.iter().map(RedisEndpoint::address).collect();
        let text = format!(
            "the sentinels name different masters: {}",
            addresses.join(", ")
        );
        found.push(Finding::Warning(text));
    }
    match masters.is_empty() {
        true => Err(servers.no_master(last_error)),
        false => Ok(()),
    }
}

/// Publishes an empty message to each channel, to see whether this user may. `refused` makes a finding of a refusal.
fn check_publishing(
    server: &mut AskedServer<'_>,
    channels: &[String],
    found: &mut Vec<Finding>,
    refused: impl Fn(String) -> Finding,
) -> Result<(), RedisError> {
    for channel in channels {
        found.push(match server.ask_one(&["PUBLISH", channel, ""])? {
            Value::Error(words) => {
                let reason = shown_trimmed(&words);
                refused(format!("may not publish to {channel}: {reason}"))
            }
            _ => Finding::Good(format!("may publish to {channel}")),
        });
    }
    Ok(())
}

/// Sends the commands that the source reads with, to see whether this user may use them.
fn check_stream(
    server: &mut AskedServer<'_>,
    key: &str,
    found: &mut Vec<Finding>,
) -> Result<(), RedisError> {
    let commands = [
        vec!["XREVRANGE", key, "+", "-", "COUNT", "1"],
        // Of the highest id, which no entry has: only the right to use the command matters.
        vec!["XRANGE", key, "+", "+"],
        vec!["XREAD", "COUNT", "1", "STREAMS", key, "$"],
    ];
    let answers = server.ask(&commands)?;
    if let Some(reason) = answers.iter().find_map(refusal) {
        let advice = advice("XREAD", &reason);
        let text = format!("cannot read the stream {key}: {reason}{advice}");
        found.push(Finding::Error(text));
        // The counters matter only once the stream can be read.
        return Ok(());
    }
    let is_empty = matches!(answers.first(), Some(Value::Array(entries)) if entries.is_empty());
    found.push(match is_empty {
        true => Finding::Warning(format!("the stream {key} has no entry")),
        false => Finding::Good(format!("may read the stream {key}")),
    });
    if let Some(reason) = no_counters(server, key)? {
        found.push(Finding::Warning(format!(
            "may not ask for the counters of the stream {key} ({reason}; Redis 7.0, +eval_ro +xinfo|stream +info): \
             what is trimmed after it was read counts as lost"
        )));
    }
    Ok(())
}

/// Why the script does not return the counters of the stream, if it does not, or why nothing shows that they are those of the
/// same stream. A server that is not ready says nothing of that. The script hides an error of `XINFO`, so that command is also
/// sent by itself.
fn no_counters(server: &mut AskedServer<'_>, key: &str) -> Result<Option<String>, RedisError> {
    let commands = [
        vec!["EVAL_RO", STATE, "1", key, "0-0"],
        vec!["XINFO", "STREAM", key],
        vec!["INFO", "commandstats"],
    ];
    let answers = server.ask(&commands)?;
    // The server has ended the connection. The next question reports that.
    let [state, info, executed] = &answers[..] else {
        return Ok(None);
    };
    let refused = match (state, info) {
        (Value::Error(_), _) => refusal(state),
        _ if matches!(executed, Value::Error(_)) => refusal(executed),
        // There is no stream yet, and so no counters.
        (_, Value::Error(words)) if words.starts_with(NO_KEY) => None,
        (_, Value::Error(_)) => refusal(info),
        (Value::Array(items), _) if StateAnswer::read(items).counters.is_some() => None,
        _ => return Ok(Some("the server does not have all of them".to_owned())),
    };
    Ok(refused.filter(|words| is_of_user_or_key(words)))
}

/// The words of a refusal.
fn refusal(answer: &Value) -> Option<String> {
    match answer {
        Value::Error(words) => Some(shown_trimmed(words)),
        _ => None,
    }
}

/// Checks names by subscribing to them; the connection is closed right after.
fn check_subscribing(
    server: &mut AskedServer<'_>,
    needs: &RedisNeeds,
    found: &mut Vec<Finding>,
) -> Result<(), RedisError> {
    let (needed, requests) = (&needs.subscriptions[..], &needs.requests[..]);
    let asked: Vec<_> = names_to_check(needed, requests).collect();
    if asked.is_empty() {
        return Ok(());
    }
    let commands: Vec<_> = asked.iter().map(|(one, _)| command(one)).collect();
    let answers = server
        .connection
        .ask_for(&commands, server.patience, is_confirmation)?;
    let mut reported = Answers::default();
    for ((one, needed_by), answer) in asked.into_iter().zip(&answers) {
        let name = match one.is_pattern {
            true => format!("the pattern {}", one.name),
            false => one.name.to_string(),
        };
        let answer = match answer {
            Value::Error(words) => Err(shown_trimmed(words)),
            _ => Ok(()),
        };
        reported.record(name, needed_by, answer);
    }
    reported.report("Redis", needed.len(), requests.len(), found);
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

/// Whether the value is a confirmation or a refusal, not a message in between.
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
