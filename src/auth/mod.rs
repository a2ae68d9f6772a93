//! Tokens, roles, origins, rate limits, limits by address: judged here.
//!
//! Pure: time is handed in. Called by the gateways, and by the hub for outbound rates and for what
//! one address may have.

#![cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::disallowed_types))]

mod address_limits;
mod client_address;
mod origins;
mod rate_limit;

pub use address_limits::{AddressLimits, AddressPlace, AddressRefusal, Addresses};
pub use client_address::{Network, NoNetwork, TrustedProxies};
pub use origins::Origins;
pub use rate_limit::TokenBucket;
