//! Tokens, roles, origins, rate limits: judged here, held nowhere.
//!
//! Pure: time is handed in. Called by the gateways, and by the hub for outbound rates.

#![cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::disallowed_types))]

mod origins;
mod rate_limit;

pub use origins::Origins;
pub use rate_limit::TokenBucket;
