//! Bus bytes to publications: parse, normalise, cache, encode once.
//!
//! One feed per process. Each feed is the only place that knows the bus side of its contract's JSON;
//! no feed knows a client, a socket or a broker. Called through [`crate::hub::Feed`].

#![cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::disallowed_types))]

mod bad_log;
mod bus;
pub mod channels;
pub mod levels;
pub mod trades;

pub(crate) use crate::hub::fnv_1a;
pub use crate::hub::{Mark, Place, Point, Position, StoredId};
pub use bus::{BusEvent, BusMessage, Fault, NoFeed, StreamPosition, Subscription, TooLarge};
