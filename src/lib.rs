//! weirgate: one process between a message bus and WebSocket clients. This crate has the four gateways and the command
//! line; the parts are crates of their own, each in a folder of `src`.
//!
//! A contract with clients is here and nowhere else, in one folder of [`gateways`]; [`auth`] has the check of tokens
//! and the table of roles, `keys` the keys of tokens in files and at a URL, [`services`] the connections to HTTP
//! services. Sockets of clients and threads of buses are never here. Begin with `gateways/mod.rs`, then one folder.
//!
//! | crate | holds |
//! | --- | --- |
//! | [`weirgate_wire`] | codecs, admission, names and patterns; pure |
//! | [`weirgate_core`] | the hub: sessions, topics, send queues; pure |
//! | [`weirgate_runtime`] | what all threads share: clocks, wakers, the channel from a bus to the loop |
//! | [`weirgate_bus`] | the buses and their threads |
//! | [`weirgate_server`] | the event loop, listeners, TLS, HTTP, metrics, settings, the process |
//!
//! `ARCHITECTURE.md` beside `src` is the map. To build your own gateway, start with [`weirgate_core::Gateway`],
//! [`weirgate_core::Feed`] and [`weirgate_server::run::Parts`]; `examples/ticker.rs` is a complete example.

pub mod auth;
pub mod commands;
pub mod gateways;
mod keys;
pub mod services;
