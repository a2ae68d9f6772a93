//! Authentication of clients: keys from files and from a URL, and the table of roles.

use std::fmt::Display;
use std::io;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use super::reload::Keys;
use crate::auth::{Acl, ApiKey, Authenticator, KeySet, NameSyntax};
use crate::base::{Clock, Finding};
use crate::files;
use crate::files::{KeyFetchStats, KeyFetches, KeyFiles, KeyUrl};
use crate::gateways::AccessStats;
use crate::run::{Question, Reload, RunError};
use crate::settings::{AuthSettings, SecretText};
use crate::telemetry::{GatewayMetric, names};

/// A shorter secret can be guessed faster than a signature (RFC 7518 §3.2).
const SECRET_BYTES_MIN: usize = 32;

/// The updates of the keys of tokens.
pub(super) struct KeyUpdates {
    /// The keys in files; `None` if no file and no URL can change the keys.
    pub(super) reload: Option<Box<dyn Reload>>,
    /// The check of the URL for `--check --connect`.
    pub(super) question: Option<Question>,
    /// A flag that is true until a client can be admitted; `None` if keys are not fetched, or not needed.
    pub(super) awaits: Option<Arc<AtomicBool>>,
    fetches: Option<KeyFetches>,
}

impl KeyUpdates {
    /// The metrics of the fetches, if there is a URL.
    pub(super) fn metrics(&self) -> Vec<GatewayMetric> {
        let Some(stats) = self.fetches.as_ref().map(KeyFetches::stats) else {
            return Vec::new();
        };
        vec![
            GatewayMetric::by_label(&names::KEY_FETCHES, &stats, KeyFetchStats::outcomes),
            GatewayMetric::number(&names::KEY_SET_AGE, &stats, KeyFetchStats::age_s),
        ]
    }

    /// Returns the function that starts the thread of the fetches.
    pub(super) fn threads(&mut self) -> impl FnOnce() -> Result<(), RunError> + 'static {
        let fetches = self.fetches.take();
        move || fetches.map_or(Ok(()), |fetches| fetches.start().map_err(RunError::Thread))
    }
}

/// The check of the URL of keys.
fn question(url: &KeyUrl) -> Question {
    let (url, asked) = (url.clone(), format!("the key set at {}", url.shown()));
    Question::new(asked.clone(), move || {
        let mut keys = KeySet::default();
        let found = url.fetch().map_err(|error| error.to_string());
        let read = |text: Vec<u8>| keys.add_foreign_jwks(&text).map_err(|e| e.to_string());
        vec![match found.and_then(read) {
            Ok(()) => Finding::Good(format!("{asked} has {} keys for tokens", keys.len())),
            Err(error) => Finding::Error(format!("{asked}: {error}")),
        }]
    })
}

/// Returns the authenticator of tokens, and the updates of its keys.
pub(super) fn authenticator(
    settings: &AuthSettings,
    clock: Clock,
) -> Result<(Authenticator, KeyUpdates), RunError> {
    let keys = KeyFiles::new(settings).in_force();
    let keys = keys.map_err(|error| RunError::Settings(error.to_string()))?;
    let api_key = settings.api_key.as_ref();
    let authenticator = Authenticator {
        required: settings.required,
        api_key: api_key.and_then(|key| ApiKey::new(key.expose())),
        keys: keys.ring(),
        rules: settings.rules.clone(),
    };
    let (may_change, question) = (keys.may_change(), keys.url().map(question));
    let keys = Arc::new(Mutex::new(keys));
    let fetches = KeyFetches::new(&keys, clock);
    let needs_keys = authenticator.required && authenticator.api_key.is_none();
    let awaits = fetches.as_ref().filter(|_| needs_keys);
    let updates = KeyUpdates {
        awaits: awaits.map(KeyFetches::awaits_keys),
        reload: may_change.then(|| Box::new(Keys(keys)) as Box<dyn Reload>),
        question,
        fetches,
    };
    Ok((authenticator, updates))
}

/// Logs settings that are allowed and probably a mistake.
pub(super) fn warn_of(settings: &AuthSettings, authenticator: &Authenticator) {
    if authenticator.admits_nobody() {
        tracing::error!("REQUIRE_AUTH is on and there is no key: nobody can connect");
    }
    warn_of_short("JWT_SECRET", settings.jwt_secret.as_ref());
    warn_of_short("GATEWAY_API_KEY", settings.api_key.as_ref());
}

/// Logs that a secret can be guessed: an attacker has a guess with each connection.
pub(super) fn warn_of_short(name: &str, secret: Option<&SecretText>) {
    if is_short(secret) {
        tracing::warn!("{name} has less than {SECRET_BYTES_MIN} bytes and can be guessed");
    }
}

fn is_short(secret: Option<&SecretText>) -> bool {
    secret.is_some_and(|secret| secret.expose().len() < SECRET_BYTES_MIN)
}

/// The metrics of tokens and rates.
pub(super) fn access_metrics(stats: &Arc<AccessStats>) -> [GatewayMetric; 2] {
    [
        GatewayMetric::by_label(&names::AUTH_REFUSALS, stats, |s| s.refusals().collect()),
        GatewayMetric::number(&names::REQUESTS_LIMITED, stats, |s| {
            s.requests_limited.get()
        }),
    ]
}

/// The table of roles from `file`, or the built-in table.
pub(super) fn acl(file: Option<&Path>, syntax: NameSyntax) -> Result<Acl, RunError> {
    let Some(path) = file else {
        return Ok(Acl::built_in(syntax));
    };
    acl_of(path, files::read(path), syntax).map_err(RunError::Settings)
}

/// Reads the table of roles from the text of the file at `path`.
pub(super) fn acl_of(
    path: &Path,
    text: io::Result<Vec<u8>>,
    syntax: NameSyntax,
) -> Result<Acl, String> {
    let wrong = |error: &dyn Display| format!("--acl {}: {error}", path.display());
    let text = text.map_err(|error| wrong(&error))?;
    Acl::read(syntax, &text).map_err(|error| wrong(&error))
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
            required: false,
            api_key: Some(short.clone()),
            jwt_secret: Some(short.clone()),
            public_key_files: Vec::new(),
            jwks_file: None,
            jwks_url: None,
            jwks_ca_file: None,
            rules: crate::auth::ClaimRules::default(),
        };
        tracing::subscriber::with_default(subscriber, || {
            warn_of(&settings, &Authenticator::default());
            settings.api_key = Some(long.clone());
            settings.jwt_secret = None;
            warn_of(&settings, &Authenticator::default());
            warn_of_short("INTERNAL_AUTH_TOKEN", Some(&short));
            warn_of_short("INTERNAL_AUTH_TOKEN", Some(&long));
        });
        let log = std::fs::read_to_string(lines.path()).expect("text");
        for name in ["JWT_SECRET", "GATEWAY_API_KEY", "INTERNAL_AUTH_TOKEN"] {
            let line = format!("{name} has less than 32 bytes and can be guessed");
            assert_eq!(log.matches(&line).count(), 1, "{log}");
        }
        assert!(!log.contains("0123456789"), "{log}");
    }
}
