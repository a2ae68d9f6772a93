//! The bus of the channels gateway: Redis or NATS, as the settings say.

use std::sync::Arc;
use std::time::Duration;

use super::rows::{history_names, syntax};
use crate::auth::{Acl, NameError, NameSyntax};
use crate::feeds::Subscription;
use crate::kinds::bus::{
    self, Bus, BusRows, nats_question, redis_needs, redis_question, redis_stream, stream_settings,
};
use crate::run::{Question, RunError};
use crate::settings::Checked;
use crate::sources::nats::{
    NatsNeeds, NatsSettings, NatsStreamSource, NatsSubjectsSettings, NatsSubjectsSource, Settle,
};
use crate::sources::redis::{RedisSettings, RedisSource};
use crate::sources::{BusInterest, KeptFeed, Source, StreamSettings};
use crate::telemetry::BusStatus;

/// The bus, by its kind and address.
pub(super) struct ChannelsBus {
    bus: Bus,
    rows: BusRows,
    payload_bytes_max: usize,
    retained_subjects_max: usize,
    settle: Settle,
    syntax: NameSyntax,
    history_names: Vec<String>,
    history_channel: String,
    stream: Option<StreamSettings>,
}

/// A source that does not run yet.
pub(super) struct OpenBus {
    pub(super) source: Box<dyn Source>,
    /// The interest of the clients; `None` for a stream, which is read whole.
    pub(super) interest: Option<BusInterest>,
    /// The check of the bus for `--check --connect`.
    pub(super) question: Question,
}

impl ChannelsBus {
    /// Reads the settings.
    ///
    /// # Errors
    /// An address is not valid, or a file cannot be used.
    pub(super) fn of(checked: &Checked) -> Result<Self, RunError> {
        let is_named = !checked.url("bus").expose().is_empty();
        let is_nats = syntax(checked) == NameSyntax::Nats;
        let (rows, unused) = match is_nats {
            true => (bus::NATS, "redis-"),
            false => (bus::REDIS, "nats-"),
        };
        checked.leave_unused(unused);
        let rows = match is_named {
            true => BusRows { url: "bus", ..rows },
            false => rows,
        };
        checked.leave_unused("redis-url");
        checked.leave_unused("history-channel");
        let payload_bytes_max = checked.number("bus-message-bytes-max");
        let bus = match is_nats {
            true => Bus::Nats(rows.nats(checked)?),
            false => Bus::Redis(RedisSettings {
                payload_bytes_max,
                ..rows.redis(checked)?
            }),
        };
        Ok(Self {
            bus,
            rows,
            payload_bytes_max,
            retained_subjects_max: checked.number("retained-subjects-max"),
            settle: Settle {
                time: Duration::from_millis(checked.number("bus-settle-ms")),
                always: checked.is_set("bus-settle-ms"),
            },
            syntax: syntax(checked),
            history_names: history_names(checked),
            history_channel: checked.text("history-channel"),
            stream: stream_settings(checked),
        })
    }

    /// The longest delay of a confirmation by this bus after the confirmation by its server.
    pub(super) fn settle(&self) -> Duration {
        match self.bus {
            Bus::Redis(_) => Duration::ZERO,
            Bus::Nats(_) => self.settle.time,
        }
    }

