//! Streams that may be absent: subjects beside streams that weirgate makes only where one of the
//! streams exists already.
//!
//! The rule, for `NatsSettings::streams_optional`. As long as the server has none of the streams,
//! or the user may not ask for them, weirgate makes no stream and reads no subject of them. One
//! stream that exists makes all of them wanted, until the end of the process: from then on a missing
//! stream is made, as it is without the setting. Without an answer nothing is decided, and a later
//! attempt asks again.

use super::api::{Api, ApiError};
use super::connection::Link;
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
    /// None of the streams exists; the server is asked again and again.
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
    for stream in streams {
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
    /// Decides whether a subject is left out. The status and the log report each change.
    ///
    /// # Errors
    /// As [`look_for`]; the subject is undecided as before.
    pub(super) fn is_left_out(&mut self, index: usize, bus: &Link) -> Result<bool, NatsError> {
        let presence = |session: &Self| session.subscriptions.get(index).map(|s| s.presence);
        if presence(self) == Some(Presence::Wanted) {
            return Ok(false);
        }
        let found = look_for(&bus.api, &self.settings.streams)?;
        let mut others = self.subscriptions.iter().map(|s| s.presence);
        let was_left_out = others.any(Presence::is_left_out);
        match found {
            Presence::Wanted if was_left_out => tracing::info!(
                streams = self.optional_streams(),
                "one of these streams is there by now; their subjects are read too"
            ),
            Presence::LeftOut | Presence::Forbidden if !was_left_out => tracing::info!(
                streams = self.optional_streams(),
                is_forbidden = (found == Presence::Forbidden).then_some(true),
                "none of these streams is there; only the relays are read, and no stream is made \
                 (--market)"
            ),
            _ => {}
        }
        for (at, subscription) in self.subscriptions.iter_mut().enumerate() {
            let concerns = at == index || found == Presence::Wanted;
            if concerns && subscription.presence != Presence::Wanted {
                subscription.presence = found;
                if let Some(status) = of(&self.relay.status, subscription) {
                    status.set_left_out(found.is_left_out());
                }
            }
        }
        Ok(found.is_left_out())
    }

    fn optional_streams(&self) -> String {
        let names = self.settings.streams.iter().map(|s| s.name.as_str());
        names.collect::<Vec<_>>().join(" ")
    }
}
