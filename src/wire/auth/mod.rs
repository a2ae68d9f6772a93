//! Checks tokens with their keys, roles with their permissions, and origins.
//!
//! Pure: the time is an argument, and keys come as texts. Called by the gateways.

mod acl;
mod claims;
mod glob;
mod glob_set;
mod key_ring;
mod keys;
mod match_budget;
mod names;
mod origins;
mod remembered;
mod rights;
mod subject;
mod template;
mod token;
mod verify;

pub use acl::{Acl, AclChanges, Undecided, UnfilledName};
pub use glob::{Glob, is_pattern};
pub use key_ring::KeyRing;
pub use keys::KeySet;
pub use match_budget::{MatchBudget, OverBudget};
pub use names::{NameError, NamePatterns, NameSyntax};
pub use origins::Origins;
pub use remembered::Remembered;
pub use rights::{Rights, RightsCheck, TokenNameLimits};
pub use subject::Subject;
pub use token::{ApiKey, Token, TokenMarks, bearer_protocol, first_protocol};
pub use verify::{Authenticator, ClaimRules, Identity, Refusal, RefusedToken, TOKEN_BYTES_MAX};
