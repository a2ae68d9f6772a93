//! Tokens, roles, origins, rate limits, limits by address: judged here.
//!
//! Pure: time is handed in. Called by the gateways, and by the hub for outbound rates and for what
//! one address may have.

#![cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::disallowed_types))]

mod acl;
mod address_limits;
mod client_address;
mod glob;
mod keys;
mod origins;
mod rate_limit;
mod token;
mod verify;

pub use acl::{Acl, AclError};
pub use address_limits::{AddressLimits, AddressPlace, AddressRefusal, Addresses, address_group};
pub use client_address::{Network, NoNetwork, TrustedProxies};
pub use glob::{Glob, GlobError, is_pattern};
pub use keys::{Algorithm, ApiKey, KEYS_MAX, KeyError, KeyRing, KeySet};
pub use origins::Origins;
pub use rate_limit::TokenBucket;
pub use token::{Token, bearer_protocol, first_protocol};
pub use verify::{Authenticator, ClaimRules, Identity, Refusal, TOKEN_BYTES_MAX};
