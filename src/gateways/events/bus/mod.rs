//! Pushes between instances: a push that one instance takes reaches the devices of all.
//!
//! Every instance has a random id and says once a second that it is there. A push is published once,
//! with the id of its instance and a number; the others deliver it to their own devices and answer
//! with their counts. Nothing is stored, and nothing is published again.
//!
//! Pure: bytes from the bus and time go in, [`Action`]s come out. Must not know a broker. Called by
//! the thread between HTTP, the loop and the bus (`kinds/events/bus`).
//!
//! | file | owns |
//! | --- | --- |
//! | `mod` | the types of the seam |
//! | `exchange` | what is published, delivered and answered, and when |
//! | `instances` | who is there, duplicates, pushes in parts |
//! | `message` | the form of what is published |
//! | `stats` | counts |

mod exchange;
mod instances;
mod message;
mod stats;

use std::sync::Arc;

pub use self::exchange::Exchange;
pub use self::message::{LINE_BYTES_MAX, MESSAGE_BYTES_MAX, PART_BYTES_MAX};
pub use self::stats::BusStats;

/// The id of an instance, random at each start: letters, digits, `-` and `_`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InstanceId(Arc<str>);

impl InstanceId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for InstanceId {
    fn from(id: &str) -> Self {
        Self(id.into())
    }
}

/// Settings of an [`Exchange`].
#[derive(Clone, Debug)]
pub struct ExchangeSettings {
    /// How long a push waits for the answers of other instances, microseconds.
    pub wait_us: u64,
    /// Bytes of one message on the bus; a larger push is published in parts.
    pub message_bytes_max: usize,
    /// Bytes of one push of another instance.
    pub push_bytes_max: usize,
    /// Instances, this one included.
    pub instances_max: usize,
}

/// What the thread around an [`Exchange`] has to do, in this order.
#[derive(Debug, PartialEq, Eq)]
pub enum Action {
    /// Publish these bytes; `number` is that of a push, for [`Exchange::unsent`].
    Publish {
        /// The instances that should read it.
        to: To,
        /// The whole message.
        bytes: Vec<u8>,
        /// Of which push it is, if it is of one.
        number: Option<u64>,
    },
    /// Deliver the push with this body to the devices of this instance, and report with
    /// [`Exchange::delivered`].
    Deliver {
        /// The instance that has taken the push.
        origin: InstanceId,
        /// Counted by that instance.
        number: u64,
        /// As a service has sent it.
        body: Vec<u8>,
    },
    /// Tell the service what became of its push in the other instances.
    Tell {
        /// Of the push, from [`Exchange::push`].
        number: u64,
        /// What became of it.
        outcome: Outcome,
    },
}

/// Who should read a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum To {
    /// Every instance, this one too.
    All,
    /// One instance.
    Instance(InstanceId),
}

/// What became of a push in the other instances.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The bus was there for the whole time.
    pub is_up: bool,
    /// Deliveries in the instances that have answered.
    pub sent: u64,
    /// How many have answered.
    pub answered: usize,
    /// Those that have not, in the order of their ids.
    pub missing: Vec<InstanceId>,
}
