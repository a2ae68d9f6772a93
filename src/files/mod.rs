//! Files in settings: small files, read whole, and the keys of tokens, read again after a change.

mod keys;
mod small;

pub use keys::{KeyFileError, KeyFiles, KeysChanged, KeysInForce};
pub(crate) use small::{read, read_again};
