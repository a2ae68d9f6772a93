//! The part of RFC 6455 for a measuring client and the raw limit, over memory.

pub(crate) mod deflate;
pub(crate) mod handshake;
pub(crate) mod parser;
