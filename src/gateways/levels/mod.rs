//! `weirgate levels` and `weirgate demo`: the newest state of each topic, from NATS JetStream or a simulated market.

pub mod client;
pub mod feed;
mod pages;
mod relay;
mod settings;
mod slow_line;
pub(super) mod start;
