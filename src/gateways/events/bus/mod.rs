//! Pushes between instances: a push to one instance reaches the devices of all instances.
//!
//! Every instance has a random id and announces it once a second. A push is published once, with the id of its instance
//! and a number. The other instances deliver it to their own devices, and answer with the number of deliveries. Nothing
//! is stored, and nothing is published again.
//!
//! Pure: bytes from the bus and time go in, [`ExchangeAction`]s come out. Must not know a broker. The thread between
//! HTTP, the loop and the bus calls it (`open`, `thread`).
//!
//! | file | owns |
//! | --- | --- |
//! | `mod` | the types of the interface, and counters |
//! | `exchange` | publishing, delivering and answering, with all deadlines |
//! | `instances` | present instances, duplicates, pushes in parts |
//! | `message` | the form of the messages |
//! | `open`, `connect`, `thread`, `reading` | the shell: the handle, the connections, the thread between HTTP, the loop and the bus, and the one that reads large pushes |

mod connect;
mod exchange;
mod instances;
mod message;
pub(super) mod open;
mod reading;
mod thread;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use crate::gateways::shared::counts::{Count, labelled};

pub use self::exchange::Exchange;
pub(crate) use self::message::{LINE_BYTES_MAX, PART_BYTES_MAX};

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
    /// The most bytes of a message on the bus; a larger push is published in parts.
    pub message_bytes_max: usize,
    /// The most bytes of a push of another instance.
    pub push_bytes_max: usize,
    /// The most instances, this instance included.
    pub instances_max: usize,
}

impl Default for ExchangeSettings {
    fn default() -> Self {
        Self {
            wait_us: 250_000,
            message_bytes_max: 1_000_000,
            push_bytes_max: 64 * 1024 * 1024,
            instances_max: 1_024,
        }
    }
}

/// Work for the thread around an [`Exchange`], which must do it in this order.
#[derive(Debug, PartialEq, Eq)]
pub enum ExchangeAction {
    /// Publish these messages in this order, or none of them.
    Publish {
        /// The instances that should read the messages.
        to: To,
        /// One message, or the parts of a push.
        messages: Vec<Vec<u8>>,
        /// For a push: its number, for [`Exchange::note_published`].
        number: Option<u64>,
    },
    /// Deliver the push with this body to the devices of this instance, and report with
    /// [`Exchange::delivered`].
    Deliver {
        /// The instance that took the push.
        origin: InstanceId,
        /// The number of the push, as the origin counts.
        number: u64,
        /// The body from the service.
        body: Vec<u8>,
    },
    /// Report the outcome of a push in the other instances to the service.
    Tell {
        /// The number from [`Exchange::push`].
        number: u64,
        /// The outcome in the other instances.
        outcome: PushOutcome,
    },
}

/// The readers of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum To {
    /// Every instance, this one too.
    All,
    /// A single instance.
    Instance(InstanceId),
}

/// The outcome of a push in the other instances.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PushOutcome {
    /// Whether the bus carried messages for the whole time.
    pub is_up: bool,
    /// Deliveries in the instances that have answered.
    pub sent: u64,
    /// Count of the instances that have answered.
    pub answered: usize,
    /// The instances without an answer, in the order of their ids. If there are more instances than allowed, one of those
    /// beyond is always here.
    pub missing: Vec<InstanceId>,
}

/// Why a message from the bus had no effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ignored {
    /// Not a message of an instance, or a push that cannot be read.
    Bad,
    /// This part of the push, or a later part or push, arrived before.
    Duplicate,
    /// A part of a push without the parts before it.
    Incomplete,
    /// The message or its push is larger than this instance accepts.
    TooLarge,
    /// The instance that sent the message is over the limit of instances.
    Instances,
}

impl Ignored {
    const ALL: [Self; 5] = [
        Self::Bad,
        Self::Duplicate,
        Self::Incomplete,
        Self::TooLarge,
        Self::Instances,
    ];

    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Bad => "bad",
            Self::Duplicate => "duplicate",
            Self::Incomplete => "incomplete",
            Self::TooLarge => "too_large",
            Self::Instances => "instances",
        }
    }
}

/// Counters of the bus between instances, for metrics and pages. The thread of the exchange is the only writer.
#[derive(Debug, Default)]
pub struct BusStats {
    /// Pushes that wait for the answers of other instances.
    pub waiting: Count,
    /// Pushes published for other instances.
    pub sent: Count,
    /// Pushes of other instances.
    pub received: Count,
    /// Pushes that another instance did not answer, or that arrived while the bus was away.
    pub incomplete: Count,
    /// Pushes refused because too many waited.
    pub refused: Count,
    /// Messages that arrived faster than this instance read them, pushes that did not arrive, and outages of the bus.
    pub lost: Count,
    /// Times when pushes of another instance may have been lost, and only that instance can know it.
    doubts: Count,
    is_up: AtomicBool,
    /// The other instances that are present.
    others: Count,
    ignored: [Count; Ignored::ALL.len()],
}

impl BusStats {
    /// Whether the messages of this instance come back from the bus.
    pub fn is_up(&self) -> bool {
        self.is_up.load(Relaxed)
    }

    /// Present instances, this one included.
    pub fn instances(&self) -> u64 {
        1 + self.others.get()
    }

    /// Counts a push refused because too many waited.
    pub fn count_refused(&self) {
        self.refused.add(1);
    }

    /// Counts lost messages of the bus; an unknown number counts as 1.
    pub fn count_lost(&self, messages: Option<u64>) {
        self.lost.add(messages.unwrap_or(1));
    }

    /// A number that changes whenever a push of another instance may have been lost.
    pub fn losses(&self) -> u64 {
        let ignored: u64 = self.ignored.iter().map(Count::get).sum();
        self.lost.get() + self.doubts.get() + ignored
    }

    /// Messages from the bus without effect, by reason.
    pub fn ignored(&self) -> impl Iterator<Item = (&'static str, u64)> {
        labelled(Ignored::ALL.map(Ignored::word), &self.ignored)
    }
}
