//! Requests to services and their outcome: the service of an event or a path, and the paths between the
//! gateway and its services.

use std::fmt;
use std::sync::Arc;

use crate::hub::Frame;
use crate::wire::traceparent::Trace;

/// A request to a service.
#[derive(Clone, Debug)]
pub struct Call {
    /// The gateway's id of the call; the reply has the same id.
    pub id: u64,
    /// The called service.
    pub service: EventsService,
    /// The request body.
    pub body: Vec<u8>,
    /// The trace of the call.
    pub trace: Trace,
    /// Reads the outcome.
    pub reader: AnswerReader,
}

/// Makes frames from the outcome of a call. The caller reads, not the loop: an answer may be large, and only
/// its client should wait. Pure, as the whole gateway is.
#[derive(Clone)]
pub struct AnswerReader(Arc<dyn Fn(Result<ServiceAnswer, CallFailure>) -> ForClient + Send + Sync>);

/// The message for the client of a call: an answer, or an error.
pub type ForClient = Result<Arc<Frame>, Arc<Frame>>;

impl AnswerReader {
    /// Makes a reader from this function.
    pub fn new(
        read: impl Fn(Result<ServiceAnswer, CallFailure>) -> ForClient + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(read))
    }

    /// Makes the reply of the call `id` for the loop.
    pub fn read(&self, id: u64, outcome: Result<ServiceAnswer, CallFailure>) -> Reply {
        let failure = outcome.as_ref().err().copied();
        Reply {
            id,
            failure,
            frame: (self.0)(outcome),
        }
    }
}

impl fmt::Debug for AnswerReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reader")
    }
}

/// The outcome of a [`Call`].
#[derive(Clone, Debug)]
pub struct Reply {
    /// The id of the call.
    pub id: u64,
    /// Why there is no answer, if there is none.
    pub failure: Option<CallFailure>,
    /// The frame from the call's [`AnswerReader`].
    pub frame: ForClient,
}

/// A service's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceAnswer {
    /// HTTP status.
    pub status: u16,
    /// Media type, empty if absent.
    pub content_type: String,
    /// The whole body.
    pub body: Vec<u8>,
    /// The content coding that the body still has, because it is not known here (RFC 9110 §8.4).
    pub unknown_coding: Option<String>,
}

/// Why a call has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallFailure {
    /// No answer in time.
    Timeout,
    /// The connection was refused or cut, or the response was malformed.
    Unreachable,
    /// The answer exceeds the limit.
    TooLarge,
}

/// The path of calls to a service: `POST`, below the path of the service's URL.
pub const CALL_PATH: &str = "/gateway/handle";

/// The path at which services push events.
pub const BROADCAST_PATH: &str = "/internal/broadcast";

/// The first parts of the paths that services reserve for the gateway and for each other: no client reaches
/// these paths (contract events, section "Proxy").
pub const INNER_PATHS: [&str; 2] = ["gateway", "internal"];

/// A service behind the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventsService {
    /// `LOBBY_URL`.
    Lobby,
    /// `MEASUREMENT_URL`.
    Measurement,
    /// `SIMULATION_URL`.
    Simulation,
}

impl EventsService {
    /// All services, in the order of their numbers.
    pub const ALL: [Self; 3] = [Self::Lobby, Self::Measurement, Self::Simulation];

    /// The metric label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Lobby => "lobby",
            Self::Measurement => "measurement",
            Self::Simulation => "simulation",
        }
    }

    /// Paths of clients for this service (contract events, section "Proxy"): the path of the route, and the
    /// prefix that the gateway removes for the service.
    pub const fn proxied(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Lobby => &[],
            Self::Measurement => &[("/v1/measurement/{path}", ""), ("/v1/jobs/{path}", "")],
            Self::Simulation => &[("/v1/simulation/{path}", "/v1/simulation")],
        }
    }

    /// The service of an event; `None` for an unknown event. The lobby keeps the state of measurement
    /// sessions; measurement jobs have no state.
    pub(super) fn of(event: &str) -> Option<Self> {
        let (family, name) = event.split_once('.')?;
        match (family, name) {
            ("lobby" | "role", _) => Some(Self::Lobby),
            ("measurement", "create_job" | "get_job" | "get_audio_info") | ("analysis", _) => {
                Some(Self::Measurement)
            }
            ("measurement", _) => Some(Self::Lobby),
            ("simulation", _) => Some(Self::Simulation),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_paths_of_services_are_among_the_inner_ones() {
        for path in [CALL_PATH, BROADCAST_PATH] {
            let first = path.split('/').nth(1).expect("a first part");
            assert!(INNER_PATHS.contains(&first), "{path}");
        }
    }

    #[test]
    fn events_go_to_their_services() {
        use EventsService::{Lobby, Measurement, Simulation};
        for (event, service) in [
            ("lobby.create", Some(Lobby)),
            ("lobby.", Some(Lobby)),
            ("role.assign.x", Some(Lobby)),
            ("measurement.create_job", Some(Measurement)),
            ("measurement.get_job", Some(Measurement)),
            ("measurement.get_audio_info", Some(Measurement)),
            ("measurement.get_job.x", Some(Lobby)),
            ("measurement.ready", Some(Lobby)),
            ("analysis.run", Some(Measurement)),
            ("simulation.run", Some(Simulation)),
            ("lobby", None),
            ("Lobby.create", None),
            ("lobbyx.create", None),
            (".lobby", None),
            ("identify", None),
        ] {
            assert_eq!(EventsService::of(event), service, "{event}");
        }
        for (number, service) in EventsService::ALL.into_iter().enumerate() {
            assert_eq!(service as usize, number);
        }
    }
}
