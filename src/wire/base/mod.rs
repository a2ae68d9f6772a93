//! Values that every crate uses: an instant on both clocks, seeded random numbers, a budget of log lines, texts for
//! people, a hash table and lists that grow a little at a time.

mod escape;
mod extendible_map;
mod finding;
mod in_chunks;
mod pure;
mod secret;
mod settings_text;

pub use escape::{escaped, escaped_bytes};
pub use extendible_map::ExtendibleMap;
pub use finding::Finding;
pub use in_chunks::{ChunkedQueue, ChunkedSlab};
pub use pure::{LogBudget, Now, SplitMix64, allocated_bytes};
pub use secret::Secret;
pub use settings_text::{is_host, unix_socket_url, without_bom};
