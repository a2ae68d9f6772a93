//! The keys of tokens and the table of roles: makes the authenticator at the start, and what updates both: SIGHUP, a changed
//! file, a fetch from the URL. Judges no token itself.

use std::fmt::Display;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::gateways::shared::access::AccessStats;
use crate::gateways::shared::metrics;
use crate::keys::{
    KeyFetchStats, KeyFetches, KeyFiles, KeyUrl, KeyWatch, KeysChanged, KeysInForce,
};
use weirgate_bus::runtime::{Clock, LateWake};
use weirgate_core::{BusEvent, Feed, Gateway};
use weirgate_server::run::{Inputs, Parts, Question, Reload, Reloaded, RunError, files};
use weirgate_server::settings::{AuthSettings, SecretText};
use weirgate_server::telemetry::GatewayMetric;
use weirgate_wire::auth::{Acl, AclChanges, ApiKey, Authenticator, KeySet, NameSyntax};
use weirgate_wire::base::Finding;

/// A shorter secret can be guessed faster than a signature (RFC 7518 §3.2).
const SECRET_BYTES_MIN: usize = 32;

/// The most roles that a log line names. Others are only counted.
const ROLES_SHOWN: usize = 10;

/// The updates of the keys of tokens.
pub(in crate::gateways) struct KeyUpdates {
    /// Reads the key files again, and requests a fetch of the URL. `None` if there are neither files nor a URL.
    reload: Option<Box<dyn Reload>>,
    /// The check of the URL for `--check --connect`.
    question: Option<Question>,
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
fn question(url: &KeyUrl) -> Question {
    let (url, asked) = (url.clone(), format!("the key set at {}", url.shown()));
    Question::new(asked.clone(), move || {
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
    let keys = KeyFiles::new(settings).in_force();
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

/// The metrics of tokens and rates.
pub(in crate::gateways) fn access_metrics(stats: &Arc<AccessStats>) -> [GatewayMetric; 2] {
    [
        GatewayMetric::by_label(&metrics::AUTH_REFUSALS, stats, |s| s.refusals().collect()),
        GatewayMetric::number(&metrics::REQUESTS_LIMITED, stats, |s| {
            s.requests_limited.get()
        }),
    ]
}

/// Reads the table of roles from `file`; without a file, returns the built-in table.
pub(in crate::gateways) fn acl(file: Option<&Path>, syntax: NameSyntax) -> Result<Acl, RunError> {
    let Some(path) = file else {
        return Ok(Acl::built_in(syntax));
    };
    acl_of(path, files::read(path), syntax).map_err(RunError::Settings)
}

/// Parses the text of the table of roles; `path` is for errors.
fn acl_of(path: &Path, text: io::Result<Vec<u8>>, syntax: NameSyntax) -> Result<Acl, String> {
    let wrong = |error: &dyn Display| format!("--acl {}: {error}", path.display());
    let text = text.map_err(|error| wrong(&error))?;
    Acl::read(syntax, &text).map_err(|error| wrong(&error))
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

    fn is_due(&mut self) -> bool {
        self.1.check()
    }

    fn reload(&mut self) -> Result<Reloaded, String> {
        let kept = |error| format!("{error}; the keys stay as they were");
        self.in_force().request_fetch();
        let Some(texts) = self.1.read_again().map_err(kept)? else {
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

/// Reads the table of roles again, and sends each new table to the gateway.
pub(in crate::gateways) struct AclFile {
    path: PathBuf,
    default_role: String,
    tokens_required: bool,
    in_force: Acl,
    tables: Sender<Acl>,
    wake: LateWake,
}

impl AclFile {
    /// Returns the file of the table `in_force`, and the input by which the gateway gets new tables.
    pub(in crate::gateways) fn new(
        path: &Path,
        in_force: Acl,
        (default_role, tokens_required): (&str, bool),
    ) -> (Self, Inputs<Acl>) {
        // With room for a single table, the reading thread waits until the loop has taken the one before.
        let (tables, receiver): (_, Receiver<Acl>) = bounded(1);
        let wake = LateWake::default();
        let file = Self {
            path: path.to_owned(),
            default_role: default_role.to_owned(),
            tokens_required,
            in_force,
            tables,
            wake: wake.clone(),
        };
        (file, Inputs { receiver, wake })
    }
}

impl Reload for AclFile {
    fn what(&self) -> &'static str {
        "acl"
    }

    fn reload(&mut self) -> Result<Reloaded, String> {
        let text = files::read_again(&self.path);
        let acl = acl_of(&self.path, text, self.in_force.syntax());
        let acl = acl.map_err(|error| format!("{error}; the table stays as it was"))?;
        let changes = self.in_force.changes_to(&acl);
        if changes.is_empty() {
            return Ok(Reloaded::Unchanged);
        }
        self.in_force = acl.clone();
        // Fails only after the end of the loop.
        let _ = self.tables.send(acl);
        self.wake.wake();
        self.log_changes(&changes);
        Ok(Reloaded::Changed)
    }
}

impl AclFile {
    fn log_changes(&self, changes: &AclChanges) {
        tracing::info!(
            roles = self.in_force.roles(),
            added = shown(&changes.added),
            removed = shown(&changes.removed),
            changed = shown(&changes.changed),
            "the table of roles has changed"
        );
        warn_of_default_role(&self.in_force, &self.default_role);
        warn_of_places(&self.in_force, self.tokens_required);
    }
}

/// Warns that clients without a role can subscribe to nothing.
fn warn_of_default_role(acl: &Acl, role: &str) {
    if !acl.knows(role) {
        tracing::warn!(role, "DEFAULT_ROLE is not in the table and grants nothing");
    }
}

/// Warns that nobody gets names with places for claims, because tokens are ignored.
fn warn_of_places(acl: &Acl, tokens_required: bool) {
    if !tokens_required && acl.has_places() {
        tracing::warn!(
            "the table of roles has names with {{sub}} or {{claim:NAME}} and REQUIRE_AUTH is off: tokens are ignored, and nobody has these names"
        );
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

/// Checks the table and the default role before a start. If tokens are not required, every client has this role.
pub(in crate::gateways) fn check_table(acl: &Acl, role: &str, tokens_required: bool) {
    warn_of_places(acl, tokens_required);
    if tokens_required || acl.knows(role) {
        return warn_of_default_role(acl, role);
    }
    tracing::error!(
        role,
        "DEFAULT_ROLE is not in the table and every client has it: nobody can subscribe"
    );
}

fn shown(roles: &[String]) -> String {
    let named: Vec<&str> = roles.iter().take(ROLES_SHOWN).map(String::as_str).collect();
    match roles.len().saturating_sub(ROLES_SHOWN) {
        0 => named.join(","),
        more => format!("{} and {more} more", named.join(",")),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

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

    #[test]
    fn a_new_table_goes_to_the_gateway_and_a_broken_one_does_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("acl.json");
        let old = Acl::from_json(br#"{"user": ["a"]}"#).expect("a table");
        fs::write(&path, old.to_json()).expect("written");
        let (mut file, inputs) = AclFile::new(&path, old, ("user", true));
        assert_eq!(file.reload(), Ok(Reloaded::Unchanged));
        for broken in ["", "{", r#"{"user": "a"}"#] {
            fs::write(&path, broken).expect("written");
            let error = file.reload().expect_err(broken);
            assert!(error.ends_with("; the table stays as it was"), "{error}");
        }
        assert!(inputs.receiver.is_empty());
        fs::write(&path, r#"{"user": ["b"]}"#).expect("written");
        assert_eq!(file.reload(), Ok(Reloaded::Changed));
        let taken = inputs.receiver.try_recv().expect("a table");
        assert_eq!(taken.to_json(), file.in_force.to_json());
        fs::remove_file(&path).expect("removed");
        let error = file.reload().expect_err("no file");
        assert!(error.contains("No such file"), "{error}");
    }

    #[test]
    fn a_line_names_few_roles() {
        let roles: Vec<String> = (0..12).map(|n| n.to_string()).collect();
        assert_eq!(shown(&roles), "0,1,2,3,4,5,6,7,8,9 and 2 more");
        assert_eq!(shown(&roles[..2]), "0,1");
        assert_eq!(shown(&[]), "");
    }
}
