//! weirgate: one process between a message bus and WebSocket clients.
//!
//! Three words for the style: pure core, thin shell, named limits. `ARCHITECTURE.md` beside `src` is
//! the map: what each module holds, what each must never do, and the way of a message through them.
//!
//! To build a gateway of your own, start with [`hub::Gateway`], [`hub::Feed`] and [`run::Parts`];
//! `examples/ticker.rs` is a whole one.

pub mod admission;
pub mod auth;
pub mod build_info;
pub mod clock;
pub mod commands;
pub mod feeds;
pub mod finding;
pub mod gateways;
pub mod http;
pub mod hub;
pub mod key_files;
pub mod kinds;
pub mod listening;
pub mod log_budget;
pub mod queue_bytes;
pub mod random;
pub mod reactor;
pub mod run;
pub mod settings;
mod small_files;
pub mod sources;
pub mod spin;
pub mod telemetry;
pub mod trust;
mod wake;
pub mod wire;
