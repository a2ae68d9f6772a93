//! Streams that may be absent: subjects beside streams that weirgate makes only where one of the
//! streams exists already.
//!
//! The rule, for `NatsSettings::streams_optional`. As long as the server has none of the streams,
//! or the user may not ask for them, weirgate makes no stream and reads no subject of them. One
//! stream that exists makes all of them wanted, until the end of the process: from then on a missing
//! stream is made, as it is without the setting. Without an answer nothing is decided, and a later
//! attempt asks again. Once the subjects are left out, only the watchdog asks, so that no silence
//! about these streams keeps the relays waiting.

use std::time::Instant;

use super::api::{Api, ApiError};
use super::consumers::asked;
use super::error::NatsError;
use super::session::{Session, of};
use super::settings::StreamSpec;

/// Whether the subject of an optional stream is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Presence {
    /// Read, and the stream made if missing.
    Wanted,
    /// Not decided yet.
    Undecided,
    /// None of the streams exists; the watchdog asks again and again.
    LeftOut,
    /// This user may not ask for a stream; the next connection asks again.
    Forbidden,
}

impl Presence {
    pub(super) fn new(is_optional: bool) -> Self {
        match is_optional {
            true => Self::Undecided,
            false => Self::Wanted,
        }
    }

    pub(super) fn is_left_out(self) -> bool {
        matches!(self, Self::LeftOut | Self::Forbidden)
    }
}

/// Looks for the streams. Never [`Presence::Undecided`].
///
/// # Errors
/// The server did not answer about a stream, and no other stream exists.
pub(super) fn look_for(api: &Api, streams: &[StreamSpec]) -> Result<Presence, NatsError> {
    let (mut found, mut unanswered) = (Presence::LeftOut, None);
    let hasty = api.hasty();
    for stream in streams {
        // Only the first silence is waited for in full.
        let api = if unanswered.is_none() { api } else { &hasty };
        match api.stream_info(&stream.name) {
            Ok(_) => return Ok(Presence::Wanted),
            Err(error) if error.stream_is_missing() => {}
            Err(error) if error.is_of_all() => unanswered = Some((stream, error)),
            // Without this permission the stream could not be read either.
            Err(ApiError::NotPermitted(_)) => found = Presence::Forbidden,
            Err(error) => unanswered = unanswered.or(Some((stream, error))),
        }
    }
    match unanswered {
        None => Ok(found),
        Some((stream, error)) => Err(asked(format!("tell of the stream {}", stream.name), error)),
    }
}

impl Session<'_> {
    /// Whether a subject is left out. Asks the server, unless the subject is wanted already; the
    /// answer is about all optional subjects.
    ///
    /// # Errors
    /// As [`look_for`]; nothing is decided.
    pub(super) fn is_left_out(&mut self, index: usize, api: &Api) -> Result<bool, NatsError> {
        if self.subscriptions[index].presence == Presence::Wanted {
            return Ok(false);
        }
        let found = look_for(api, &self.settings.streams)?;
        self.tell_presence(found);
        for subscription in self.subscriptions.iter_mut() {
            if subscription.presence == Presence::Wanted {
                continue;
            }
            subscription.presence = found;
            let status = of(&self.relay.status, subscription);
            if let Some(status) = status {
                status.set_left_out(found.is_left_out());
            }
            // An attempt without an answer may have failed before.
            if found.is_left_out() {
                subscription.attempts.succeeded(Instant::now());
                if let Some(status) = status {
                    status.set_attached();
                }
            }
        }
        Ok(found.is_left_out())
    }

    /// Logs a change.
    fn tell_presence(&self, found: Presence) {
        let mut subscriptions = self.subscriptions.iter();
        let was_left_out = subscriptions.any(|s| s.presence.is_left_out());
        let names = self.settings.streams.iter().map(|s| s.name.as_str());
        let streams = names.collect::<Vec<_>>().join(" ");
        match (found.is_left_out(), was_left_out) {
            (false, true) => tracing::info!(
                streams,
                "one of these streams is there by now; their subjects are read too"
            ),
            (true, false) => tracing::info!(
                streams,
                is_forbidden = (found == Presence::Forbidden).then_some(true),
                "none of these streams is there; only the relays are read, and no stream is made \
                 (--market)"
            ),
            _ => {}
        }
    }
}
