//! The client side of each contract: permission to connect, first messages, client messages.
//!
//! A gateway acts on the hub's core and knows nothing of sockets, brokers or HTTP.

#![cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::disallowed_types))]

mod access;
pub mod channels;
pub mod events;
mod history;
mod levels;
mod members;
mod trades;

pub use access::{AccessStats, Count};
pub use levels::{DemoGateway, LevelsGateway, LevelsPath, TabQuestion, pace, tab_name};
pub use trades::{CandleSettings, CandleStats, TradesGateway, TradesGatewaySettings, TradesStats};
