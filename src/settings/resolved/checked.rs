//! The values of one subcommand, each allowed, and fitting together.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use super::super::error::SettingsError;
use super::super::kind::Value;
use super::super::secret::SecretText;
use super::super::setting::Setting;
use super::super::typed::{Source, Typed};

/// Values that must not be larger than others.
const ORDERS: &[(&str, &str)] = &[
    ("send-queue-soft-bytes", "send-queue-hard-bytes"),
    ("send-queue-hard-bytes", "frame-bytes-max"),
    ("bus-message-bytes-max", "frame-bytes-max"),
    ("send-queue-conflate-after-ms", "send-queue-stall-ms"),
];

/// Ways to show NATS who one is: at most one of them.
const NATS_USERS: &[&str] = &["nats-user", "nats-token", "nats-creds", "nats-nkey"];

/// Values that are of no use without each other.
const PAIRS: &[(&str, &str)] = &[
    ("nats-user", "nats-password"),
    ("nats-password", "nats-user"),
    ("nats-cert", "nats-key"),
    ("nats-key", "nats-cert"),
    ("redis-sentinels", "redis-sentinel-master"),
    ("redis-sentinel-master", "redis-sentinels"),
];

/// The values of one subcommand, each allowed, and fitting together.
#[derive(Debug)]
pub struct Checked(Vec<CheckedValue>);

/// One value and its source.
#[derive(Debug)]
pub struct CheckedValue {
    /// The row of the table.
    pub setting: &'static Setting,
    /// The value; it shows itself without secrets.
    pub value: Value,
    /// Where it came from.
    pub source: Source,
}

impl Checked {
    /// Reads everything that was typed.
    ///
    /// # Errors
    /// All values that are not allowed, or else all that do not fit together.
    pub fn new(typed: Vec<Typed>) -> Result<Self, Vec<SettingsError>> {
        let mut values = Vec::new();
        let mut errors = Vec::new();
        for typed in typed {
            match typed.read() {
                Ok(value) => values.push(CheckedValue {
                    setting: typed.setting,
                    value,
                    source: typed.source,
                }),
                Err(error) => errors.push(error),
            }
        }
        let mut checked = Self(values);
        if errors.is_empty() {
            errors.extend(ORDERS.iter().filter_map(|&pair| checked.order(pair)));
            errors.extend(checked.several(NATS_USERS));
            errors.extend(PAIRS.iter().filter_map(|&pair| checked.alone(pair)));
            errors.extend(checked.unknown_keys());
            errors.extend(checked.no_redis());
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        checked.lower_to_half("turn-publication-bytes-max", "send-queue-soft-bytes");
        Ok(checked)
    }

    /// The values in the table's order, for `--check`.
    pub fn values(&self) -> &[CheckedValue] {
        &self.0
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
            one: one.setting.flag,
            one_from: one.source.clone(),
            other: other.setting.flag,
            other_from: other.source.clone(),
        })
    }

    fn alone(&self, (one, other): (&'static str, &'static str)) -> Option<SettingsError> {
        let found = self.set(one)?;
        self.set(other).is_none().then(|| SettingsError::Alone {
            one,
            one_from: found.source.clone(),
            other,
        })
    }

    /// The value, if it was given: one whose default is empty.
    pub(super) fn set(&self, flag: &str) -> Option<&CheckedValue> {
        self.find(flag).filter(|v| v.source != Source::Default)
    }

    /// More in one part of a turn than half the soft limit would make every client slow at once.
    fn lower_to_half(&mut self, flag: &str, of: &'static str) {
        let half = match self.find(of) {
            Some(CheckedValue {
                value: Value::Number(n),
                ..
            }) => n / 2,
            _ => return,
        };
        let lowered = self.0.iter_mut().find(|v| v.setting.flag == flag);
        if let Some(lowered) = lowered
            && matches!(lowered.value, Value::Number(n) if n > half)
        {
            lowered.value = Value::Number(half);
            lowered.source = Source::HalfOf(of);
        }
    }

    pub(super) fn find(&self, flag: &str) -> Option<&CheckedValue> {
        self.0.iter().find(|v| v.setting.flag == flag)
    }

    pub(super) fn value(&self, flag: &str) -> &Value {
        match self.find(flag) {
            Some(found) => &found.value,
            None => unreachable!("the table has no row for --{flag} on this subcommand"),
        }
    }

    /// A number; the table's range keeps it within `T`, which the tests hold.
    pub(super) fn number<T: TryFrom<u64>>(&self, flag: &str) -> T {
        match self.value(flag) {
            &Value::Number(n) => match T::try_from(n) {
                Ok(n) => n,
                Err(_) => unreachable!("the range of --{flag} is wider than its type"),
            },
            other => unreachable!("--{flag} is no number: {other:?}"),
        }
    }

    /// A number that not every subcommand has; 0 on one without it.
    pub(super) fn number_or_0<T: TryFrom<u64> + Default>(&self, flag: &str) -> T {
        let has = self.find(flag).is_some();
        if has { self.number(flag) } else { T::default() }
    }

    /// The thousandths of a number with a fraction; a negative one counts as 0.
    pub(super) fn milli(&self, flag: &str) -> u64 {
        match self.value(flag) {
            &Value::Milli(milli) => u64::try_from(milli).unwrap_or(0),
            other => unreachable!("--{flag} is no number: {other:?}"),
        }
    }

    /// The text of a row that takes any.
    pub(super) fn text(&self, flag: &str) -> String {
        match self.value(flag) {
            Value::Text(text) => text.clone(),
            other => unreachable!("--{flag} is no text: {other:?}"),
        }
    }

    /// A text; `None` when it is empty.
    pub(super) fn some_text(&self, flag: &str) -> Option<String> {
        Some(self.text(flag)).filter(|text| !text.is_empty())
    }

    /// A file; `None` when none is named.
    pub(super) fn path(&self, flag: &str) -> Option<PathBuf> {
        self.some_text(flag).map(PathBuf::from)
    }

    /// A secret; `None` when it is empty.
    pub(super) fn secret(&self, flag: &str) -> Option<SecretText> {
        match self.value(flag) {
            Value::Secret(text) => Some(text.clone()).filter(|t| !t.expose().is_empty()),
            other => unreachable!("--{flag} is no secret: {other:?}"),
        }
    }

    /// A number that switches something off when it is 0.
    pub(super) fn unless_0<T: TryFrom<u64>>(&self, flag: &str) -> Option<T> {
        match self.number::<u64>(flag) {
            0 => None,
            _ => Some(self.number(flag)),
        }
    }

    pub(super) fn switch(&self, flag: &str) -> bool {
        matches!(self.value(flag), Value::Switch(true))
    }

    /// The address to listen on, with its port.
    pub fn listen(&self) -> SocketAddr {
        let addr = match self.value("listen") {
            &Value::Addr(addr) => addr,
            _ => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        };
        SocketAddr::new(addr, self.number("port"))
    }

    /// How long a health check waits.
    pub fn health_timeout_ms(&self) -> u64 {
        self.number("health-timeout-ms")
    }
}
