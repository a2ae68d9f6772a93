//! The checks of values against each other. Each value alone is allowed by its kind.

use super::Checked;
use super::error::SettingsError;
use super::groups::{RedisAccess, TlsSettings};
use super::kind::{RefusedValue, Value};
use super::listen::ListenSettings;
use crate::flag;
use weirgate_core::Limits;

/// Pairs of settings: the first value must not be larger than the second.
pub(super) const ORDERS: &[(&str, &str)] = &[
    (
        flag!("send-queue-soft-bytes"),
        flag!("send-queue-hard-bytes"),
    ),
    (flag!("send-queue-hard-bytes"), flag!("frame-bytes-max")),
    (flag!("bus-message-bytes-max"), flag!("frame-bytes-max")),
    (flag!("message-bytes-max"), flag!("unfinished-bytes")),
    (
        flag!("send-queue-conflate-after-ms"),
        flag!("send-queue-stall-ms"),
    ),
];

/// The ways to log in to NATS. At most one of them may be set.
const NATS_USERS: [&str; 4] = [
    flag!("nats-user"),
    flag!("nats-token"),
    flag!("nats-creds"),
    flag!("nats-nkey"),
];

/// Pairs of settings: if only one of the two is set, the start fails.
const PAIRS: &[(&str, &str)] = &[
    (flag!("tls-port"), flag!("tls-cert")),
    (flag!("tls-cert"), flag!("tls-key")),
    (flag!("nats-user"), flag!("nats-password")),
    (flag!("nats-cert"), flag!("nats-key")),
    (flag!("redis-cert"), flag!("redis-key")),
    (flag!("redis-sentinels"), flag!("redis-sentinel-master")),
];

/// The least time for which messages are kept: on a quiet name, the position that a client has is up to 10 s old.
const HISTORY_US_MIN: u64 = 20_000_000;

impl Checked {
    /// All contradictions that a gateway of any contract may have.
    pub(super) fn contradictions(&self) -> Vec<SettingsError> {
        let orders = ORDERS.iter();
        let orders = orders.filter_map(|&(low, high)| self.order_error(low, high));
        let mut errors: Vec<_> = orders.collect();
        errors.extend(self.several_error(&NATS_USERS));
        let both_ways = PAIRS.iter().flat_map(|&(a, b)| [(a, b), (b, a)]);
        errors.extend(both_ways.filter_map(|(one, other)| self.unpaired_error(one, other)));
        errors.extend(self.tls_errors());
        errors.extend(self.processes_errors());
        errors.extend(self.history_errors());
        errors.extend(self.headers_from_nobody_error());
        errors.extend(self.cookie_of_any_page_error());
        errors
    }

    /// The error of two values of which the first is larger than the second.
    fn order_error(&self, low: &str, high: &str) -> Option<SettingsError> {
        let (low, high) = (self.find(low)?, self.find(high)?);
        let (&Value::Number(low_value), &Value::Number(high_value)) = (&low.value, &high.value)
        else {
            return None;
        };
        (low_value > high_value).then(|| {
            let (low, low_from) = (low.setting.name(), &low.source);
            let (high, high_from) = (high.setting.name(), &high.source);
            SettingsError::new(format!(
                "{low} is {low_value} ({low_from}); allowed: at most {high}, {high_value} ({high_from})"
            ))
        })
    }

    /// The error of several set values of which only one may be set. Names the first two.
    fn several_error(&self, flags: &[&str]) -> Option<SettingsError> {
        let mut set = flags.iter().filter_map(|flag| self.if_set(flag));
        let (one, other) = (set.next()?, set.next()?);
        let (one, other) = (one.named(), other.named());
        let words = format!("{one} and {other} are both set; allowed: one of them");
        Some(SettingsError::new(words))
    }

    /// The error of a value that is set without the other.
    fn unpaired_error(&self, one: &str, other: &str) -> Option<SettingsError> {
        let one = self.if_set(one)?.named();
        let words = format!("{one} is set without --{other}; allowed: both or none");
        self.if_set(other)
            .is_none()
            .then(|| SettingsError::new(words))
    }

    /// The errors in the settings of the history: messages are kept for a shorter time than the position of a quiet
    /// name may be old, or may take more memory than half of `--frame-bytes-max`.
    fn history_errors(&self) -> Vec<SettingsError> {
        let limits = self.get::<Limits>();
        let history = limits.history;
        let mut errors = Vec::new();
        if history.keep_us == 0 {
            if self.stream().is_some() {
                let refused = RefusedValue::new("0", "at least 20000, with --stream");
                errors.push(self.refused(flag!("history-ms"), &refused));
            }
            return errors;
        }
        if history.keep_us < HISTORY_US_MIN {
            let shown = (history.keep_us / 1000).to_string();
            let refused = RefusedValue::new(&shown, "0, or at least 20000");
            errors.push(self.refused(flag!("history-ms"), &refused));
        }
        if history.bytes_max as u64 > limits.frame_bytes_max / 2 {
            let allowed = "at most half of --frame-bytes-max";
            let refused = RefusedValue::new(&history.bytes_max.to_string(), allowed);
            errors.push(self.refused(flag!("history-bytes-max"), &refused));
        }
        errors
    }

    /// The errors in the settings of TLS and ports: not as many keys as certificates, or no address to listen on.
    fn tls_errors(&self) -> Vec<SettingsError> {
        let mut errors = Vec::new();
        let tls = self.get::<TlsSettings>();
        let [certificates, keys] = [&tls.certificates, &tls.keys].map(Vec::len);
        if certificates != keys && keys > 0 {
            let allowed = format!("as many files as --tls-cert, {certificates}");
            errors.push(self.refused_whole(flag!("tls-key"), allowed));
        }
        let listen = self.get::<ListenSettings>();
        if listen.addrs().is_empty() && listen.tls_port.is_none() {
            let allowed = "a port, unless --tls-port or a unix socket in --listen is set";
            errors.push(self.refused(flag!("port"), &RefusedValue::new("off", allowed)));
        }
        errors
    }

    /// Returns an error if no setting names Redis, on a gateway without a default host.
    pub(super) fn no_redis_error(&self) -> Option<SettingsError> {
        let url = self.find(flag!("redis-url"))?;
        let redis = self.get::<RedisAccess>();
        let is_named = [&redis.url, &redis.sentinels].map(|url| !url.expose().is_empty());
        (is_named == [false, false] && redis.host.is_none())
            .then(|| SettingsError::missing(&url.setting, &url.setting.kind.allowed()))
    }
}
