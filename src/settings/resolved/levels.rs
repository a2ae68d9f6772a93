//! `weirgate levels` and its demo.

use super::super::error::Warning;
use super::super::kind::Value;
use super::super::secret::SecretUrl;
use super::{Checked, CommonSettings};

/// `weirgate levels`.
#[derive(Clone, Debug, PartialEq)]
pub struct LevelsSettings {
    /// What every gateway has.
    pub common: CommonSettings,
    /// NATS servers, with commas between them; shown without the secret.
    pub nats_url: SecretUrl,
    /// Unnamed consumers instead of the durables.
    pub ephemeral: bool,
    /// Minutes from the open at which `bars_since_open` stops.
    pub session_length_min: u32,
}

/// `weirgate demo`.
#[derive(Clone, Debug, PartialEq)]
pub struct DemoSettings {
    /// What every gateway has.
    pub common: CommonSettings,
    /// Price levels in each message.
    pub levels: usize,
    /// Messages a second.
    pub rate_hz: u32,
    /// Start of the random numbers.
    pub seed: u64,
    /// Minutes from the open at which `bars_since_open` stops.
    pub session_length_min: u32,
}

impl Checked {
    /// The settings of `weirgate levels`.
    pub fn levels(&self, warnings: Vec<Warning>) -> LevelsSettings {
        LevelsSettings {
            common: self.common(warnings),
            nats_url: match self.value("nats-url") {
                Value::Urls(urls) => urls.clone(),
                other => unreachable!("--nats-url is no URL: {other:?}"),
            },
            ephemeral: self.switch("ephemeral"),
            session_length_min: self.number("session-length-min"),
        }
    }

    /// The settings of `weirgate demo`.
    pub fn demo(&self, warnings: Vec<Warning>) -> DemoSettings {
        DemoSettings {
            common: self.common(warnings),
            levels: self.number("levels"),
            rate_hz: self.number("rate-hz"),
            seed: self.number("seed"),
            session_length_min: self.number("session-length-min"),
        }
    }
}
