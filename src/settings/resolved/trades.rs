//! `weirgate trades`.

use super::super::error::Warning;
use super::{AuthSettings, Checked, CommonSettings, RedisSettings};

/// `weirgate trades`.
#[derive(Clone, Debug, PartialEq)]
pub struct TradesSettings {
    /// What every gateway has.
    pub common: CommonSettings,
    /// Where Redis is.
    pub redis: RedisSettings,
    /// What tokens are checked with.
    pub auth: AuthSettings,
    /// Symbols that a connection may hold.
    pub symbols_max: usize,
    /// Messages that a client may send, a second; `None` for no limit.
    pub inbound_per_second: Option<u32>,
    /// What the environment is called at the start.
    pub node_env: String,
    /// Time between log lines with the numbers of `/stats`; `None` for none.
    pub stats_log_interval_ms: Option<u64>,
}

impl Checked {
    /// The settings of `weirgate trades`.
    pub fn trades(&self, warnings: Vec<Warning>) -> TradesSettings {
        TradesSettings {
            common: self.common(warnings),
            redis: self.redis(),
            auth: self.auth(),
            symbols_max: self.number("symbols-max"),
            inbound_per_second: self.unless_0("messages-per-second-max"),
            node_env: self.text("node-env"),
            stats_log_interval_ms: self.unless_0("stats-log-interval-ms"),
        }
    }
}
