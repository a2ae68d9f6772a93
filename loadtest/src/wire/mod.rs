//! As much of RFC 6455 as a measuring client and the raw limit need, over memory.

pub(crate) mod deflate;
pub(crate) mod handshake;
pub(crate) mod parser;
