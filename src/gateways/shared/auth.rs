//! The keys of tokens: makes the authenticator at the start, and what updates its keys: SIGHUP, a changed file, a fetch from
//! the URL. Judges no token itself.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::auth::{ApiKey, Authenticator, KeySet};
use crate::gateways::shared::metrics;
use crate::keys::{
    KeyFetchStats, KeyFetches, KeyFiles, KeyUrl, KeyWatch, KeysChanged, KeysInForce,
};
use weirgate_core::{BusEvent, Feed, Gateway};
use weirgate_runtime::Clock;
use weirgate_server::run::{Parts, Reload, Reloaded, RunError, StartQuestion};
use weirgate_server::settings::AuthSettings;
use weirgate_server::telemetry::GatewayMetric;
use weirgate_wire::base::Finding;

/// The updates of the keys of tokens.
pub(in crate::gateways) struct KeyUpdates {
    /// Reads the key files again, and requests a fetch of the URL. `None` if there are neither files nor a URL.
    reload: Option<Box<dyn Reload>>,
    /// The check of the URL for `--check --connect`.
    question: Option<StartQuestion>,
    /// True until the first key is there. `None` if no keys are fetched, if tokens are optional, or if there is a
    /// shared key.
    awaits: Option<Arc<AtomicBool>>,
    fetches: Option<KeyFetches>,
}

impl KeyUpdates {
    /// The metrics of the fetches; none without a URL.
    fn metrics(&self) -> Vec<GatewayMetric> {
        let Some(stats) = self.fetches.as_ref().map(KeyFetches::stats) else {
            return Vec::new();
        };
        vec![
            GatewayMetric::by_label(&metrics::KEY_FETCHES, &stats, KeyFetchStats::outcomes),
            GatewayMetric::number(&metrics::KEY_SET_AGE, &stats, KeyFetchStats::age_s),
        ]
    }

    /// Adds the updates to the parts of a gateway.
    pub(in crate::gateways) fn add_to<G: Gateway, F: Feed<Event = BusEvent>>(
        self,
        parts: Parts<G, F>,
    ) -> Parts<G, F> {
        let metrics = self.metrics();
        let fetches = self.fetches;
        let start =
            move || fetches.map_or(Ok(()), |fetches| fetches.start().map_err(RunError::Thread));
        parts
            .asks(self.question)
            .awaits_keys(self.awaits)
            .threads(start)
            .metrics(metrics)
            .reloads(self.reload)
    }
}

/// The check of the URL of keys.
fn question(url: &KeyUrl) -> StartQuestion {
    let (url, asked) = (url.clone(), format!("the key set at {}", url.shown()));
    // The time limit of the check is not needed: a fetch blocks for five seconds at most.
    StartQuestion::new(asked.clone(), move |_| {
        let mut keys = KeySet::default();
        let found = url.fetch().map_err(|error| error.to_string());
        let read = |text: Vec<u8>| keys.add_foreign_jwks(&text).map_err(|e| e.to_string());
        vec![match found.and_then(read) {
            Ok(()) => {
                let plural = if keys.len() == 1 { "" } else { "s" };
                Finding::Good(format!(
                    "{asked} contains {} usable key{plural}",
                    keys.len()
                ))
            }
            Err(error) => Finding::Error(format!("{asked}: {error}")),
        }]
    })
}

/// Makes the authenticator of tokens, and what updates its keys.
pub(in crate::gateways) fn authenticator(
    settings: &AuthSettings,
    clock: Clock,
) -> Result<(Authenticator, KeyUpdates), RunError> {
    let keys = KeyFiles::new(settings).load();
    let (keys, watch) = keys.map_err(|error| RunError::Settings(error.to_string()))?;
    let api_key = settings.api_key.as_ref();
    let authenticator = Authenticator {
        required: settings.required,
        api_key: api_key.and_then(|key| ApiKey::new(key.secret())),
        keys: keys.ring(),
        rules: settings.rules.clone(),
        cookie: Some(settings.token_cookie.clone()).filter(|name| !name.is_empty()),
    };
    let (may_change, question) = (keys.may_change(), keys.url().map(question));
    let keys = Arc::new(Mutex::new(keys));
    let fetches = KeyFetches::new(&keys, clock);
    let needs_keys = authenticator.required && authenticator.api_key.is_none();
    let awaits = fetches.as_ref().filter(|_| needs_keys);
    let updates = KeyUpdates {
        awaits: awaits.map(KeyFetches::awaits_keys),
        reload: may_change.then(|| Box::new(Keys(keys, watch)) as Box<dyn Reload>),
        question,
        fetches,
    };
    Ok((authenticator, updates))
}

/// Logs settings that are allowed and probably a mistake.
pub(in crate::gateways) fn warn_of(authenticator: &Authenticator) {
    if authenticator.admits_nobody() {
        tracing::error!("REQUIRE_AUTH is on and there is no key: nobody can connect");
    }
}

/// Warns that keys have no effect, because tokens are ignored.
pub(in crate::gateways) fn warn_of_ignored_tokens(authenticator: &Authenticator, role: &str) {
    if !authenticator.required && authenticator.has_keys() {
        tracing::warn!(
            role,
            "there are keys for tokens and REQUIRE_AUTH is off: tokens are ignored, and every client has DEFAULT_ROLE"
        );
    }
}

/// The keys of tokens, which the fetches from a URL change too, and the files of keys.
struct Keys(Arc<Mutex<KeysInForce>>, KeyWatch);

impl Keys {
    fn in_force(&self) -> MutexGuard<'_, KeysInForce> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reload for Keys {
    fn what(&self) -> &'static str {
        "keys"
    }

    fn poll_change(&mut self) -> bool {
        self.1.poll_change()
    }

    fn reload(&mut self) -> Result<Reloaded, String> {
        let kept = |error| format!("{error}; the keys stay as they were");
        self.in_force().request_fetch();
        let Some(texts) = self.1.read_again().map_err(kept)? else {
            // A file changed during the read; the next look for changes finds it.
            return Ok(Reloaded::Unchanged);
        };
        let Some(changed) = self.in_force().take_files(texts).map_err(kept)? else {
            return Ok(Reloaded::Unchanged);
        };
        let KeysChanged {
            keys,
            before,
            files,
        } = changed;
        tracing::info!(keys, before, ?files, "the keys of tokens have changed");
        Ok(Reloaded::Changed)
    }
}
