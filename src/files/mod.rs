//! Files in settings: small files, read whole, and the keys of tokens, read again after a change. The keys
//! may be at a URL too.

mod key_fetches;
mod key_url;
mod keys;
mod prints;
mod small;

pub use key_fetches::{KeyFetchStats, KeyFetches};
pub use key_url::KeyUrl;
pub use keys::{KeyFileError, KeyFiles, KeysChanged, KeysInForce};
pub(crate) use prints::Prints;
pub(crate) use small::{read, read_again};
