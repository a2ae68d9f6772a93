//! The client side of each contract: who may connect, what they get at once, what they may say.
//!
//! A gateway acts on the hub's core and knows nothing of sockets, brokers or HTTP.

#![cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::disallowed_types))]

pub mod channels;
mod levels;

pub use levels::{LevelsGateway, LevelsPath};
