//! Small readers and writers of NATS, JetStream and Redis: one TCP connection, a reused buffer, and no other thread. A
//! limit or a relay therefore costs little more than the system calls, and a publisher leaves the CPU to the measured server.

mod address;
mod jetstream;
mod nats;
mod outlet;
mod redis;
mod subscriber;
mod wire;

use clap::ValueEnum;
use serde::Serialize;

use address::Address;
pub(crate) use outlet::Outlet;
pub(crate) use subscriber::Subscriber;
pub(crate) use wire::Read;

use crate::launch::BusKind;

/// The way of the messages to a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Bus {
    /// A core subscription on NATS
    Nats,
    /// A push consumer of a stream on NATS, with acknowledgements in groups, as of weirgate levels
    Jetstream,
    /// A subscription on Redis, to a pattern if the subject has a `*`
    Redis,
}

impl Bus {
    /// The program of the bus.
    pub(crate) fn kind(self) -> BusKind {
        match self {
            Self::Nats | Self::Jetstream => BusKind::Nats,
            Self::Redis => BusKind::Redis,
        }
    }
}
