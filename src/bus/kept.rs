//! The kept feed of a source, whose messages have a position: counted from a mark on a connection ([`CountedFeed`]), or read
//! from a stream of the bus, where they have ids ([`StreamFeed`]). What becomes of these messages in the loop is in
//! `core/kept_feed.rs`.

mod counted;
mod progress;
mod stream;

pub use self::counted::CountedFeed;
pub(crate) use self::progress::{Progress, SourceProgress};
#[cfg(test)]
pub(crate) use self::stream::tests::check_reports;
pub use self::stream::{KeptEvent, StreamFeed, StreamSettings};
pub(crate) use self::stream::{place_in, stored_at};
