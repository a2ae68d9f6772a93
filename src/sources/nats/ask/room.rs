//! What the limits of the account and of its streams leave for a start. Reads only.

use std::collections::HashMap;

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::super::api::{self, Api, ApiError};
use super::super::settings::StreamSpec;

/// The room that is left, less what the subjects asked about before take.
pub(super) struct Room<'a> {
    api: &'a Api,
    /// `None` if the user may not ask; a start does not need it.
    account: Option<Account>,
    /// Streams that a start makes.
    streams: u64,
    /// Consumers that a start makes, by stream.
    consumers: HashMap<String, u64>,
}

/// The state of an account; an account with limits for each number of replicas has no others.
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
pub(super) struct Stream {
    pub(super) config: Config,
    state: State,
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct Config {
    pub(super) subjects: Vec<String>,
    pub(super) retention: String,
    max_consumers: i64,
    mirror: Option<IgnoredAny>,
    sources: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct State {
    #[serde(default)]
    consumer_count: u64,
}

impl Config {
    /// Whether the messages come from other streams, with any subjects.
    pub(super) fn is_copy(&self) -> bool {
        self.mirror.is_some() || self.sources.is_some()
    }
}

/// A limit; 0 and less is none.
fn limit(number: i64) -> Option<u64> {
    u64::try_from(number).ok().filter(|number| *number > 0)
}

impl<'a> Room<'a> {
    /// Asks about the account.
    ///
    /// # Errors
    /// The connection is lost.
    pub(super) fn ask(api: &'a Api) -> Result<Self, ApiError> {
        let account = match api.ask("INFO", b"") {
            Ok(answer) => api::read(&answer)?.parse().ok(),
            Err(error @ (ApiError::Lost | ApiError::Connection(_))) => return Err(error),
            // A start does not ask.
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

    /// Looks at a stream.
    pub(super) fn stream(&self, name: &str) -> Result<Stream, ApiError> {
        let answer = self.api.ask(&format!("STREAM.INFO.{name}"), b"")?;
        Ok(api::read(&answer)?.parse()?)
    }

    /// Why a start cannot make a missing stream, as far as limits tell.
    pub(super) fn lack_of_stream(&mut self, spec: &StreamSpec) -> Result<Option<String>, ApiError> {
        for subject in &spec.subjects {
            match self.api.stream_holding(subject) {
                Ok(Some(other)) => {
                    return Ok(Some(format!(
                        "the stream {other} holds {subject}, or a part"
                    )));
                }
                Ok(None) => {}
                // A start needs no such right.
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
    pub(super) fn lack_of_consumer(&mut self, name: &str, stream: &Stream) -> Option<String> {
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
