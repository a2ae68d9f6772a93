//! `weirgate channels`.

use std::path::PathBuf;

use super::super::error::Warning;
use super::super::typed::Source;
use super::{AuthSettings, Checked, CommonSettings, RedisSettings};

/// `weirgate channels`.
#[derive(Clone, Debug, PartialEq)]
pub struct ChannelsSettings {
    /// What every gateway has.
    pub common: CommonSettings,
    /// Where Redis is.
    pub redis: RedisSettings,
    /// What tokens are checked with.
    pub auth: AuthSettings,
    /// Names that a client may hold.
    pub channels_max: usize,
    /// Patterns that a client may hold.
    pub patterns_max: usize,
    /// Messages that a client may send, a second.
    pub inbound_per_second: u32,
    /// Data messages that a client gets, a second: only where somebody set it.
    pub outbound_per_second: Option<u32>,
    /// The role of who brings none.
    pub default_role: String,
    /// The table of who may do what; `None`: the built-in one.
    pub acl_file: Option<PathBuf>,
}

impl Checked {
    /// The settings of `weirgate channels`.
    pub fn channels(&self, warnings: Vec<Warning>) -> ChannelsSettings {
        let per_second = "messages-per-second-max";
        let rate = self.number(per_second);
        let is_default = |flag| self.find(flag).is_some_and(|v| v.source == Source::Default);
        ChannelsSettings {
            common: self.common(warnings),
            redis: self.redis(),
            auth: self.auth(),
            channels_max: self.number("channels-max"),
            patterns_max: self.number("wildcards-max"),
            inbound_per_second: rate,
            outbound_per_second: (!is_default(per_second)).then_some(rate),
            default_role: self.text("default-role"),
            acl_file: self.acl_file(),
        }
    }

    /// The file of the table, for `--print-acl`.
    pub fn acl_file(&self) -> Option<PathBuf> {
        self.path("acl")
    }
}
