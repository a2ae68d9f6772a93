//! Values that every crate uses: an instant on both clocks, seeded random numbers, a budget of log lines, texts for people, a
//! hash table and lists that grow a little at a time.

mod extendible_map;
mod in_chunks;
mod plain_text;
mod pure;
mod secret;

pub use extendible_map::ExtendibleMap;
pub use in_chunks::{ChunkedQueue, ChunkedSlab};
pub use plain_text::{Finding, escaped, escaped_bytes, is_host, unix_socket_url, without_mark};
pub use pure::{LogBudget, LogLine, Now, SplitMix64, allocated_bytes};
pub use secret::Secret;
