//! The values of a gateway's settings: each allowed, and all consistent.

use std::cell::Cell;
use std::path::PathBuf;

use super::error::{SettingsError, Warning};
use super::kind::{Refused, Value};
use super::secret::{SecretText, SecretUrl};
use super::setting::Setting;
use super::table::Rows;
use super::typed::{Env, Source, Typed, collect};
use crate::admission::TrustedProxies;

/// Pairs of settings: the first value must not be larger than the second.
const ORDERS: &[(&str, &str)] = &[
    ("send-queue-soft-bytes", "send-queue-hard-bytes"),
    ("send-queue-hard-bytes", "frame-bytes-max"),
    ("bus-message-bytes-max", "frame-bytes-max"),
    ("message-bytes-max", "unfinished-bytes-max"),
    ("send-queue-conflate-after-ms", "send-queue-stall-ms"),
];

/// The ways to authenticate to NATS: at most one of each list may be set.
const NATS_USERS: &[&[&str]] = &[
    &["nats-user", "nats-token", "nats-creds", "nats-nkey"],
    &["events-bus-creds", "events-bus-nkey"],
];

/// Pairs of settings: each is an error without the other.
const PAIRS: &[(&str, &str)] = &[
    ("tls-port", "tls-cert"),
    ("tls-cert", "tls-key"),
    ("nats-user", "nats-password"),
    ("nats-cert", "nats-key"),
    ("redis-sentinels", "redis-sentinel-master"),
    ("events-bus-cert", "events-bus-key"),
    ("events-bus-sentinels", "events-bus-sentinel-master"),
];

/// A gateway's check of several values together; returns the inconsistencies.
pub type Check = fn(&Checked) -> Vec<SettingsError>;

/// The values of one gateway, or of another command: each allowed, and all consistent.
#[derive(Debug)]
pub struct Checked {
    values: Vec<CheckedValue>,
    warnings: Vec<Warning>,
}

/// A value with the source.
#[derive(Debug)]
pub struct CheckedValue {
    /// The row of the table.
    pub setting: Setting,
    /// The value; shown without secrets.
    pub value: Value,
    /// The flag, the env name or the default that gave the value.
    pub source: Source,
    /// Whether the program has read the value.
    is_read: Cell<bool>,
}

impl CheckedValue {
    /// The flag with the source of the value: `--port (env GATEWAY_PORT)`.
    fn named(&self) -> String {
        self.setting.named(&self.source)
    }
}

impl Checked {
    /// Reads all texts. `warnings` are kept for the log; `check` is the check of the gateway.
    ///
    /// # Errors
    /// All values that are not allowed, or else all inconsistencies.
    pub fn new(
        typed: Vec<Typed>,
        warnings: Vec<Warning>,
        check: Check,
    ) -> Result<Self, Vec<SettingsError>> {
        let mut values = Vec::new();
        let mut errors = Vec::new();
        for typed in typed {
            match typed.read() {
                Ok(value) => values.push(CheckedValue {
                    setting: typed.setting,
                    value,
                    source: typed.source,
                    is_read: Cell::new(false),
                }),
                Err(error) => errors.push(error),
            }
        }
        let mut checked = Self { values, warnings };
        if errors.is_empty() {
            errors.extend(ORDERS.iter().filter_map(|&pair| checked.order(pair)));
            errors.extend(NATS_USERS.iter().filter_map(|ways| checked.several(ways)));
            let both_ways = PAIRS.iter().flat_map(|&(a, b)| [(a, b), (b, a)]);
            errors.extend(both_ways.filter_map(|pair| checked.alone(pair)));
            errors.extend(checked.tls_errors());
            errors.extend(checked.history_errors());
            errors.extend(checked.headers_from_nobody());
            errors.extend(check(&checked));
            errors.extend(checked.no_redis());
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        checked.lower_to_half("turn-publication-bytes-max", "send-queue-soft-bytes");
        checked.warnings.extend(checked.listen_warnings());
        for value in &checked.values {
            value.is_read.set(false);
        }
        Ok(checked)
    }

    /// The settings of every gateway ([`Rows::EVERY`]) with their defaults, for a program without a command
    /// line of this kind.
    pub fn defaults() -> Self {
        let rows = Rows::EVERY.settings();
        let typed = collect(rows, |_| None, &Env::default(), &mut Vec::new());
        match typed.and_then(|typed| Self::new(typed, Vec::new(), |_| Vec::new())) {
            Ok(checked) => checked,
            Err(errors) => unreachable!("a default is not allowed: {errors:?}"),
        }
    }

    /// Returns the values in the order of the table, for `--check`.
    pub fn values(&self) -> &[CheckedValue] {
        &self.values
    }

    /// Returns the warnings for the operator, to log once there is a log.
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }

