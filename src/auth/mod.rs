//! Tokens, roles, origins, rate limits: judged here, held nowhere.
//!
//! Pure: time is handed in. Called by the gateways, and by the hub for outbound rates.

mod origins;
mod rate_limit;

pub use origins::Origins;
pub use rate_limit::TokenBucket;
