//! Which service an event or a path is for, and the paths between the gateway and its services.

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
