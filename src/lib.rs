//! weirgate: one process between a message bus and WebSocket clients.
//!
//! The style in short: pure core, thin shell, named limits. `ARCHITECTURE.md` beside `src` is the map: the content
//! and the limits of each module, and the path of a message through the modules.
//!
//! To build your own gateway, start with [`hub::Gateway`], [`hub::Feed`] and [`run::Parts`];
//! `examples/ticker.rs` is a complete example.

pub mod admission;
pub mod auth;
pub mod base;
pub mod commands;
pub mod feeds;
pub mod gateways;
pub mod http;
pub mod hub;
pub mod kinds;
pub mod listening;
pub mod reactor;
pub mod run;
pub mod settings;
pub mod sources;
pub mod telemetry;
pub mod wire;