    /// Returns the flag with the source of its value: `--port (env GATEWAY_PORT)`.
    pub fn named(&self, flag: &str) -> String {
        self.found(flag).named()
    }

    /// Returns the flags of all unread values: such a setting has no effect, and its row is wrong.
    pub fn unread(&self) -> Vec<&'static str> {
        let unread = self.values.iter().filter(|v| !v.is_read.get());
        unread.map(|v| v.setting.flag).collect()
    }

    /// Counts all settings that begin with `prefix` as read: settings of an unused bus.
    pub fn leave_unused(&self, prefix: &str) {
        let rows = self.values.iter();
        rows.filter(|v| v.setting.flag.starts_with(prefix))
            .for_each(|v| v.is_read.set(true));
    }

    /// Returns the error for a value of `flag` that a gateway's [`Check`] refuses.
    pub fn refused(&self, flag: &str, refused: &Refused) -> SettingsError {
        let found = self.found(flag);
        SettingsError::value(&found.setting, &found.source, refused)
    }

    fn order(&self, (low, high): (&'static str, &'static str)) -> Option<SettingsError> {
        let (low, high) = (self.find(low)?, self.find(high)?);
        let (&Value::Number(low_value), &Value::Number(high_value)) = (&low.value, &high.value)
        else {
            return None;
        };
        (low_value > high_value).then(|| SettingsError::Order {
            low: low.setting.flag,
            low_value,
            low_from: low.source.clone(),
            high: high.setting.flag,
            high_value,
            high_from: high.source.clone(),
        })
    }

    /// The first two of `flags` that are set.
    fn several(&self, flags: &[&str]) -> Option<SettingsError> {
        let mut set = flags.iter().filter_map(|flag| self.set(flag));
        let (one, other) = (set.next()?, set.next()?);
        Some(SettingsError::Either {
            one: one.named(),
            other: other.named(),
        })
    }

    fn alone(&self, (one, other): (&str, &'static str)) -> Option<SettingsError> {
        let found = self.set(one)?;
        self.set(other).is_none().then(|| SettingsError::Alone {
            one: found.named(),
            other,
        })
    }

    /// Returns the value, unless the value is the default.
    fn set(&self, flag: &str) -> Option<&CheckedValue> {
        self.find(flag).filter(|v| v.source != Source::Default)
    }

    /// More than half the soft limit in one part of a turn would make every client slow at once.
    fn lower_to_half(&mut self, flag: &str, of: &'static str) {
        let half = match self.find(of) {
            Some(CheckedValue {
                value: Value::Number(n),
                ..
            }) => n / 2,
            _ => return,
        };
        let lowered = self.values.iter_mut().find(|v| v.setting.flag == flag);
        if let Some(lowered) = lowered
            && matches!(lowered.value, Value::Number(n) if n > half)
        {
            lowered.value = Value::Number(half);
            lowered.source = Source::HalfOf(of);
        }
    }

    pub(super) fn find(&self, flag: &str) -> Option<&CheckedValue> {
        self.values.iter().find(|v| v.setting.flag == flag)
    }

    fn found(&self, flag: &str) -> &CheckedValue {
        match self.find(flag) {
            Some(found) => found,
            None => unreachable!("this gateway has no row for --{flag}"),
        }
    }

    fn value(&self, flag: &str) -> &Value {
        let found = self.found(flag);
        found.is_read.set(true);
        &found.value
    }

    /// Whether the gateway has this setting.
    pub fn has(&self, flag: &str) -> bool {
        self.find(flag).is_some()
    }

    /// Whether the value is from a flag or the environment, not the default. As for all functions below, the
    /// gateway must have the setting.
    pub fn is_set(&self, flag: &str) -> bool {
        self.found(flag).source != Source::Default
    }

    /// Returns a number. The range in the table keeps the number within `T`; the tests check the ranges.
    pub fn number<T: TryFrom<u64>>(&self, flag: &str) -> T {
        match self.value(flag) {
            &Value::Number(n) => match T::try_from(n) {
                Ok(n) => n,
                Err(_) => unreachable!("the range of --{flag} is wider than its type"),
            },
            other => unreachable!("--{flag} is no number: {other:?}"),
        }
    }

    /// Returns a number, or `None` for 0, the number for "off".
    pub fn unless_0<T: TryFrom<u64>>(&self, flag: &str) -> Option<T> {
        match self.number::<u64>(flag) {
            0 => None,
            _ => Some(self.number(flag)),
        }
    }

    /// Returns a setting in milliseconds as microseconds.
    pub fn micros(&self, flag: &str) -> u64 {
        1000 * self.number::<u64>(flag)
    }

    /// Returns the thousandths of a number with a fraction; 0 for a negative number.
    pub fn milli(&self, flag: &str) -> u64 {
        match self.value(flag) {
            &Value::Milli(milli) => u64::try_from(milli).unwrap_or(0),
            other => unreachable!("--{flag} is no number: {other:?}"),
        }
    }

    /// Returns the text of a row of any text, or of a form. A URL may have a secret in it.
    pub fn text(&self, flag: &str) -> String {
        match self.value(flag) {
            Value::Text(text) | Value::List(text) => text.clone(),
            Value::Urls(url) => url.expose().to_owned(),
            other => unreachable!("--{flag} is no text: {other:?}"),
        }
    }

    /// Returns a text, or `None` for an empty text.
    pub fn some_text(&self, flag: &str) -> Option<String> {
        Some(self.text(flag)).filter(|text| !text.is_empty())
    }

    /// Returns the value of a form's text. `read` must be the function that the form reads with.
    pub fn formed<T>(&self, flag: &str, read: impl FnOnce(&str) -> Option<T>) -> T {
        match read(&self.text(flag)) {
            Some(value) => value,
            None => unreachable!("--{flag} is not read as it is shown"),
        }
    }

    /// Whether a port is off.
    pub fn is_off(&self, flag: &str) -> bool {
        matches!(self.value(flag), Value::Choice(_))
    }

    /// Returns the path of a file, or `None` if the setting is empty.
    pub fn path(&self, flag: &str) -> Option<PathBuf> {
        self.some_text(flag).map(PathBuf::from)
    }

    /// Returns a secret, or `None` for an empty secret.
    pub fn secret(&self, flag: &str) -> Option<SecretText> {
        match self.value(flag) {
            Value::Secret(text) => Some(text.clone()).filter(|t| !t.expose().is_empty()),
            other => unreachable!("--{flag} is no secret: {other:?}"),
        }
    }

    /// Returns one or several URLs.
    pub fn url(&self, flag: &str) -> SecretUrl {
        match self.value(flag) {
            Value::Urls(urls) => urls.clone(),
            other => unreachable!("--{flag} is no URL: {other:?}"),
        }
    }

    /// Returns the state of a switch.
    pub fn switch(&self, flag: &str) -> bool {
        match self.value(flag) {
            &Value::Switch(on) => on,
            other => unreachable!("--{flag} is no switch: {other:?}"),
        }
    }

    /// Returns the chosen word.
    pub fn choice(&self, flag: &str) -> &'static str {
        match self.value(flag) {
            Value::Choice(word) => word,
            other => unreachable!("--{flag} is no choice: {other:?}"),
        }
    }

    /// Returns origins in the form of browsers; an empty list permits any origin.
    pub fn origins(&self, flag: &str) -> Vec<String> {
        match self.value(flag) {
            Value::Origins(origins) => origins.clone(),
            other => unreachable!("--{flag} is no list of origins: {other:?}"),
        }
    }

    /// Returns addresses and networks.
    pub fn networks(&self, flag: &str) -> TrustedProxies {
        match self.value(flag) {
            Value::Networks(networks) => networks.clone(),
            other => unreachable!("--{flag} is no list of networks: {other:?}"),
        }
    }
}

#[cfg(test)]
impl Checked {
    /// Flags without their dashes override the environment.
    pub(crate) fn of(
        rows: Rows,
        flags: &[(&str, &str)],
        env: &[(&str, &str)],
    ) -> Result<Self, String> {
        let typed = |name: &str| {
            let mut flags = flags.iter().filter(|(flag, _)| *flag == name);
            flags.next().map(|(_, text)| (*text).to_owned())
        };
        let env = Env::new(env.iter().copied());
        let mut warnings = Vec::new();
        collect(rows.settings(), typed, &env, &mut warnings)
            .and_then(|typed| Self::new(typed, warnings, |_| Vec::new()))
            .map_err(|errors| errors.iter().map(|error| format!("{error}\n")).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_that_nobody_asked_for_is_told() {
        let checked = Checked::defaults();
        let all = checked.values().len();
        assert_eq!(checked.unread().len(), all);
        assert!(checked.has("port") && !checked.is_set("port"));
        assert_eq!(
            checked.unread().len(),
            all,
            "to ask whether is not to ask for"
        );
        assert_eq!(
            checked.listen().first().and_then(|addr| addr.port()),
            Some(8000)
        );
        assert_eq!(checked.unread().len(), all - 2);
    }
}
