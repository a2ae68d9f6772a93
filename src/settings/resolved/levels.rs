//! `weirgate levels` and its demo.

use super::super::endpoint::EndpointSettings;
use super::super::error::{SettingsError, Warning};
use super::super::kind::Value;
use super::super::relay::RelaySettings;
use super::super::secret::SecretUrl;
use super::{Checked, CommonSettings};
use crate::feeds::levels::KEYS;

/// `weirgate levels`.
#[derive(Clone, Debug, PartialEq)]
pub struct LevelsSettings {
    /// What every gateway has.
    pub common: CommonSettings,
    /// NATS servers, with commas between them; shown without the secret.
    pub nats_url: SecretUrl,
    /// Unnamed consumers instead of the durables.
    pub ephemeral: bool,
    /// More subjects.
    pub relays: Vec<RelaySettings>,
    /// More paths for clients.
    pub endpoints: Vec<EndpointSettings>,
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
    /// More paths for clients.
    pub endpoints: Vec<EndpointSettings>,
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
            relays: self.relays().to_vec(),
            endpoints: self.endpoints().to_vec(),
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
            endpoints: self.endpoints().to_vec(),
            session_length_min: self.number("session-length-min"),
        }
    }

    /// Endpoints that send keys which nothing fills.
    pub(super) fn unknown_keys(&self) -> Vec<SettingsError> {
        let Some(endpoints) = self.find("endpoint") else {
            return Vec::new();
        };
        let relayed = self.relays().iter().map(|relay| relay.key.as_str());
        let known: Vec<_> = KEYS.into_iter().chain(relayed).collect();
        let refused = self
            .endpoints()
            .iter()
            .filter_map(|e| e.unknown_key(&known));
        refused
            .map(|r| SettingsError::value(endpoints.setting, &endpoints.source, &r))
            .collect()
    }

    /// None on a subcommand without them.
    fn relays(&self) -> &[RelaySettings] {
        match self.find("relay").map(|found| &found.value) {
            Some(Value::Relays(relays)) => relays,
            _ => &[],
        }
    }

    /// None on a subcommand without them.
    fn endpoints(&self) -> &[EndpointSettings] {
        match self.find("endpoint").map(|found| &found.value) {
            Some(Value::Endpoints(endpoints)) => endpoints,
            _ => &[],
        }
    }
}
