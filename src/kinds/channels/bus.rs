//! The bus of the channels gateway: Redis or NATS, as the settings say.

use std::sync::Arc;
use std::time::Duration;

use super::rows::syntax;
use crate::auth::{Acl, NameSyntax};
use crate::run::{Question, RunError};
use crate::settings::{Checked, NatsAccess, RedisAccess};
use crate::sources::{BusInterest, Source};
use crate::telemetry::BusStatus;

/// The bus, by its kind and address.
pub(super) struct ChannelsBus {
    place: Place,
    payload_bytes_max: usize,
    retained_subjects_max: usize,
    settle: Duration,
    settles_always: bool,
}

enum Place {
    Redis(RedisAccess),
    Nats(NatsAccess),
}

/// A source that does not run yet, with the interest of the clients.
pub(super) struct OpenBus {
    pub(super) source: Box<dyn Source>,
    pub(super) interest: BusInterest,
    /// The address of the bus, without secrets.
    pub(super) shown: String,
    /// The check of the bus for `--check --connect`.
    pub(super) question: Question,
}

impl ChannelsBus {
    pub(super) fn of(checked: &Checked) -> Self {
        let urls = checked.url("bus");
        // Both are read for either bus: a setting that nobody reads is an error.
        let mut redis = checked.redis();
        let nats = checked.nats_at(urls.clone());
        redis.url = Some(urls)
            .filter(|urls| !urls.expose().is_empty())
            .or(redis.url);
        let place = match syntax(checked) {
            NameSyntax::Nats => Place::Nats(nats),
            NameSyntax::Redis => Place::Redis(redis),
        };
        Self {
            place,
            payload_bytes_max: checked.number("bus-message-bytes-max"),
            retained_subjects_max: checked.number("retained-subjects-max"),
            settle: Duration::from_millis(checked.number("bus-settle-ms")),
            settles_always: checked.is_set("bus-settle-ms"),
        }
    }

    /// The longest delay of a confirmation by this bus after the confirmation by its server.
    pub(super) fn settle(&self) -> Duration {
        match self.place {
            Place::Redis(_) => Duration::ZERO,
            Place::Nats(_) => self.settle,
        }
    }

    /// `redis` or `nats`.
    pub(super) fn name(&self) -> &'static str {
        match self.place {
            Place::Redis(_) => "redis",
            Place::Nats(_) => "nats",
        }
    }

    /// Makes the source.
    ///
    /// # Errors
    /// The settings are not valid, or no file descriptor is left.
    pub(super) fn open(&self, status: &Arc<BusStatus>, acl: &Acl) -> Result<OpenBus, RunError> {
        match &self.place {
            Place::Redis(settings) => self.redis(settings.clone(), Arc::clone(status), acl),
            Place::Nats(access) => self.nats(access, Arc::clone(status), acl),
        }
    }

    fn redis(
        &self,
        settings: RedisAccess,
        status: Arc<BusStatus>,
        acl: &Acl,
    ) -> Result<OpenBus, RunError> {
        use crate::kinds::bus::{
            redis_error, redis_needs, redis_question, redis_settings_of, shown_redis,
        };
        use crate::sources::redis::RedisSource;

        let settings = redis_settings_of(settings, self.payload_bytes_max)?;
        let shown = format!("Redis:     {}", shown_redis(&settings));
        let question = redis_question(&settings, redis_needs(acl));
        let (source, interest) = RedisSource::new(settings, status).map_err(redis_error)?;
        Ok(OpenBus {
            source: Box::new(source),
            interest,
            shown,
            question,
        })
    }

    fn nats(
        &self,
        access: &NatsAccess,
        status: Arc<BusStatus>,
        acl: &Acl,
    ) -> Result<OpenBus, RunError> {
        use crate::kinds::bus::nats_settings;
        use crate::sources::nats::{
            self, NatsNeeds, NatsSubjectsSettings, NatsSubjectsSource, Settle,
        };

        let settings = NatsSubjectsSettings {
            nats: nats_settings(access),
            payload_bytes_max: self.payload_bytes_max,
            retained_subjects_max: self.retained_subjects_max,
            settle: Settle {
                time: self.settle,
                always: self.settles_always,
            },
        };
        let checked_files = settings.nats.check_files("nats");
        checked_files.map_err(RunError::Settings)?;
        let needs = NatsNeeds {
            wishes: acl.all_names().into_iter().map(str::to_owned).collect(),
            ..NatsNeeds::default()
        };
        let for_question = settings.nats.clone();
        let question = Question::new(format!("NATS at {}", access.url), move || {
            nats::ask_plain(&for_question, &needs)
        });
        let (source, interest) = NatsSubjectsSource::new(settings, status)
            .map_err(|error| RunError::Settings(error.to_string()))?;
        Ok(OpenBus {
            source: Box::new(source),
            interest,
            shown: format!("NATS:      {}", access.url),
            question,
        })
    }
}