    /// `redis` or `nats`.
    pub(super) fn name(&self) -> &'static str {
        self.bus.name()
    }

    /// The kind of the bus for people, and its address without secrets.
    pub(super) fn shown(&self) -> (&'static str, String) {
        let kind = match self.bus {
            Bus::Redis(_) => "Redis",
            Bus::Nats(_) => "NATS",
        };
        (kind, self.bus.address())
    }

    /// Makes the source.
    ///
    /// # Errors
    /// The settings are not valid, or no file descriptor is left.
    pub(super) fn open(&self, status: Arc<BusStatus>, acl: &Acl) -> Result<OpenBus, RunError> {
        match (&self.bus, self.stream.clone()) {
            (Bus::Redis(settings), None) => self.redis(settings.clone(), status, acl),
            (Bus::Nats(settings), None) => self.nats(settings.clone(), status, acl),
            (Bus::Redis(settings), Some(stream)) => {
                self.redis_stream(settings.clone(), stream, status)
            }
            (Bus::Nats(settings), Some(stream)) => {
                self.nats_stream(settings.clone(), stream, status)
            }
        }
    }

    fn redis_stream(
        &self,
        settings: RedisSettings,
        stream: StreamSettings,
        status: Arc<BusStatus>,
    ) -> Result<OpenBus, RunError> {
        let opened = redis_stream(settings, stream, status);
        let (source, question) = opened.map_err(|error| self.rows.redis_error(error))?;
        Ok(OpenBus {
            source,
            interest: None,
            question,
        })
    }

    fn nats_stream(
        &self,
        settings: NatsSettings,
        stream: StreamSettings,
        status: Arc<BusStatus>,
    ) -> Result<OpenBus, RunError> {
        let needs = NatsNeeds {
            stream: Some(stream.name.clone()),
            ..NatsNeeds::default()
        };
        let question = nats_question(&settings, needs);
        let source = NatsStreamSource::new(settings, self.payload_bytes_max, stream, status);
        Ok(OpenBus {
            source: Box::new(source.map_err(|error| RunError::Settings(error.to_string()))?),
            interest: None,
            question,
        })
    }

    fn redis(
        &self,
        settings: RedisSettings,
        status: Arc<BusStatus>,
        acl: &Acl,
    ) -> Result<OpenBus, RunError> {
        let mut needs = redis_needs(acl);
        if !self.history_names.is_empty() {
            let marks = Subscription::channel(self.history_channel.as_str());
            needs.requests.extend(self.kept_names().chain([marks]));
            needs.marks = Some(self.history_channel.clone());
        }
        let question = redis_question(&settings, needs);
        let opened = RedisSource::new(settings, status);
        let (mut source, interest) = opened.map_err(|error| self.rows.redis_error(error))?;
        if let Some(feed) = self.kept_feed(&interest)? {
            let kept = source.with_kept(feed, &self.history_channel);
            source = kept.map_err(|error| self.rows.redis_error(error))?;
        }
        Ok(OpenBus {
            source: Box::new(source),
            interest: Some(interest),
            question,
        })
    }

    fn nats(
        &self,
        nats: NatsSettings,
        status: Arc<BusStatus>,
        acl: &Acl,
    ) -> Result<OpenBus, RunError> {
        let needs = NatsNeeds {
            requests: acl.all_names().into_iter().map(str::to_owned).collect(),
            ..NatsNeeds::default()
        };
        let question = nats_question(&nats, needs);
        let settings = NatsSubjectsSettings {
            nats,
            payload_bytes_max: self.payload_bytes_max,
            retained_subjects_max: self.retained_subjects_max,
            settle: self.settle,
        };
        let (mut source, interest) = NatsSubjectsSource::new(settings, status)
            .map_err(|error| RunError::Settings(error.to_string()))?;
        if let Some(feed) = self.kept_feed(&interest)? {
            source = source.with_kept(feed);
        }
        Ok(OpenBus {
            source: Box::new(source),
            interest: Some(interest),
            question,
        })
    }

    fn kept_names(&self) -> impl Iterator<Item = Subscription> {
        let names = self.history_names.iter();
        names.map(|name| match self.syntax.is_pattern(name) {
            true => Subscription::pattern(name.as_str()),
            false => Subscription::channel(name.as_str()),
        })
    }

    /// The kept feed, whose names are subscribed from the start; `None` without a history.
    fn kept_feed(&self, interest: &BusInterest) -> Result<Option<KeptFeed>, RunError> {
        if self.history_names.is_empty() {
            return Ok(None);
        }
        let subscriptions: Vec<Subscription> = self.kept_names().collect();
        for subscription in &subscriptions {
            interest.subscribe(subscription.clone());
        }
        let feed = KeptFeed::new(self.syntax, subscriptions);
        feed.map(Some).map_err(wrong_history_name)
    }
}

/// The error of a name in `--history-names`.
pub(super) fn wrong_history_name((name, error): (String, NameError)) -> RunError {
    RunError::Settings(format!("--history-names {name}: {error}"))
}
