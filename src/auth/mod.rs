//! Who a client is and which names it may have: tokens and their keys, roles and their permissions. Begin with
//! [`Authenticator`] for tokens, with [`Rights`] for names.
//!
//! | file | owns |
//! | --- | --- |
//! | `verify`, `claims`, `token` | the check of a token; the claims in it; the token in a request |
//! | `key_ring`, `keys` | the keys in force, and the key for a token |
//! | `rights`, `acl`, `template` | the names of a user: by the roles of the table, made from claims, and in the token |
//! | `remembered`, `verdicts` | a cache that forgets what is not used; remembered verdicts on patterns |
//!
//! Pure: the time is an argument, and keys come as texts. Called by the gateways. How names match is in
//! [`weirgate_wire::auth`], where the crates below find it too.

#![cfg_attr(
    not(test),
    deny(
        clippy::disallowed_macros,
        clippy::disallowed_methods,
        clippy::disallowed_types
    )
)]

mod acl;
mod claims;
mod key_ring;
mod keys;
mod remembered;
mod rights;
mod template;
mod token;
mod verdicts;
mod verify;

pub use acl::{Acl, Undecided};
pub(crate) use acl::{AclChanges, UnfilledName};
pub use claims::TokenClaims;
pub use key_ring::KeyRing;
pub use keys::KeySet;
pub(crate) use remembered::Remembered;
pub use rights::{Rights, RightsCheck, TokenNameLimits};
pub use token::{ApiKey, Token};
pub(crate) use token::{bearer_protocol, first_protocol};
pub(crate) use verify::RefusedToken;
pub use verify::{Authenticator, Identity};
