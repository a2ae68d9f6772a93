//! Which service an event is for.

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
