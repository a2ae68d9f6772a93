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
use weirgate_server::settings::{AuthSettings, SecretText};
use weirgate_server::telemetry::GatewayMetric;
use weirgate_wire::base::Finding;

/// A shorter secret can be guessed faster than a signature (RFC 7518 §3.2).
const SECRET_BYTES_MIN: usize = 32;

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
pub(in crate::gateways) fn warn_of(settings: &AuthSettings, authenticator: &Authenticator) {
    if authenticator.admits_nobody() {
        tracing::error!("REQUIRE_AUTH is on and there is no key: nobody can connect");
    }
    warn_of_short("JWT_SECRET", settings.jwt_secret.as_ref());
    warn_of_short("JWT_SECRET_BEFORE", settings.jwt_secret_before.as_ref());
    warn_of_short("GATEWAY_API_KEY", settings.api_key.as_ref());
}

/// Warns of a secret that can be guessed. With each connection an attacker can try one value.
pub(in crate::gateways) fn warn_of_short(name: &str, secret: Option<&SecretText>) {
    if is_short(secret) {
        tracing::warn!("{name} has less than {SECRET_BYTES_MIN} bytes and can be guessed");
    }
}

fn is_short(secret: Option<&SecretText>) -> bool {
    secret.is_some_and(|secret| secret.expose().len() < SECRET_BYTES_MIN)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_short_secret_is_warned_of_by_its_name() {
        let lines = tempfile::NamedTempFile::new().expect("a file");
        let writer = Arc::new(lines.reopen().expect("the file"));
        let subscriber = tracing_subscriber::fmt().with_writer(writer).finish();
        let short = SecretText::new("0123456789abcdef0123456789abcde");
        let long = SecretText::new("0123456789abcdef0123456789abcdef");
        let mut settings = AuthSettings {
            api_key: Some(short.clone()),
            jwt_secret: Some(short.clone()),
            jwt_secret_before: Some(short.clone()),
            ..AuthSettings::default()
        };
        tracing::subscriber::with_default(subscriber, || {
            warn_of(&settings, &Authenticator::default());
            settings.api_key = Some(long.clone());
            settings.jwt_secret = None;
            settings.jwt_secret_before = None;
            warn_of(&settings, &Authenticator::default());
            warn_of_short("INTERNAL_AUTH_TOKEN", Some(&short));
            warn_of_short("INTERNAL_AUTH_TOKEN", Some(&long));
        });
        let log = std::fs::read_to_string(lines.path()).expect("text");
        for name in [
            "JWT_SECRET",
            "JWT_SECRET_BEFORE",
            "GATEWAY_API_KEY",
            "INTERNAL_AUTH_TOKEN",
        ] {
            let line = format!("{name} has less than 32 bytes and can be guessed");
            assert_eq!(log.matches(&line).count(), 1, "{log}");
        }
        assert!(!log.contains("0123456789"), "{log}");
    }
}
