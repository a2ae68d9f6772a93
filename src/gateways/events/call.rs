//! What the gateway asks of services and what comes of it: which service an event or a path is for, and the paths
//! between the gateway and its services.

use std::fmt;
use std::sync::Arc;

use crate::hub::Frame;
use crate::wire::traceparent::Trace;

/// A request to a service.
#[derive(Clone, Debug)]
pub struct Call {
    /// Chosen by the gateway, comes back with the reply.
    pub id: u64,
    /// Which service is called.
    pub service: Service,
    /// The request body.
    pub body: Vec<u8>,
    /// Which trace it belongs to.
    pub trace: Trace,
    /// Reads what comes of it.
    pub reader: Reader,
}

/// Makes frames of what comes of a call. Whoever makes the call reads, and not the loop: an answer
/// may be large, and nobody but its client should wait for it. Pure, as all of a gateway is.
#[derive(Clone)]
pub struct Reader(Arc<dyn Fn(Result<Answer, CallFailure>) -> ForClient + Send + Sync>);

/// What the client of a call gets: an answer, or an error in its place.
pub type ForClient = Result<Arc<Frame>, Arc<Frame>>;

impl Reader {
    /// One that reads like this.
    pub fn new(
        read: impl Fn(Result<Answer, CallFailure>) -> ForClient + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(read))
    }

    /// What comes back to the loop of the call `id`.
    pub fn read(&self, id: u64, outcome: Result<Answer, CallFailure>) -> Reply {
        let failure = outcome.as_ref().err().copied();
        Reply {
            id,
            failure,
            frame: (self.0)(outcome),
        }
    }
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reader")
    }
}

/// What came of a [`Call`].
#[derive(Clone, Debug)]
pub struct Reply {
    /// Of the call.
    pub id: u64,
    /// Why there is no answer, where there is none.
    pub failure: Option<CallFailure>,
    /// What the call's [`Reader`] made of it.
    pub frame: ForClient,
}

/// A service's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Media type, empty if none was given.
    pub content_type: String,
    /// The whole body.
    pub body: Vec<u8>,
}

/// Why a call has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallFailure {
    /// No answer in time.
    Timeout,
    /// Refused, cut, or nonsense.
    Unreachable,
    /// The answer is over its limit.
    TooLarge,
}

/// Where a service takes calls: `POST`, below the path of its URL.
pub const CALL_PATH: &str = "/gateway/handle";

/// Where services push events.
pub const BROADCAST_PATH: &str = "/internal/broadcast";

/// The first parts of paths that services keep for the gateway and among themselves: no client
/// reaches them (contract events, section "Proxy").
pub const INNER_PATHS: [&str; 2] = ["gateway", "internal"];

/// A service behind the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// `LOBBY_URL`.
    Lobby,
    /// `MEASUREMENT_URL`.
    Measurement,
    /// `SIMULATION_URL`.
    Simulation,
}

impl Service {
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

    /// Paths of clients that belong to this service (contract events, section "Proxy"): the path
    /// as a route has it, and the start that the service's path does not have.
    pub const fn proxied(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Lobby => &[],
            Self::Measurement => &[("/v1/measurement/{path}", ""), ("/v1/jobs/{path}", "")],
            Self::Simulation => &[("/v1/simulation/{path}", "/v1/simulation")],
        }
    }

    /// Where an event goes; `None` for one that nobody handles. Measurement sessions have a state
    /// that the lobby keeps, measurement jobs have none.
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
        use Service::{Lobby, Measurement, Simulation};
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
            assert_eq!(Service::of(event), service, "{event}");
        }
        for (number, service) in Service::ALL.into_iter().enumerate() {
            assert_eq!(service as usize, number);
        }
    }
}
