//! `weirgate events`.

use std::path::PathBuf;

use super::super::error::Warning;
use super::super::kind::Value;
use super::super::secret::SecretText;
use super::{Checked, CommonSettings};
use crate::http::services::Upstream;

/// A message is refused from `MAX_MESSAGE_BYTES` on; its connection ends only from the larger of
/// this and four times that (contract events, row `message_too_large`).
const CLOSE_BYTES_MIN: usize = 1024 * 1024;

/// `weirgate events`.
#[derive(Clone, Debug, PartialEq)]
pub struct EventsSettings {
    /// What every gateway has.
    pub common: CommonSettings,
    /// Where `lobby.*` is handled.
    pub lobby: Upstream,
    /// Where jobs of `measurement.*` are handled.
    pub measurement: Upstream,
    /// Where `simulation.*` is handled.
    pub simulation: Upstream,
    /// Certificates to trust in place of the system's.
    pub ca_file: Option<PathBuf>,
    /// What a service has to show to push.
    pub internal_token: Option<SecretText>,
    /// For connecting to a service, and for each of its silences.
    pub http_timeout_ms: u64,
    /// Calls at once.
    pub calls_max: usize,
    /// One answer to a call.
    pub answer_bytes_max: usize,
    /// For connecting to a service for the proxy, and for each of its silences.
    pub proxy_silence_timeout_ms: u64,
    /// Connections of the proxy to one service at once.
    pub proxy_connections_max: usize,
    /// The body of one broadcast.
    pub broadcast_bytes_max: usize,
    /// One message from a client; `common` has the size from which its connection ends.
    pub message_bytes_max: usize,
    /// Thousandths of a message that a connection may send, a second.
    pub rate_per_second_milli: u64,
    /// Messages of a connection at once.
    pub rate_burst: u32,
    /// Messages of clients that have gone.
    pub orphans_max: usize,
}

impl Checked {
    /// The settings of `weirgate events`.
    pub fn events(&self, warnings: Vec<Warning>) -> EventsSettings {
        let mut common = self.common(warnings);
        let message_bytes_max = common.limits.message_bytes_max;
        common.limits.message_bytes_max = CLOSE_BYTES_MIN.max(4 * message_bytes_max);
        EventsSettings {
            common,
            lobby: self.service("lobby-url"),
            measurement: self.service("measurement-url"),
            simulation: self.service("simulation-url"),
            ca_file: self.path("upstream-ca-file"),
            internal_token: self.secret("internal-auth-token"),
            http_timeout_ms: self.milli("http-timeout-s"),
            calls_max: self.number("calls-max"),
            answer_bytes_max: self.number("upstream-answer-bytes-max"),
            proxy_silence_timeout_ms: self.number("proxy-silence-timeout-ms"),
            proxy_connections_max: self.number("proxy-connections-max"),
            broadcast_bytes_max: self.number("broadcast-bytes-max"),
            message_bytes_max,
            rate_per_second_milli: self.milli("rate-limit-rps"),
            rate_burst: self.burst(),
            orphans_max: self.number("orphans-max"),
        }
    }

    /// A part of a message is none.
    fn burst(&self) -> u32 {
        let whole = self.milli("rate-limit-burst") / 1000;
        u32::try_from(whole).unwrap_or(u32::MAX).max(1)
    }

    fn service(&self, flag: &str) -> Upstream {
        match self.value(flag) {
            Value::Service(upstream) => upstream.clone(),
            other => unreachable!("--{flag} is no service: {other:?}"),
        }
    }
}
