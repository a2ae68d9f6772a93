//! The limit on the size of bus messages, the same for every feed.

use thiserror::Error;

/// A message over the limit.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{bytes} bytes are more than the allowed {bytes_max}")]
pub struct TooLarge {
    bytes: usize,
    bytes_max: usize,
}

/// # Errors
/// The payload has more bytes than are allowed.
pub(super) fn check_size(payload: &[u8], bytes_max: usize) -> Result<(), TooLarge> {
    let bytes = payload.len();
    if bytes > bytes_max {
        return Err(TooLarge { bytes, bytes_max });
    }
    Ok(())
}
